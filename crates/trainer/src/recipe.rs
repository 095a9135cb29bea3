//! What decides the course of a training. A checkpoint carries it, and is only resumed under the same one.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tunesmith_dataset::order::Order;
use tunesmith_types::error::ParameterError;
use tunesmith_types::hyperparameters::{
    BatchSize, Epochs, EvalFraction, LearningRate, LoraAlpha, LoraDropout, LoraRank, MaxGradNorm, MaxSeqLen,
    MaxSteps, OverLong, Schedule, Seed, TargetModules, WarmupRatio, WeightDecay,
};

use crate::cli::{Knobs, OrderName, OverLongName, ScheduleName, TrainArgs};
use crate::error::TrainError;

/// Longest example by default.
const DEFAULT_MAX_SEQ_LEN: u32 = 2048;

/// Hyperparameters within their bounds, before data and model are known.
#[derive(Debug, Clone)]
pub struct Settings {
    /// LoRA rank.
    pub rank: LoraRank,
    /// LoRA alpha.
    pub alpha: LoraAlpha,
    /// LoRA dropout.
    pub dropout: LoraDropout,
    /// Scale by `alpha / sqrt(rank)`.
    pub use_rslora: bool,
    /// Adapted layers.
    pub target_modules: TargetModules,
    /// Peak learning rate.
    pub learning_rate: LearningRate,
    /// Its course.
    pub schedule: Schedule,
    /// Share of warm-up steps.
    pub warmup_ratio: WarmupRatio,
    /// Weight decay.
    pub weight_decay: WeightDecay,
    /// Clipping; 0 is off.
    pub max_grad_norm: MaxGradNorm,
    /// Passes over the data.
    pub epochs: Epochs,
    /// Steps instead of passes.
    pub max_steps: Option<MaxSteps>,
    /// Examples of a step.
    pub batch_size: BatchSize,
    /// Tokens of the longest example.
    pub max_seq_len: usize,
    /// What happens to longer ones.
    pub over_long: OverLong,
    /// Held-out share.
    pub eval_fraction: EvalFraction,
    /// The seed.
    pub seed: u64,
    /// Whether epochs are shuffled.
    pub shuffled: bool,
    /// Row length of packed text.
    pub pack_text: Option<usize>,
    /// Similar lengths in one step.
    pub length_buckets: bool,
}

impl Settings {
    /// Checks the command line. `longest`: the base model's limit.
    ///
    /// # Errors
    /// The first value outside its bounds.
    pub fn new(args: &TrainArgs, longest: i64) -> Result<Self, TrainError> {
        let knobs = &args.knobs;
        let rank = LoraRank::new(knobs.rank)?;
        if knobs.length_buckets && knobs.order == OrderName::File {
            let message = "--length-buckets changes the order, so it does not go with --order file";
            return Err(TrainError::Arguments(message.to_owned()));
        }
        let max_seq_len = max_seq_len(knobs, longest)?;
        Ok(Self {
            rank,
            alpha: LoraAlpha::new(knobs.alpha.unwrap_or(2.0 * f64::from(rank.get())))?,
            dropout: LoraDropout::new(knobs.dropout)?,
            use_rslora: knobs.rslora,
            target_modules: TargetModules::parse(&knobs.targets)?,
            learning_rate: LearningRate::new(knobs.lr)?,
            schedule: match knobs.schedule {
                ScheduleName::Constant => Schedule::Constant,
                ScheduleName::Linear => Schedule::Linear,
                ScheduleName::Cosine => Schedule::Cosine,
            },
            warmup_ratio: WarmupRatio::new(knobs.warmup_ratio)?,
            weight_decay: WeightDecay::new(knobs.weight_decay)?,
            max_grad_norm: MaxGradNorm::new(knobs.max_grad_norm)?,
            epochs: Epochs::new(knobs.epochs)?,
            max_steps: knobs.max_steps.map(MaxSteps::new).transpose()?,
            batch_size: BatchSize::new(knobs.batch_size)?,
            max_seq_len,
            over_long: match knobs.over_long {
                OverLongName::Truncate => OverLong::Truncate,
                OverLongName::Drop => OverLong::Drop,
                OverLongName::Fail => OverLong::Fail,
            },
            eval_fraction: EvalFraction::new(args.eval_fraction)?,
            seed: u64::from(Seed::new(knobs.seed)?.get()),
            shuffled: knobs.order == OrderName::Shuffled,
            pack_text: pack_text(knobs, max_seq_len)?,
            length_buckets: knobs.length_buckets,
        })
    }

    /// How epochs are ordered.
    #[must_use]
    pub const fn order(&self) -> Order {
        if self.shuffled {
            Order::Shuffled { seed: self.seed }
        } else {
            Order::File
        }
    }
}

fn max_seq_len(knobs: &Knobs, longest: i64) -> Result<usize, TrainError> {
    let longest = u32::try_from(longest).unwrap_or(u32::MAX);
    let wanted = knobs
        .max_seq_len
        .unwrap_or_else(|| DEFAULT_MAX_SEQ_LEN.min(longest));
    let wanted = MaxSeqLen::new(wanted)?.get();
    if wanted > longest {
        let message = format!(
            "`max_seq_len` is {wanted}, but the base model has positions for {longest} tokens; lower it."
        );
        return Err(ParameterError::new("max_seq_len", message).into());
    }
    Ok(wanted as usize)
}

fn pack_text(knobs: &Knobs, max_seq_len: usize) -> Result<Option<usize>, TrainError> {
    match knobs.pack_text {
        Some(row) if row < 2 || row > max_seq_len => Err(TrainError::Arguments(format!(
            "--pack-text must be from 2 to --max-seq-len ({max_seq_len}); {row} was given"
        ))),
        row => Ok(row),
    }
}

/// Everything that decides the course of a training; device, number format and intervals do not belong to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// `sft`.
    pub method: String,
    /// What is trained.
    pub subject: SubjectRecipe,
    /// Digest of the base model.
    pub base_model: String,
    /// Digest of tokens and masks.
    pub data: String,
    /// Training examples.
    pub train_examples: u64,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Its course.
    pub schedule: Schedule,
    /// Share of warm-up steps.
    pub warmup_ratio: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Clipping; 0 is off.
    pub max_grad_norm: f64,
    /// Optimizer steps.
    pub total_steps: u64,
    /// Examples of a step.
    pub batch_size: u32,
    /// The seed.
    pub seed: u64,
    /// Whether epochs are shuffled.
    pub shuffled: bool,
    /// Similar lengths in one step.
    pub length_buckets: bool,
}

/// What is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubjectRecipe {
    /// A LoRA adapter.
    Lora {
        /// Rank.
        rank: u32,
        /// Alpha.
        alpha: f64,
        /// Dropout.
        dropout: f64,
        /// Scale by `alpha / sqrt(rank)`.
        use_rslora: bool,
        /// Adapted layers.
        target_modules: Vec<String>,
        /// Digest of the adapter that the training began with.
        initial: Option<String>,
    },
    /// All weights.
    Full,
}

impl Recipe {
    /// What differs from `other`, in words; none where they are equal.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<String> {
        let (ours, theirs) = (
            serde_json::to_value(self).ok()?,
            serde_json::to_value(other).ok()?,
        );
        let mut found = Vec::new();
        compare("", &ours, &theirs, &mut found);
        (!found.is_empty()).then(|| found.join("; "))
    }
}

fn compare(path: &str, ours: &Value, theirs: &Value, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(left), Value::Object(right)) => {
            let extra = right.keys().filter(|key| !left.contains_key(*key));
            for key in left.keys().chain(extra) {
                let below = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                compare(&below, &ours[key], &theirs[key], found);
            }
        }
        _ if ours == theirs => {}
        _ => found.push(format!("{path} is {theirs} there and {ours} here")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn difference_names_the_fields() {
        let recipe = Recipe {
            method: "sft".to_owned(),
            subject: SubjectRecipe::Full,
            base_model: "a".to_owned(),
            data: "b".to_owned(),
            train_examples: 3,
            learning_rate: 1e-3,
            schedule: Schedule::Linear,
            warmup_ratio: 0.0,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            total_steps: 9,
            batch_size: 1,
            seed: 0,
            shuffled: true,
            length_buckets: false,
        };
        assert_eq!(recipe.difference(&recipe), None);
        let other = Recipe {
            learning_rate: 2e-3,
            total_steps: 8,
            ..recipe.clone()
        };
        assert_eq!(
            recipe.difference(&other).unwrap(),
            "learning_rate is 0.002 there and 0.001 here; total_steps is 8 there and 9 here"
        );
        let text = serde_json::to_string(&recipe).unwrap();
        assert_eq!(serde_json::from_str::<Recipe>(&text).unwrap(), recipe);
    }
}
