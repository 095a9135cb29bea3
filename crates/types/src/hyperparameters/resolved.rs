//! What a job runs with.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::bounded::*;
use super::targets::{AlphaPattern, RankPattern, TargetModules};
use super::{OverLong, Schedule, TrainingDtype};

/// How long a job trains.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Duration {
    /// Passes over the data.
    Epochs(Epochs),
    /// Optimizer steps.
    MaxSteps(MaxSteps),
}

/// How much one optimizer step takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Batch {
    /// A number of examples.
    BatchSize(BatchSize),
    /// As many examples as have this many tokens.
    BatchTokens(BatchTokens),
}

/// Hyperparameters of a job: every value decided, every value within its bounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Hyperparameters {
    /// LoRA rank.
    pub rank: LoraRank,
    /// LoRA alpha.
    pub alpha: LoraAlpha,
    /// LoRA dropout.
    pub dropout: LoraDropout,
    /// Whether the scale is `alpha / sqrt(rank)`.
    pub use_rslora: bool,
    /// Modules with an adapter.
    pub target_modules: TargetModules,
    /// Ranks of single modules.
    #[serde(default)]
    #[schema(value_type = std::collections::BTreeMap<String, u32>)]
    pub rank_pattern: RankPattern,
    /// Alphas of single modules.
    #[serde(default)]
    #[schema(value_type = std::collections::BTreeMap<String, f64>)]
    pub alpha_pattern: AlphaPattern,
    /// Blocks with an adapter; null is all.
    #[serde(default)]
    pub layers_to_transform: Option<Vec<u32>>,
    /// Learning rate of B over that of A.
    #[serde(default = "LoraPlusRatio::one")]
    pub loraplus_lr_ratio: LoraPlusRatio,
    /// Peak learning rate.
    pub learning_rate: LearningRate,
    /// Course of the learning rate.
    pub schedule: Schedule,
    /// Share of the steps with a falling learning rate, under `warmup_stable_decay`.
    #[serde(default = "default_decay_ratio")]
    pub decay_ratio: DecayRatio,
    /// Share of the steps with a rising learning rate.
    pub warmup_ratio: WarmupRatio,
    /// AdamW's weight decay.
    pub weight_decay: WeightDecay,
    /// Gradient clipping; 0 is off.
    pub max_grad_norm: MaxGradNorm,
    /// Epochs or steps.
    #[serde(flatten)]
    pub duration: Duration,
    /// Examples or tokens of one optimizer step.
    #[serde(flatten)]
    pub batch: Batch,
    /// Tokens of the longest example.
    pub max_seq_len: MaxSeqLen,
    /// What happens to longer examples.
    pub over_long: OverLong,
    /// Whether the whole conversation is learnt.
    #[serde(default)]
    pub train_on_inputs: bool,
    /// Share of the examples held out.
    pub eval_fraction: EvalFraction,
    /// Steps between evaluations; null is once per epoch, 0 only at the end.
    pub eval_every: Option<StepInterval>,
    /// Evaluations without improvement after which the job stops; null is never.
    #[serde(default)]
    pub early_stopping_patience: Option<Patience>,
    /// Least fall of the evaluation loss that counts as an improvement.
    #[serde(default = "default_threshold")]
    pub early_stopping_threshold: ImprovementThreshold,
    /// Whether the adapter of the best evaluation is delivered.
    #[serde(default)]
    pub load_best_model_at_end: bool,
    /// Steps between checkpoints; 0 is only at the end.
    pub checkpoint_every: StepInterval,
    /// Number format.
    pub dtype: TrainingDtype,
    /// Seed.
    pub seed: Seed,
}

/// Of a schedule that falls at the end.
pub(super) const DEFAULT_DECAY_RATIO: f64 = 0.1;

impl LoraPlusRatio {
    /// Plain LoRA.
    #[must_use]
    pub fn one() -> Self {
        Self::new(1.0).expect("invariant: 1 is within the bounds")
    }
}

// Jobs from before these fields were stored without them.

fn default_decay_ratio() -> DecayRatio {
    DecayRatio::new(DEFAULT_DECAY_RATIO).expect("invariant: the default is within the bounds")
}

fn default_threshold() -> ImprovementThreshold {
    ImprovementThreshold::new(0.0).expect("invariant: the default is within the bounds")
}
