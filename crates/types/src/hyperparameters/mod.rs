//! LoRA hyperparameters: what a caller may ask for, and the bounded values that a job runs with.
//!
//! [`HyperparametersRequest`] is the JSON of the API, every field optional. [`HyperparametersRequest::resolve`] is the
//! only road to [`Hyperparameters`], so a value outside its bounds cannot reach the queue. Names follow PEFT.

mod bounded;
mod restated;
mod targets;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::bounded::*;
pub use self::targets::{
    ALL_LINEAR, AlphaPattern, MODULE_NAMES, RankPattern, TargetForm, TargetModules, TargetModulesRequest,
};
use crate::error::ParameterError;

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

impl HyperparametersRequest {
    /// Fills in the defaults and checks every bound. `base_model_limit`: the longest sequence of the base model.
    ///
    /// # Errors
    /// The first field outside its bounds, or two fields that contradict each other.
    pub fn resolve(&self, base_model_limit: Option<u32>) -> Result<Hyperparameters, ParameterError> {
        let rank = LoraRank::new(self.rank.unwrap_or(16))?;
        Ok(Hyperparameters {
            rank,
            alpha: LoraAlpha::new(self.alpha.unwrap_or(2.0 * f64::from(rank.get())))?,
            dropout: LoraDropout::new(self.dropout.unwrap_or(0.0))?,
            use_rslora: self.use_rslora.unwrap_or(false),
            target_modules: self.resolve_target_modules()?,
            rank_pattern: self.resolve_rank_pattern()?,
            alpha_pattern: self.resolve_alpha_pattern()?,
            layers_to_transform: self.resolve_layers()?,
            loraplus_lr_ratio: LoraPlusRatio::new(self.loraplus_lr_ratio.unwrap_or(1.0))?,
            learning_rate: LearningRate::new(self.learning_rate.unwrap_or(2e-4))?,
            schedule: self.schedule.unwrap_or_default(),
            decay_ratio: DecayRatio::new(self.decay_ratio.unwrap_or(DEFAULT_DECAY_RATIO))?,
            warmup_ratio: WarmupRatio::new(self.warmup_ratio.unwrap_or(0.03))?,
            weight_decay: WeightDecay::new(self.weight_decay.unwrap_or(0.0))?,
            max_grad_norm: MaxGradNorm::new(self.max_grad_norm.unwrap_or(1.0))?,
            duration: self.resolve_duration()?,
            batch: self.resolve_batch()?,
            max_seq_len: self.resolve_max_seq_len(base_model_limit)?,
            over_long: self.over_long.unwrap_or_default(),
            train_on_inputs: self.train_on_inputs.unwrap_or(false),
            eval_fraction: EvalFraction::new(self.eval_fraction.unwrap_or(0.05))?,
            eval_every: self
                .eval_every
                .map(|steps| interval("eval_every", steps))
                .transpose()?,
            early_stopping_patience: self.early_stopping_patience.map(Patience::new).transpose()?,
            early_stopping_threshold: ImprovementThreshold::new(
                self.early_stopping_threshold.unwrap_or(0.0),
            )?,
            load_best_model_at_end: self.load_best_model_at_end.unwrap_or(false),
            checkpoint_every: interval("checkpoint_every", self.checkpoint_every.unwrap_or(50))?,
            dtype: self.dtype.unwrap_or_default(),
            seed: Seed::new(self.seed.unwrap_or(0))?,
        })
    }

    fn resolve_target_modules(&self) -> Result<TargetModules, ParameterError> {
        self.target_modules
            .clone()
            .map_or_else(|| Ok(TargetModules::all_linear()), TargetModules::new)
    }

    fn resolve_rank_pattern(&self) -> Result<RankPattern, ParameterError> {
        let pattern = self.rank_pattern.clone().unwrap_or_default();
        targets::check_keys("rank_pattern", &pattern)?;
        Ok(pattern)
    }

    fn resolve_alpha_pattern(&self) -> Result<AlphaPattern, ParameterError> {
        let pattern = self.alpha_pattern.clone().unwrap_or_default();
        targets::check_keys("alpha_pattern", &pattern)?;
        Ok(pattern)
    }

    fn resolve_layers(&self) -> Result<Option<Vec<u32>>, ParameterError> {
        let Some(mut layers) = self.layers_to_transform.clone() else {
            return Ok(None);
        };
        layers.sort_unstable();
        layers.dedup();
        if layers.is_empty() || layers.len() > MOST_LAYERS {
            return Err(ParameterError::new(
                "layers_to_transform",
                format!(
                    "`layers_to_transform` names {} blocks; leave it out for all, or name 1 to {MOST_LAYERS}.",
                    layers.len()
                ),
            ));
        }
        Ok(Some(layers))
    }

    fn resolve_batch(&self) -> Result<Batch, ParameterError> {
        match (self.batch_size, self.batch_tokens) {
            (Some(_), Some(_)) => Err(ParameterError::new(
                "batch_tokens",
                "Give `batch_size` or `batch_tokens`, not both.".to_owned(),
            )),
            (None, Some(tokens)) => BatchTokens::new(tokens).map(Batch::BatchTokens),
            (size, None) => BatchSize::new(size.unwrap_or(16)).map(Batch::BatchSize),
        }
    }

    fn resolve_duration(&self) -> Result<Duration, ParameterError> {
        match (self.epochs, self.max_steps) {
            (Some(_), Some(_)) => Err(ParameterError::new(
                "max_steps",
                "Give `epochs` or `max_steps`, not both.".to_owned(),
            )),
            (epochs, None) => Epochs::new(epochs.unwrap_or(3)).map(Duration::Epochs),
            (None, Some(steps)) => MaxSteps::new(steps).map(Duration::MaxSteps),
        }
    }

    fn resolve_max_seq_len(&self, base_model_limit: Option<u32>) -> Result<MaxSeqLen, ParameterError> {
        let limit = base_model_limit.unwrap_or(MaxSeqLen::MOST);
        let length = self.max_seq_len.unwrap_or_else(|| 2048.min(limit));
        if length > limit {
            return Err(ParameterError::new(
                "max_seq_len",
                format!("`max_seq_len` must be at most {limit}, the base model's limit; {length} was given."),
            ));
        }
        MaxSeqLen::new(length)
    }
}

/// Of a schedule that falls at the end.
const DEFAULT_DECAY_RATIO: f64 = 0.1;
/// Blocks of the deepest model.
const MOST_LAYERS: usize = 1024;

impl LoraPlusRatio {
    /// Plain LoRA.
    #[must_use]
    pub fn one() -> Self {
        Self::new(1.0).expect("invariant: 1 is within the bounds")
    }
}

fn default_decay_ratio() -> DecayRatio {
    DecayRatio::new(DEFAULT_DECAY_RATIO).expect("invariant: the default is within the bounds")
}

fn default_threshold() -> ImprovementThreshold {
    ImprovementThreshold::new(0.0).expect("invariant: the default is within the bounds")
}

fn interval(field: &str, steps: u64) -> Result<StepInterval, ParameterError> {
    StepInterval::new(steps).map_err(|error| {
        ParameterError::new(
            field,
            error.message.replacen("`interval`", &format!("`{field}`"), 1),
        )
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_empty_request_takes_the_defaults() {
        let resolved = HyperparametersRequest::default().resolve(Some(1024)).unwrap();
        assert_eq!(resolved.rank.get(), 16);
        assert_eq!(resolved.alpha.get(), 32.0);
        assert_eq!(resolved.max_seq_len.get(), 1024);
        assert_eq!(resolved.target_modules.form(), TargetForm::AllLinear);
        assert_eq!(resolved.duration, Duration::Epochs(Epochs::new(3).unwrap()));
    }

    #[test]
    fn resolved_values_survive_json() {
        let request = HyperparametersRequest {
            max_steps: Some(20),
            eval_every: Some(5),
            ..Default::default()
        };
        let resolved = request.resolve(None).unwrap();
        let text = serde_json::to_string(&resolved).unwrap();
        assert_eq!(serde_json::from_str::<Hyperparameters>(&text).unwrap(), resolved);
        assert!(text.contains("\"max_steps\":20"), "{text}");
    }

    #[test]
    fn what_is_out_of_bounds_names_its_field() {
        let wrong: [(&str, HyperparametersRequest); 7] = [
            (
                "rank",
                HyperparametersRequest {
                    rank: Some(0),
                    ..Default::default()
                },
            ),
            (
                "rank",
                HyperparametersRequest {
                    rank: Some(257),
                    ..Default::default()
                },
            ),
            (
                "learning_rate",
                HyperparametersRequest {
                    learning_rate: Some(f64::NAN),
                    ..Default::default()
                },
            ),
            (
                "dropout",
                HyperparametersRequest {
                    dropout: Some(1.0),
                    ..Default::default()
                },
            ),
            (
                "max_steps",
                HyperparametersRequest {
                    epochs: Some(1),
                    max_steps: Some(1),
                    ..Default::default()
                },
            ),
            (
                "max_seq_len",
                HyperparametersRequest {
                    max_seq_len: Some(4096),
                    ..Default::default()
                },
            ),
            (
                "eval_every",
                HyperparametersRequest {
                    eval_every: Some(2_000_000),
                    ..Default::default()
                },
            ),
        ];
        for (field, request) in wrong {
            assert_eq!(request.resolve(Some(1024)).unwrap_err().param, field);
        }
    }

    #[test]
    fn target_modules_are_sorted_and_known() {
        let names = TargetModules::parse(&["v_proj", "self_attn.q_proj", "v_proj", "lm_head"]).unwrap();
        assert_eq!(
            names.form(),
            TargetForm::Names(&[
                "lm_head".to_owned(),
                "self_attn.q_proj".to_owned(),
                "v_proj".to_owned()
            ])
        );
        assert!(TargetModules::parse(&["conv1"]).is_err());
        assert!(TargetModules::parse::<&str>(&[]).is_err());
        let pattern = |text: &str| TargetModules::new(TargetModulesRequest::Pattern(text.to_owned()));
        assert!(matches!(
            pattern(r".*\.[qv]_proj").unwrap().form(),
            TargetForm::Pattern(_)
        ));
        assert!(pattern("(").is_err());
        let json: TargetModules = serde_json::from_str("[\"q_proj\"]").unwrap();
        assert_eq!(serde_json::to_string(&json).unwrap(), "[\"q_proj\"]");
        assert_eq!(
            serde_json::to_string(&TargetModules::all_linear()).unwrap(),
            "\"all-linear\""
        );
    }

    #[test]
    fn unknown_fields_are_refused() {
        assert!(serde_json::from_str::<HyperparametersRequest>(r#"{"lora_rank": 8}"#).is_err());
    }
}
