//! The model as a whole.

use std::path::Path;

use tch::{Device, Kind, Tensor, no_grad_guard};
use tunesmith_torch_ext::kernels::narrow_linear;

use crate::adapter::Adapter;
use crate::attention::Attend;
use crate::cache::{CachedSequence, CachedSequences, KvCache};
use crate::config::ModelConfig;
use crate::dropout::DropoutKey;
use crate::error::ModelError;
use crate::init::FreshWeights;
use crate::layer::{Block, Pass};
use crate::lora::LoraPass;
use crate::norm::RmsNorm;
use crate::rotation::{Places, Rope};
use crate::serving::ServingPass;
use crate::weights::{EMBEDDING, FINAL_NORM, HEAD, Loader, TensorSource, WeightFiles};

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

impl SequenceStep<'_> {
    /// Tokens of the sequence after this pass.
    fn length(&self) -> usize {
        self.cache.len() + self.tokens.len()
    }
}

/// Rows of one inference pass, int64.
struct StepLayout {
    tokens: Tensor,
    positions: Tensor,
    /// Of each token's sequence, with the new tokens.
    lengths: Tensor,
    /// Each sequence's last row.
    last_rows: Tensor,
    /// Each sequence's first place in this pass.
    starts: Vec<i64>,
}

/// A causal language model of Llama's shape.
#[derive(Debug)]
pub struct CausalLm {
    pub(crate) config: ModelConfig,
    precision: Precision,
    device: Device,
    /// One per [`ModelConfig::ropes`].
    pub(crate) ropes: Vec<Rope>,
    /// `[vocab, hidden]`.
    pub(crate) embedding: Tensor,
    pub(crate) blocks: Vec<Block>,
    pub(crate) final_norm: RmsNorm,
    /// `[vocab, hidden]`; `None` where the embedding serves.
    pub(crate) head: Option<Tensor>,
}

impl CausalLm {
    /// Loads a folder in Hugging Face's layout: `config.json` and safetensors weights, single or sharded.
    ///
    /// # Errors
    /// The configuration is not supported, or the weights do not fit it: every misfit is named.
    pub fn load(folder: &Path, device: Device, precision: Precision) -> Result<Self, ModelError> {
        let config = ModelConfig::from_folder(folder)?;
        let files = WeightFiles::open(folder, &config)?;
        Self::assemble(&config, &files, device, precision)
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
        let source = FreshWeights {
            config: &config,
            seed,
        };
        Self::assemble(&config, &source, device, precision)
    }

    fn assemble(
        config: &ModelConfig,
        source: &dyn TensorSource,
        device: Device,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        let loader = Loader {
            source,
            config,
            device,
            kind: precision.weights,
        };
        let table = [config.vocab_size, config.hidden_size];
        Ok(Self {
            ropes: config
                .ropes
                .iter()
                .map(|settings| Rope::new(settings, device))
                .collect::<Result<_, _>>()?,
            embedding: loader.tensor(EMBEDDING, &table)?,
            blocks: (0..config.layers)
                .map(|number| Block::load(&loader, number))
                .collect::<Result<_, _>>()?,
            final_norm: loader.norm(FINAL_NORM.trim_end_matches(".weight"), config.hidden_size)?,
            head: (!config.tie_word_embeddings)
                .then(|| loader.tensor(HEAD, &table))
                .transpose()?,
            config: config.clone(),
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

    /// Scores of the next token, `[rows, vocab]` in the compute format, for rows of [`Self::hidden`]: pass only those
    /// that are needed, since the vocabulary is wide.
    ///
    /// # Errors
    /// LibTorch refused, most often for want of memory.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        self.adapted_logits(hidden, None, None)
    }

    /// [`Self::logits`] with an adapter that may act on the output head too.
    ///
    /// # Errors
    /// As [`Self::logits`].
    pub fn adapted_logits(
        &self,
        hidden: &Tensor,
        adapter: Option<&Adapter>,
        dropout: Option<DropoutKey>,
    ) -> Result<Tensor, ModelError> {
        self.scores(hidden, &LoraPass::uniform(adapter, hidden.size()[0], dropout))
    }

    fn scores(&self, hidden: &Tensor, lora: &LoraPass<'_>) -> Result<Tensor, ModelError> {
        let head = self.head_weight().f_to_kind(self.precision.compute)?;
        let logits = lora.add_to_head(hidden.f_linear(&head, None::<&Tensor>)?, hidden)?;
        self.capped(logits)
    }

    /// [`Self::scores`] for inference, without a gradient. `hidden: [sequences, hidden]`, packed.
    fn serving_scores(&self, hidden: &Tensor, lora: &LoraPass<'_>) -> Result<Tensor, ModelError> {
        let head = self.head_weight().f_to_kind(self.precision.compute)?;
        let logits = lora.add_to_head(narrow_linear(hidden, &head, None)?, hidden)?;
        self.capped(logits)
    }

    fn capped(&self, logits: Tensor) -> Result<Tensor, ModelError> {
        match self.config.final_softcap {
            Some(cap) => Ok(logits.f_divide_scalar(cap)?.f_tanh()?.f_multiply_scalar(cap)?),
            None => Ok(logits),
        }
    }

    pub(crate) fn head_weight(&self) -> &Tensor {
        self.head.as_ref().unwrap_or(&self.embedding)
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
    /// On an error no cache has changed, save that of a longrope sequence which was just outgrowing its short
    /// frequencies: it is of no more use.
    ///
    /// # Errors
    /// There is no sequence, one has no new tokens, a token is outside the vocabulary, or LibTorch refused.
    pub fn step(&self, sequences: &mut [SequenceStep<'_>]) -> Result<Tensor, ModelError> {
        let _guard = no_grad_guard();
        let layout = self.lay_out(sequences)?;
        let parts = || sequences.iter().zip(&layout.starts);
        let lora =
            LoraPass::by_rows(parts().map(|(part, &start)| (part.length() as i64 - start, part.adapter)));
        let mut attention = CachedSequences {
            sequences: parts()
                .map(|(part, &start)| CachedSequence {
                    start,
                    tokens: part.length() as i64 - start,
                    cache: &*part.cache,
                })
                .collect(),
        };
        let places = Places {
            positions: &layout.positions,
            lengths: &layout.lengths,
        };
        let hidden = if self.precision.weights == self.precision.compute {
            let x = self.embed(&layout.tokens, &lora)?;
            ServingPass::new(self, places, attention, lora)?.run(x)?
        } else {
            let mut pass = self.pass(places, &mut attention, lora)?;
            self.final_norm
                .forward(&self.run_blocks(&layout.tokens, &mut pass)?)?
        };
        let last = hidden.f_index_select(0, &layout.last_rows)?;
        let head = LoraPass::by_rows(sequences.iter().map(|part| (1, part.adapter)));
        let logits = self.serving_scores(&last, &head)?.f_to_kind(Kind::Float)?;
        for sequence in sequences {
            sequence.cache.advance(sequence.tokens);
        }
        Ok(logits)
    }

    /// Lays the new tokens end to end, and makes room for them in the caches. A sequence that outgrows the short
    /// frequencies of its rope is read anew from its first token, like transformers does it.
    fn lay_out(&self, sequences: &mut [SequenceStep<'_>]) -> Result<StepLayout, ModelError> {
        let (mut tokens, mut positions, mut lengths) = (vec![], vec![], vec![]);
        let (mut last_rows, mut starts) = (vec![], vec![]);
        for sequence in sequences {
            let Some(&largest) = sequence.tokens.iter().max() else {
                return Err(ModelError::InvalidBatch(
                    "a sequence has no new tokens".to_owned(),
                ));
            };
            self.check_token(largest)?;
            sequence.cache.reserve(sequence.tokens.len() as i64)?;
            let (seen, length) = (sequence.cache.len(), sequence.length());
            let is_read_anew = self.ropes.iter().any(|rope| rope.changes(seen, length));
            let start = if is_read_anew { 0 } else { seen };
            let old = &sequence.cache.tokens()[start..];
            tokens.extend(old.iter().chain(sequence.tokens).map(|&token| i64::from(token)));
            positions.extend(start as i64..length as i64);
            lengths.extend((start..length).map(|_| length as i64));
            last_rows.push(tokens.len() as i64 - 1);
            starts.push(start as i64);
        }
        if tokens.is_empty() {
            return Err(ModelError::InvalidBatch("no sequences".to_owned()));
        }
        let on_device = |values: &[i64]| Tensor::f_from_slice(values)?.f_to_device(self.device);
        Ok(StepLayout {
            tokens: on_device(&tokens)?,
            positions: on_device(&positions)?,
            lengths: on_device(&lengths)?,
            last_rows: on_device(&last_rows)?,
            starts,
        })
    }

    pub(crate) fn pass<'a>(
        &'a self,
        places: Places<'_>,
        attention: &'a mut dyn Attend,
        lora: LoraPass<'a>,
    ) -> Result<Pass<'a>, ModelError> {
        let rotations = self
            .ropes
            .iter()
            .map(|rope| rope.rotation(places, self.precision.compute))
            .collect::<Result<_, _>>()?;
        Ok(Pass {
            config: &self.config,
            rotations,
            attention,
            lora,
        })
    }

    /// `[tokens, hidden]` behind the last block.
    pub(crate) fn run_blocks(&self, tokens: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor, ModelError> {
        let mut x = self.embed(tokens, &pass.lora)?;
        for block in &self.blocks {
            x = block.forward(&x, pass)?;
        }
        Ok(x)
    }

    /// `[tokens, hidden]` in the compute format.
    pub(crate) fn embed(&self, tokens: &Tensor, lora: &LoraPass<'_>) -> Result<Tensor, ModelError> {
        let kind = self.precision.compute;
        let mut x = Tensor::f_embedding(&self.embedding, tokens, -1, false, false)?.f_to_kind(kind)?;
        let scale = self
            .config
            .embedding_scale
            .map(|scale| Tensor::f_scalar_tensor(scale, (kind, self.device)))
            .transpose()?;
        if let Some(scale) = &scale {
            x = x.f_mul(scale)?;
        }
        lora.add_to_embedding(x, tokens, scale.as_ref())
    }

    /// An index out of range would poison a CUDA context, so it is caught here.
    pub(crate) fn check_token(&self, token: u32) -> Result<(), ModelError> {
        if i64::from(token) < self.config.vocab_size {
            return Ok(());
        }
        Err(ModelError::TokenOutOfRange {
            token,
            vocabulary: self.config.vocab_size,
        })
    }
}
