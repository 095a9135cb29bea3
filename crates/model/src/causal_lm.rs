//! The model as a whole.

use std::path::Path;

use crate::modules::LinearLayer;
use tch::{Device, Kind, Tensor, no_grad_guard};

use crate::adapter::Adapter;
use crate::batch::PackedBatch;
use crate::cache::{CachedSequences, KvCache};
use crate::config::ModelConfig;
use crate::dropout::DropoutKey;
use crate::error::ModelError;
use crate::init::fresh_weights;
use crate::layer::{Block, Pass};
use crate::lora::LoraPass;
use crate::norm::RmsNorm;
use crate::rope::Rope;
use crate::weights::{EMBEDDING, FINAL_NORM, HEAD, Weights, linear_path};

/// In which number formats a model is kept and run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Precision {
    /// Of the weights.
    pub weights: Kind,
    /// Of activations and products. Norms, rotary angles and softmax are float32 inside in any case.
    pub compute: Kind,
}

impl Precision {
    /// One format for both: for a frozen base.
    #[must_use]
    pub const fn uniform(kind: Kind) -> Self {
        Self {
            weights: kind,
            compute: kind,
        }
    }

    /// float32 weights under another compute format: for training all weights, since bfloat16 weights lose small updates.
    #[must_use]
    pub const fn master(compute: Kind) -> Self {
        Self {
            weights: Kind::Float,
            compute,
        }
    }
}

/// New tokens of one sequence in one inference pass.
#[derive(Debug)]
pub struct SequenceStep<'a> {
    /// The whole prompt, or a part of it, or the one token that was sampled last.
    pub tokens: &'a [u32],
    /// What the sequence has seen so far.
    pub cache: &'a mut KvCache,
    /// The adapter, in the model's compute format ([`Adapter::frozen`]); the same one for all steps of a cache.
    pub adapter: Option<&'a Adapter>,
}

/// Rows of one inference pass, int64.
struct StepLayout {
    tokens: Tensor,
    positions: Tensor,
    /// Each sequence's last row.
    last_rows: Tensor,
}

/// A causal language model of Llama's shape.
#[derive(Debug)]
pub struct CausalLm {
    config: ModelConfig,
    precision: Precision,
    device: Device,
    rope: Rope,
    /// `[vocab, hidden]`.
    embedding: Tensor,
    pub(crate) blocks: Vec<Block>,
    norm: RmsNorm,
    /// `[vocab, hidden]`; `None` where the embedding serves.
    head: Option<Tensor>,
}

impl CausalLm {
    /// Loads a folder in Hugging Face's layout: `config.json` and safetensors weights, single or sharded.
    ///
    /// # Errors
    /// The configuration is not supported, or the weights do not fit it: every misfit is named.
    pub fn load(folder: &Path, device: Device, precision: Precision) -> Result<Self, ModelError> {
        let config = ModelConfig::from_folder(folder)?;
        let weights = Weights::load(folder, &config, device, precision.weights)?;
        Self::assemble(config, weights, device, precision)
    }

    /// A model with fresh random weights: the same for the same configuration and seed.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn fresh(
        config: ModelConfig,
        seed: u64,
        device: Device,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        let weights = fresh_weights(&config, seed, device, precision.weights)?;
        Self::assemble(config, weights, device, precision)
    }

    fn assemble(
        config: ModelConfig,
        mut weights: Weights,
        device: Device,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        let rope = Rope::new(&config, device, precision.compute)?;
        let blocks = (0..config.layers)
            .map(|number| Block::take(&mut weights, &config, number))
            .collect();
        Ok(Self {
            rope,
            embedding: weights.take(EMBEDDING),
            blocks,
            norm: RmsNorm::new(weights.take(FINAL_NORM), config.rms_norm_eps),
            head: (!config.tie_word_embeddings).then(|| weights.take(HEAD)),
            config,
            precision,
            device,
        })
    }

    /// The model's shape.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where the weights are.
    #[must_use]
    pub fn device(&self) -> Device {
        self.device
    }

    /// The number formats.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Every weight by its Hugging Face name, in the order of a forward pass.
    #[must_use]
    pub fn parameters(&self) -> Vec<(String, &Tensor)> {
        let mut parameters = vec![(EMBEDDING.to_owned(), &self.embedding)];
        for (number, block) in self.blocks.iter().enumerate() {
            let prefix = format!("model.layers.{number}");
            parameters.push((
                format!("{prefix}.input_layernorm.weight"),
                &block.attention_norm.weight,
            ));
            parameters.push((
                format!("{prefix}.post_attention_layernorm.weight"),
                &block.mlp_norm.weight,
            ));
            for linear in LinearLayer::ALL {
                let (part, path) = (&block.linears[linear as usize], linear_path(linear));
                parameters.push((format!("{prefix}.{path}.weight"), &part.weight));
                parameters.extend(
                    part.bias
                        .as_ref()
                        .map(|bias| (format!("{prefix}.{path}.bias"), bias)),
                );
            }
        }
        parameters.push((FINAL_NORM.to_owned(), &self.norm.weight));
        parameters.extend(self.head.as_ref().map(|head| (HEAD.to_owned(), head)));
        parameters
    }

    /// Makes every weight a leaf that collects gradients (full-parameter training), or freezes all.
    ///
    /// # Errors
    /// LibTorch refused.
    pub fn set_trainable(&self, trainable: bool) -> Result<(), ModelError> {
        for (_, parameter) in self.parameters() {
            let _ = parameter.f_set_requires_grad(trainable)?;
        }
        Ok(())
    }

    /// The residual stream behind the last norm, `[total, hidden]`, rows in the caller's order. Training's forward pass:
    /// gradients flow to whatever requires them, so guard evaluation with `tch::no_grad_guard()`.
    ///
    /// `dropout` says where in the run this pass is; it acts only where the adapter has a dropout probability.
    ///
    /// # Errors
    /// A token is outside the vocabulary, or LibTorch refused, most often for want of memory.
    pub fn hidden(
        &self,
        batch: &PackedBatch,
        adapter: Option<&Adapter>,
        dropout: Option<DropoutKey>,
    ) -> Result<Tensor, ModelError> {
        self.check_token(batch.largest_token)?;
        let mut attention = batch;
        let lora = LoraPass::uniform(adapter, batch.total(), dropout);
        let hidden = self.run(&batch.tokens, &batch.positions, &mut attention, lora)?;
        match &batch.restore {
            Some(restore) => Ok(hidden.f_index_select(0, restore)?),
            None => Ok(hidden),
        }
    }

    /// Scores of the next token, `[rows, vocab]` in the compute format, for rows of [`Self::hidden`]: pass only those
    /// that are needed, since the vocabulary is wide.
    ///
    /// # Errors
    /// LibTorch refused, most often for want of memory.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        Ok(hidden.f_linear(&head.f_to_kind(self.precision.compute)?, None::<&Tensor>)?)
    }

    /// An empty cache for one sequence, with room for `capacity` tokens; it grows when more come.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new_cache(&self, capacity: usize) -> Result<KvCache, ModelError> {
        KvCache::new(&self.config, capacity, self.device, self.precision.compute)
    }

    /// Inference's forward pass: reads each sequence's new tokens and returns the scores of what follows its last one,
    /// float32 `[sequences, vocab]`. Prompts and single tokens, with and without adapters, may be mixed.
    ///
    /// On an error no cache has changed.
    ///
    /// # Errors
    /// There is no sequence, one has no new tokens, a token is outside the vocabulary, or LibTorch refused.
    pub fn step(&self, sequences: &mut [SequenceStep<'_>]) -> Result<Tensor, ModelError> {
        let _guard = no_grad_guard();
        let layout = self.lay_out(sequences)?;
        let lora = LoraPass::by_rows(
            sequences
                .iter()
                .map(|part| (part.tokens.len() as i64, part.adapter)),
        );
        let mut attention = CachedSequences {
            sequences: sequences
                .iter()
                .map(|part| (part.tokens.len() as i64, &*part.cache))
                .collect(),
        };
        let hidden = self.run(&layout.tokens, &layout.positions, &mut attention, lora)?;
        let last = hidden.f_index_select(0, &layout.last_rows)?;
        let logits = self.logits(&last)?.f_to_kind(Kind::Float)?;
        for sequence in sequences {
            sequence.cache.advance(sequence.tokens.len() as i64);
        }
        Ok(logits)
    }

    /// Lays the new tokens end to end, and makes room for them in the caches.
    fn lay_out(&self, sequences: &mut [SequenceStep<'_>]) -> Result<StepLayout, ModelError> {
        let (mut tokens, mut positions, mut last_rows) = (Vec::new(), Vec::new(), Vec::new());
        for sequence in sequences {
            let Some(&largest) = sequence.tokens.iter().max() else {
                return Err(ModelError::InvalidBatch(
                    "a sequence has no new tokens".to_owned(),
                ));
            };
            self.check_token(largest)?;
            sequence.cache.reserve(sequence.tokens.len() as i64)?;
            let seen = sequence.cache.len() as i64;
            positions.extend((0..sequence.tokens.len() as i64).map(|new| seen + new));
            tokens.extend(sequence.tokens.iter().map(|&token| i64::from(token)));
            last_rows.push(tokens.len() as i64 - 1);
        }
        if tokens.is_empty() {
            return Err(ModelError::InvalidBatch("no sequences".to_owned()));
        }
        let on_device = |values: &[i64]| Tensor::f_from_slice(values)?.f_to_device(self.device);
        Ok(StepLayout {
            tokens: on_device(&tokens)?,
            positions: on_device(&positions)?,
            last_rows: on_device(&last_rows)?,
        })
    }

    fn run<'a>(
        &'a self,
        tokens: &Tensor,
        positions: &Tensor,
        attention: &'a mut dyn crate::attention::Attend,
        lora: LoraPass<'a>,
    ) -> Result<Tensor, ModelError> {
        let embedded = Tensor::f_embedding(&self.embedding, tokens, -1, false, false)?;
        let mut x = embedded.f_to_kind(self.precision.compute)?;
        let mut pass = Pass {
            rotation: self.rope.rotation(positions)?,
            attention,
            lora,
        };
        for block in &self.blocks {
            x = block.forward(&x, &mut pass)?;
        }
        self.norm.forward(&x)
    }

    /// An index out of range would poison a CUDA context, so it is caught here.
    fn check_token(&self, token: u32) -> Result<(), ModelError> {
        if i64::from(token) < self.config.vocab_size {
            return Ok(());
        }
        Err(ModelError::TokenOutOfRange {
            token,
            vocabulary: self.config.vocab_size,
        })
    }
}
