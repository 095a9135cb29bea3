//! The model as a whole.

use std::path::Path;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};
use tunesmith_torch_ext::kernels::ServedShape;

use crate::adapter::Adapter;
use crate::attention::Attend;
use crate::config::ModelConfig;
use crate::dropout::DropoutKey;
use crate::error::ModelError;
use crate::init::FreshWeights;
use crate::layer::{Block, Pass};
use crate::lora::LoraPass;
use crate::norm::RmsNorm;
use crate::rotation::{Places, Rope};
use crate::rows::served_shape;
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

/// A causal language model of Llama's shape.
#[derive(Debug)]
pub struct CausalLm {
    pub(crate) config: ModelConfig,
    pub(crate) precision: Precision,
    pub(crate) device: Device,
    /// One per [`ModelConfig::ropes`].
    pub(crate) ropes: Vec<Rope>,
    /// `[vocab, hidden]`.
    pub(crate) embedding: Tensor,
    pub(crate) blocks: Vec<Block>,
    pub(crate) final_norm: RmsNorm,
    /// `[vocab, hidden]`; `None` where the embedding serves.
    pub(crate) head: Option<Tensor>,
    /// What kernels that read a step's table must know of the model.
    pub(crate) served: Arc<ServedShape>,
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
            served: Arc::new(served_shape(config, precision.compute)),
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

    pub(crate) fn capped(&self, logits: Tensor) -> Result<Tensor, ModelError> {
        match self.config.final_softcap {
            Some(cap) => Ok(logits.f_divide_scalar(cap)?.f_tanh()?.f_multiply_scalar(cap)?),
            None => Ok(logits),
        }
    }

    pub(crate) fn head_weight(&self) -> &Tensor {
        self.head.as_ref().unwrap_or(&self.embedding)
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
