//! LoRA hyperparameters: what a caller may ask for, and the bounded values that a job runs with.
//!
//! [`HyperparametersRequest`] is the JSON of the API, every field optional. [`HyperparametersRequest::resolve`] is the
//! only road to [`Hyperparameters`], so a value outside its bounds cannot reach the queue. Names follow PEFT.

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
}

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

/// One of the seven linear layers of a Llama block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LinearLayer {
    /// `mlp.down_proj`
    DownProj,
    /// `mlp.gate_proj`
    GateProj,
    /// `self_attn.k_proj`
    KProj,
    /// `self_attn.o_proj`
    OProj,
    /// `self_attn.q_proj`
    QProj,
    /// `mlp.up_proj`
    UpProj,
    /// `self_attn.v_proj`
    VProj,
}

impl LinearLayer {
    /// All seven, in the order of their names.
    pub const ALL: [Self; 7] = [
        Self::DownProj,
        Self::GateProj,
        Self::KProj,
        Self::OProj,
        Self::QProj,
        Self::UpProj,
        Self::VProj,
    ];

    /// PEFT's name of the module.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DownProj => "down_proj",
            Self::GateProj => "gate_proj",
            Self::KProj => "k_proj",
            Self::OProj => "o_proj",
            Self::QProj => "q_proj",
            Self::UpProj => "up_proj",
            Self::VProj => "v_proj",
        }
    }
}

/// `"all-linear"` or a list of layer names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum TargetModulesRequest {
    /// `all-linear`.
    Keyword(String),
    /// Names of linear layers.
    Names(Vec<String>),
}

/// The linear layers that get an adapter: sorted, without repeats, at least one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(transparent)]
pub struct TargetModules(Vec<LinearLayer>);

impl TargetModules {
    /// Every linear layer.
    #[must_use]
    pub fn all_linear() -> Self {
        Self(LinearLayer::ALL.to_vec())
    }

    /// Parses names such as `q_proj`, or the single keyword `all-linear`.
    ///
    /// # Errors
    /// An empty list, or a name that is none of the seven.
    pub fn parse<S: AsRef<str>>(names: &[S]) -> Result<Self, ParameterError> {
        let known = || LinearLayer::ALL.map(LinearLayer::as_str).join(", ");
        if let [keyword] = names
            && keyword.as_ref() == "all-linear"
        {
            return Ok(Self::all_linear());
        }
        let mut layers = Vec::with_capacity(names.len());
        for name in names {
            let layer = LinearLayer::ALL
                .into_iter()
                .find(|layer| layer.as_str() == name.as_ref())
                .ok_or_else(|| {
                    ParameterError::new(
                        "target_modules",
                        format!(
                            "`target_modules` must be \"all-linear\" or some of {}; `{}` is neither.",
                            known(),
                            name.as_ref()
                        ),
                    )
                })?;
            layers.push(layer);
        }
        layers.sort_unstable();
        layers.dedup();
        if layers.is_empty() {
            return Err(ParameterError::new(
                "target_modules",
                format!(
                    "`target_modules` is empty; give \"all-linear\" or some of {}.",
                    known()
                ),
            ));
        }
        Ok(Self(layers))
    }

    /// The layers, sorted by name.
    #[must_use]
    pub fn layers(&self) -> &[LinearLayer] {
        &self.0
    }
}

impl<'de> Deserialize<'de> for TargetModules {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        Self::parse(&names).map_err(serde::de::Error::custom)
    }
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
    /// `"all-linear"` (default) or a list of layer names.
    pub target_modules: Option<TargetModulesRequest>,
    /// Peak learning rate, 1e-8 to 0.1 (default 2e-4).
    pub learning_rate: Option<f64>,
    /// `constant`, `linear` or `cosine` (default).
    pub schedule: Option<Schedule>,
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
    /// Examples of one optimizer step, 1 to 1024 (default 16).
    pub batch_size: Option<u32>,
    /// Tokens of the longest example (default 2048, or the base model's limit where that is less).
    pub max_seq_len: Option<u32>,
    /// What happens to longer examples: `truncate` (default), `drop` or `fail`.
    pub over_long: Option<OverLong>,
    /// Share of the examples held out for evaluation, 0 to 0.5 (default 0.05).
    pub eval_fraction: Option<f64>,
    /// Steps between evaluations; 0 means at the end (default: once per epoch).
    pub eval_every: Option<u64>,
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
    /// Layers with an adapter.
    pub target_modules: TargetModules,
    /// Peak learning rate.
    pub learning_rate: LearningRate,
    /// Course of the learning rate.
    pub schedule: Schedule,
    /// Share of the steps with a rising learning rate.
    pub warmup_ratio: WarmupRatio,
    /// AdamW's weight decay.
    pub weight_decay: WeightDecay,
    /// Gradient clipping; 0 is off.
    pub max_grad_norm: MaxGradNorm,
    /// Epochs or steps.
    #[serde(flatten)]
    pub duration: Duration,
    /// Examples of one optimizer step.
    pub batch_size: BatchSize,
    /// Tokens of the longest example.
    pub max_seq_len: MaxSeqLen,
    /// What happens to longer examples.
    pub over_long: OverLong,
    /// Share of the examples held out.
    pub eval_fraction: EvalFraction,
    /// Steps between evaluations; null is once per epoch, 0 only at the end.
    pub eval_every: Option<StepInterval>,
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
            learning_rate: LearningRate::new(self.learning_rate.unwrap_or(2e-4))?,
            schedule: self.schedule.unwrap_or_default(),
            warmup_ratio: WarmupRatio::new(self.warmup_ratio.unwrap_or(0.03))?,
            weight_decay: WeightDecay::new(self.weight_decay.unwrap_or(0.0))?,
            max_grad_norm: MaxGradNorm::new(self.max_grad_norm.unwrap_or(1.0))?,
            duration: self.resolve_duration()?,
            batch_size: BatchSize::new(self.batch_size.unwrap_or(16))?,
            max_seq_len: self.resolve_max_seq_len(base_model_limit)?,
            over_long: self.over_long.unwrap_or_default(),
            eval_fraction: EvalFraction::new(self.eval_fraction.unwrap_or(0.05))?,
            eval_every: self
                .eval_every
                .map(|steps| interval("eval_every", steps))
                .transpose()?,
            checkpoint_every: interval("checkpoint_every", self.checkpoint_every.unwrap_or(50))?,
            dtype: self.dtype.unwrap_or_default(),
            seed: Seed::new(self.seed.unwrap_or(0))?,
        })
    }

    fn resolve_target_modules(&self) -> Result<TargetModules, ParameterError> {
        match &self.target_modules {
            None => Ok(TargetModules::all_linear()),
            Some(TargetModulesRequest::Keyword(keyword)) => TargetModules::parse(&[keyword]),
            Some(TargetModulesRequest::Names(names)) => TargetModules::parse(names),
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
        assert_eq!(resolved.target_modules.layers().len(), 7);
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
        let layers = TargetModules::parse(&["v_proj", "q_proj", "v_proj"]).unwrap();
        assert_eq!(layers.layers(), [LinearLayer::QProj, LinearLayer::VProj]);
        assert!(TargetModules::parse(&["lm_head"]).is_err());
        assert!(TargetModules::parse::<&str>(&[]).is_err());
    }

    #[test]
    fn unknown_fields_are_refused() {
        assert!(serde_json::from_str::<HyperparametersRequest>(r#"{"lora_rank": 8}"#).is_err());
    }
}
