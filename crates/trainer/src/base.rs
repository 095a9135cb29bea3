//! The base model that all jobs of a process share.

use std::path::{Path, PathBuf};

use tch::{Device, Kind};
use tunesmith_model::digest::base_model_digest;
use tunesmith_model::{CausalLm, ModelConfig, Precision};
use tunesmith_types::trainer::GangSpec;

use crate::device::{pick_device, pick_kind};
use crate::error::TrainError;

/// A loaded base model.
#[derive(Debug)]
pub struct Base {
    /// The model.
    pub model: CausalLm,
    /// Its folder.
    pub folder: PathBuf,
    /// Its name in adapter_config.json.
    pub name: String,
    /// Its digest.
    pub digest: String,
    /// Where it is.
    pub device: Device,
    /// The format of activations, and of weights that are not trained.
    pub kind: Kind,
    /// Tokens in memory at once, to begin with.
    pub budget: usize,
}

impl Base {
    /// Loads the model frozen.
    ///
    /// # Errors
    /// Files that are missing or do not fit, or a device that is not there.
    pub fn load(spec: &GangSpec) -> Result<Self, TrainError> {
        Self::load_as(spec, &spec.base, Precision::uniform)
    }

    /// Loads the model for training all its weights, from `checkpoint` where a run is resumed.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_trainable(spec: &GangSpec, checkpoint: Option<&Path>) -> Result<Self, TrainError> {
        Self::load_as(spec, checkpoint.unwrap_or(&spec.base), Precision::master)
    }

    fn load_as(
        spec: &GangSpec,
        weights: &Path,
        precision: fn(Kind) -> Precision,
    ) -> Result<Self, TrainError> {
        let device = pick_device(&spec.device)?;
        let kind = pick_kind(spec.dtype, device);
        let model = CausalLm::load(weights, device, precision(kind))?;
        let budget = spec
            .micro_batch_tokens
            .map_or_else(|| default_tokens(model.config(), device), |tokens| tokens.max(1));
        Ok(Self {
            model,
            folder: spec.base.clone(),
            name: spec
                .base_name
                .clone()
                .unwrap_or_else(|| spec.base.display().to_string()),
            digest: base_model_digest(&spec.base)?,
            device,
            kind,
            budget,
        })
    }
}

/// Tokens per pass where the caller does not say: what keeps the activations within a budget. A pure function of the
/// model's shape and the kind of device, so that a resumed run packs its steps as before.
#[must_use]
pub fn default_tokens(config: &ModelConfig, device: Device) -> usize {
    let (budget, most) = if device.is_cuda() {
        (24 << 30, 65_536)
    } else {
        (1 << 30, 8192)
    };
    let width = 16 * config.hidden_size + 6 * config.intermediate_size;
    let per_token = (config.layers as i64 * width * 4).max(1);
    usize::try_from(budget / per_token)
        .unwrap_or(most)
        .clamp(512, most)
}
