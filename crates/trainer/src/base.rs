//! The base model that all jobs of a process share.

use std::path::PathBuf;
use std::thread::{Builder, JoinHandle};

use tch::{Device, Kind};
use tunesmith_model::digest::base_model_digest;
use tunesmith_model::{Adapter, CausalLm, Keep, ModelConfig, ModelError, Precision};
use tunesmith_torch_ext::device_memory;
use tunesmith_types::trainer::GangSpec;

use crate::device::{pick_device, pick_kind};
use crate::error::{TrainError, words_of};
use crate::preparation::BaseText;

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
    /// Bytes that are meant for the activations of a pass.
    pub activations: i64,
}

/// Where a base model comes from.
#[derive(Debug)]
pub struct Origin<'a> {
    spec: &'a GangSpec,
    weights: PathBuf,
    is_full: bool,
}

impl<'a> Origin<'a> {
    /// Of a model that stays as it is.
    #[must_use]
    pub fn frozen(spec: &'a GangSpec) -> Self {
        Self {
            spec,
            weights: spec.base.clone(),
            is_full: false,
        }
    }

    /// Of a model all of whose weights are trained: `checkpoint` where a run is resumed.
    #[must_use]
    pub fn trainable(spec: &'a GangSpec, checkpoint: Option<PathBuf>) -> Self {
        Self {
            spec,
            weights: checkpoint.unwrap_or_else(|| spec.base.clone()),
            is_full: true,
        }
    }

    /// What data is prepared with, known before any weight is read.
    ///
    /// # Errors
    /// A device that is not there, or a configuration that is missing or not supported.
    pub fn text(&self) -> Result<BaseText, TrainError> {
        pick_device(&self.spec.device)?;
        let config = ModelConfig::from_folder(&self.weights)?;
        Ok(BaseText::new(self.spec.base.clone(), &config))
    }

    /// Loads the model.
    ///
    /// # Errors
    /// Files that are missing or do not fit, or a device that is not there.
    pub fn load(&self) -> Result<Base, TrainError> {
        let (spec, is_full) = (self.spec, self.is_full);
        let device = pick_device(&spec.device)?;
        let kind = pick_kind(spec.dtype, device);
        let precision = if is_full {
            Precision::master
        } else {
            Precision::uniform
        };
        let digest = Hashing::start(spec.base.clone())?;
        let model = CausalLm::load(&self.weights, device, precision(kind))?;
        let activations = spec.activation_bytes.map_or_else(
            || activations(device),
            |bytes| i64::try_from(bytes.get()).unwrap_or(i64::MAX),
        );
        let budget = spec.micro_batch_tokens.map_or_else(
            || default_tokens(&model, is_full, activations),
            |tokens| tokens.max(1),
        );
        Ok(Base {
            model,
            folder: spec.base.clone(),
            name: spec
                .base_name
                .clone()
                .unwrap_or_else(|| spec.base.display().to_string()),
            digest: digest.finish()?,
            device,
            kind,
            budget,
            activations,
        })
    }
}

/// The digest of a base model, made on a thread while the weights are loaded: hashing takes longer than reading.
struct Hashing(JoinHandle<Result<String, ModelError>>);

impl Hashing {
    fn start(folder: PathBuf) -> Result<Self, TrainError> {
        let hash = move || base_model_digest(&folder);
        let thread = Builder::new().name("digest".to_owned()).spawn(hash);
        thread
            .map(Self)
            .map_err(|error| TrainError::Internal(format!("no thread for the base model's digest: {error}")))
    }

    fn finish(self) -> Result<String, TrainError> {
        let result = self.0.join();
        Ok(result.map_err(|panic| TrainError::Internal(words_of(&*panic)))??)
    }
}

impl Base {
    /// Loads a model that stays as it is.
    ///
    /// # Errors
    /// As [`Origin::load`].
    pub fn load(spec: &GangSpec) -> Result<Self, TrainError> {
        Origin::frozen(spec).load()
    }

    /// Most tokens of a pass that keeps all its activations, where this adapter is in it; without one, where all weights
    /// are trained.
    #[must_use]
    pub fn whole_tokens(&self, adapter: Option<&Adapter>) -> usize {
        let per_token = match adapter {
            Some(adapter) => self
                .model
                .training_bytes_per_token(adapter.ranks_per_block(), Keep::All),
            None => autograd_bytes_per_token(self.model.config()),
        };
        usize::try_from(self.activations / per_token.max(1)).unwrap_or(0)
    }
}

/// Bytes of activations on a CPU: past a thousand or two tokens a pass grows no faster.
const CPU_ACTIVATIONS: i64 = 768 << 20;
/// On a GPU where its memory is not known.
const CUDA_ACTIVATIONS: i64 = 8 << 30;
/// Columns of all narrow products of a block that are reckoned with before the jobs are known.
const RANKS: i64 = 256;

/// Smaller passes than this are no faster; what they hold that does not fit is recomputed.
const LEAST_TOKENS: usize = 128;

/// Tokens per pass where the caller does not say: what keeps the activations within the memory that is meant for them.
/// On a CPU a pure function of the model's shape, so that a resumed run packs its steps as before.
fn default_tokens(model: &CausalLm, is_full: bool, activations: i64) -> usize {
    let per_token = if is_full {
        autograd_bytes_per_token(model.config())
    } else {
        model.training_bytes_per_token(RANKS, Keep::All)
    };
    let most = if model.device().is_cuda() { 65_536 } else { 2048 };
    usize::try_from(activations / per_token.max(1))
        .unwrap_or(most)
        .clamp(LEAST_TOKENS, most)
}

fn activations(device: Device) -> i64 {
    match device {
        Device::Cuda(_) => cuda_activations(device),
        _ => CPU_ACTIVATIONS,
    }
}

/// Three quarters of what is free once the model is loaded; the rest is for adapters, scores and fragments.
fn cuda_activations(device: Device) -> i64 {
    device_memory(device).map_or(CUDA_ACTIVATIONS, |(free, _)| (free / 4 * 3) as i64)
}

/// What LibTorch's graph keeps of one token where all weights are trained.
fn autograd_bytes_per_token(config: &ModelConfig) -> i64 {
    4 * config.layers as i64 * (16 * config.hidden_size + 6 * config.intermediate_size)
}
