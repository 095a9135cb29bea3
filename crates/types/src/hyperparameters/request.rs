//! What a caller may ask for.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::targets::{AlphaPattern, RankPattern, TargetModulesRequest};
use super::{OverLong, Schedule, TrainingDtype};

/// Hyperparameters as a caller gives them; what is absent takes its default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HyperparametersRequest {
    /// LoRA rank, 1 to 256 (default 16).
    pub rank: Option<u32>,
    /// LoRA alpha (default twice the rank).
    pub alpha: Option<f64>,
    /// LoRA dropout, 0 to 0.9 (default 0).
    pub dropout: Option<f64>,
    /// Scale by `alpha / sqrt(rank)` instead of `alpha / rank` (default false).
    pub use_rslora: Option<bool>,
    /// `"all-linear"` (default), a list of module names (`q_proj`, `lm_head`, `embed_tokens`), or a regular expression.
    pub target_modules: Option<TargetModulesRequest>,
    /// Ranks of single modules, by a pattern on the end of their names; others have `rank`.
    #[schema(value_type = Option<std::collections::BTreeMap<String, u32>>)]
    pub rank_pattern: Option<RankPattern>,
    /// Alphas of single modules, by a pattern on the end of their names; others have `alpha`.
    #[schema(value_type = Option<std::collections::BTreeMap<String, f64>>)]
    pub alpha_pattern: Option<AlphaPattern>,
    /// Numbers of the blocks that get an adapter, from 0 (default all).
    pub layers_to_transform: Option<Vec<u32>>,
    /// Learning rate of the B matrices over that of the A matrices, as in LoRA+ (default 1).
    pub loraplus_lr_ratio: Option<f64>,
    /// Peak learning rate, 1e-8 to 0.1 (default 2e-4).
    pub learning_rate: Option<f64>,
    /// `constant`, `linear`, `cosine` (default) or `warmup_stable_decay`.
    pub schedule: Option<Schedule>,
    /// Share of the steps with a falling learning rate, under `warmup_stable_decay` (default 0.1).
    pub decay_ratio: Option<f64>,
    /// Share of the steps with a rising learning rate (default 0.03).
    pub warmup_ratio: Option<f64>,
    /// AdamW's weight decay (default 0).
    pub weight_decay: Option<f64>,
    /// Gradient clipping; 0 turns it off (default 1).
    pub max_grad_norm: Option<f64>,
    /// Passes over the data, 1 to 50 (default 3). Not together with `max_steps`.
    pub epochs: Option<u32>,
    /// Optimizer steps. Not together with `epochs`.
    pub max_steps: Option<u64>,
    /// Examples of one optimizer step, 1 to 1024 (default 16). Not together with `batch_tokens`.
    pub batch_size: Option<u32>,
    /// Tokens of one optimizer step, at most, except where one example has more. Not together with `batch_size`.
    pub batch_tokens: Option<u32>,
    /// Tokens of the longest example (default 2048, or the base model's limit where that is less).
    pub max_seq_len: Option<u32>,
    /// What happens to longer examples: `truncate` (default), `drop` or `fail`.
    pub over_long: Option<OverLong>,
    /// Learn the whole conversation, not only what the assistant says (default false).
    pub train_on_inputs: Option<bool>,
    /// Share of the examples held out for evaluation, 0 to 0.5 (default 0.05).
    pub eval_fraction: Option<f64>,
    /// Steps between evaluations; 0 means at the end (default: once per epoch).
    pub eval_every: Option<u64>,
    /// Evaluations without improvement after which the job stops (default: never).
    pub early_stopping_patience: Option<u32>,
    /// Least fall of the evaluation loss that counts as an improvement (default 0).
    pub early_stopping_threshold: Option<f64>,
    /// Deliver the adapter of the evaluation with the least loss, not the last one (default false).
    pub load_best_model_at_end: Option<bool>,
    /// Steps between checkpoints; 0 means at the end (default 50).
    pub checkpoint_every: Option<u64>,
    /// `auto` (default), `float32` or `bfloat16`.
    pub dtype: Option<TrainingDtype>,
    /// Seed of adapter, order and dropout, 0 to 2147483647 (default 0).
    pub seed: Option<u32>,
}
