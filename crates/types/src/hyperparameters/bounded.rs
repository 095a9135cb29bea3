//! Numbers that are only made within their bounds.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::ParameterError;

/// Declares a number that is only made within its bounds.
macro_rules! bounded {
    ($($(#[$doc:meta])* $name:ident($number:ty) = $field:literal, $least:expr => $most:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, ToSchema)]
        #[serde(transparent)]
        pub struct $name($number);

        impl $name {
            /// Least value.
            pub const LEAST: $number = $least;
            /// Greatest value.
            pub const MOST: $number = $most;

            /// A value within the bounds.
            ///
            /// # Errors
            /// The value is outside; the message names the bounds and the value.
            #[allow(clippy::manual_range_contains, reason = "NaN must fail too")]
            pub fn new(value: $number) -> Result<Self, ParameterError> {
                if value >= Self::LEAST && value <= Self::MOST {
                    return Ok(Self(value));
                }
                Err(ParameterError::new(
                    $field,
                    format!("`{}` must be from {} to {}; {value} was given.", $field, Self::LEAST, Self::MOST),
                ))
            }

            /// The number.
            #[must_use]
            pub const fn get(self) -> $number {
                self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(<$number>::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
    )*};
}

bounded! {
    /// `r`: columns of A, rows of B.
    LoraRank(u32) = "rank", 1 => 256;
    /// Numerator of the scale `alpha / r`.
    LoraAlpha(f64) = "alpha", 0.001 => 4096.0;
    /// Share of A's inputs that a step drops.
    LoraDropout(f64) = "dropout", 0.0 => 0.9;
    /// Peak learning rate of AdamW.
    LearningRate(f64) = "learning_rate", 1e-8 => 0.1;
    /// Share of the steps over which the learning rate rises from zero.
    WarmupRatio(f64) = "warmup_ratio", 0.0 => 1.0;
    /// AdamW's decoupled decay.
    WeightDecay(f64) = "weight_decay", 0.0 => 1.0;
    /// The gradient is scaled down to this norm; 0 turns clipping off.
    MaxGradNorm(f64) = "max_grad_norm", 0.0 => 1e6;
    /// Passes over the data.
    Epochs(u32) = "epochs", 1 => 50;
    /// Optimizer steps, where given instead of epochs.
    MaxSteps(u64) = "max_steps", 1 => 1_000_000;
    /// Examples of one optimizer step.
    BatchSize(u32) = "batch_size", 1 => 1024;
    /// Tokens of the longest example.
    MaxSeqLen(u32) = "max_seq_len", 8 => 131_072;
    /// Share of the examples that are held out for evaluation.
    EvalFraction(f64) = "eval_fraction", 0.0 => 0.5;
    /// Optimizer steps between checkpoints or evaluations; 0 means only at the end.
    StepInterval(u64) = "interval", 0 => 1_000_000;
    /// Seed of adapter, order and dropout.
    Seed(u32) = "seed", 0 => 2_147_483_647;
    /// Tokens of one optimizer step, where given instead of a number of examples.
    BatchTokens(u32) = "batch_tokens", 64 => 4_194_304;
    /// Learning rate of B over that of A (LoRA+).
    LoraPlusRatio(f64) = "loraplus_lr_ratio", 1.0 => 1024.0;
    /// Share of the steps over which a warmup-stable-decay schedule falls to zero.
    DecayRatio(f64) = "decay_ratio", 0.0 => 1.0;
    /// Evaluations without improvement after which a job stops.
    Patience(u32) = "early_stopping_patience", 1 => 1000;
    /// Least fall of the evaluation loss that counts as an improvement.
    ImprovementThreshold(f64) = "early_stopping_threshold", 0.0 => 100.0;
}
