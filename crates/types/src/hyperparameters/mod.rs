//! LoRA hyperparameters: what a caller may ask for, and the bounded values that a job runs with.
//!
//! [`HyperparametersRequest`] is the JSON of the API, every field optional. [`HyperparametersRequest::resolve`] is the
//! only road to [`Hyperparameters`], so a value outside its bounds, or one that contradicts another, cannot reach the
//! queue. Names follow PEFT and transformers.

mod bounded;
mod continued;
mod request;
mod resolve;
mod resolved;
mod restated;
mod selection;
mod targets;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::bounded::*;
pub use self::continued::AdapterShape;
pub use self::request::HyperparametersRequest;
pub use self::resolved::{Batch, Duration, Hyperparameters};
pub use self::selection::{ModulePattern, ModuleSelection, is_named};
pub use self::targets::{
    ALL_LINEAR, AlphaPattern, MODULE_NAMES, RankPattern, TargetForm, TargetModules, TargetModulesRequest,
};

/// Course of the learning rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Stays at the peak.
    Constant,
    /// Falls to zero in a line.
    Linear,
    /// Falls to zero on half a cosine.
    #[default]
    Cosine,
    /// Stays at the peak, then falls to zero in a line over the last `decay_ratio` of the steps.
    WarmupStableDecay,
}

/// Number format of the frozen base model and of the activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TrainingDtype {
    /// bfloat16 where the device is quick with it, else float32.
    #[default]
    Auto,
    /// 32 bits.
    Float32,
    /// 16 bits with float32's range.
    Bfloat16,
}

/// What to do with an example of more than `max_seq_len` tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OverLong {
    /// Keep its beginning.
    #[default]
    Truncate,
    /// Leave it out.
    Drop,
    /// Refuse to train.
    Fail,
}

#[cfg(test)]
mod tests;
