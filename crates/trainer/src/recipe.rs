//! What decides the course of a training. A checkpoint carries it, and is only resumed under the same one.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tunesmith_model::digest::file_digest;
use tunesmith_types::hyperparameters::{
    AlphaPattern, Batch, Hyperparameters, RankPattern, Schedule, TargetModules,
};

use crate::base::Base;
use crate::error::TrainError;
use crate::preparation::Prepared;

/// Everything that decides the course of a training; device, number format and intervals do not belong to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// `sft`.
    pub method: String,
    /// What is trained.
    pub subject: SubjectRecipe,
    /// Digest of the base model.
    pub base_model: String,
    /// Digest of tokens and weights.
    pub data: String,
    /// Training examples.
    pub train_examples: u64,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Learning rate of `B` over that of `A`.
    pub loraplus_lr_ratio: f64,
    /// Its course.
    pub schedule: Schedule,
    /// Share of warm-up steps.
    pub warmup_ratio: f64,
    /// Share of steps with a falling learning rate.
    pub decay_ratio: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Clipping; 0 is off.
    pub max_grad_norm: f64,
    /// Optimizer steps.
    pub total_steps: u64,
    /// Examples or tokens of a step.
    pub batch: Batch,
    /// The seed.
    pub seed: u32,
    /// Whether epochs are shuffled.
    pub shuffled: bool,
    /// Similar lengths in one step.
    pub length_buckets: bool,
    /// Evaluations without improvement after which the training stops.
    pub early_stopping_patience: Option<u32>,
    /// Least fall of the evaluation loss that counts.
    pub early_stopping_threshold: f64,
    /// Whether the adapter of the best evaluation is delivered.
    pub load_best_model_at_end: bool,
}

/// What is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubjectRecipe {
    /// A fresh LoRA adapter.
    Lora {
        /// Rank.
        rank: u32,
        /// Alpha.
        alpha: f64,
        /// Dropout.
        dropout: f64,
        /// Scale by `alpha / sqrt(rank)`.
        use_rslora: bool,
        /// Adapted modules.
        target_modules: TargetModules,
        /// Ranks of single modules.
        rank_pattern: RankPattern,
        /// Alphas of single modules.
        alpha_pattern: AlphaPattern,
        /// Adapted blocks.
        layers_to_transform: Option<Vec<u32>>,
    },
    /// An adapter that is trained further, with its own rank, alpha and modules.
    Adapter {
        /// Digests of its configuration and its tensors.
        initial: [String; 2],
        /// Dropout.
        dropout: f64,
    },
    /// All weights.
    Full,
}

impl SubjectRecipe {
    fn new(prepared: &Prepared) -> Result<Self, TrainError> {
        let (asked, assignment) = (&prepared.asked, &prepared.assignment);
        let dropout = asked.dropout.get();
        Ok(match &assignment.spec.init_adapter {
            _ if assignment.extras.full.is_some() => Self::Full,
            Some(folder) => Self::Adapter {
                initial: [
                    file_digest(&folder.join("adapter_config.json"))?,
                    file_digest(&folder.join("adapter_model.safetensors"))?,
                ],
                dropout,
            },
            None => Self::Lora {
                rank: asked.rank.get(),
                alpha: asked.alpha.get(),
                dropout,
                use_rslora: asked.use_rslora,
                target_modules: asked.target_modules.clone(),
                rank_pattern: asked.rank_pattern.clone(),
                alpha_pattern: asked.alpha_pattern.clone(),
                layers_to_transform: asked.layers_to_transform.clone(),
            },
        })
    }
}

impl Recipe {
    /// Of a job on a base model.
    ///
    /// # Errors
    /// The adapter to begin with cannot be read.
    pub fn new(prepared: &Prepared, base: &Base) -> Result<Self, TrainError> {
        let (asked, extras) = (&prepared.asked, &prepared.assignment.extras);
        Ok(Self {
            subject: SubjectRecipe::new(prepared)?,
            base_model: base.digest.clone(),
            data: prepared.data.digest.clone(),
            train_examples: prepared.data.train.len() as u64,
            total_steps: prepared.total_steps,
            shuffled: !extras.file_order,
            length_buckets: extras.length_buckets,
            ..Self::of_numbers(asked)
        })
    }

    fn of_numbers(asked: &Hyperparameters) -> Self {
        Self {
            method: "sft".to_owned(),
            subject: SubjectRecipe::Full,
            base_model: String::new(),
            data: String::new(),
            train_examples: 0,
            learning_rate: asked.learning_rate.get(),
            loraplus_lr_ratio: asked.loraplus_lr_ratio.get(),
            schedule: asked.schedule,
            warmup_ratio: asked.warmup_ratio.get(),
            decay_ratio: asked.decay_ratio.get(),
            weight_decay: asked.weight_decay.get(),
            max_grad_norm: asked.max_grad_norm.get(),
            total_steps: 0,
            batch: asked.batch,
            seed: asked.seed.get(),
            shuffled: true,
            length_buckets: false,
            early_stopping_patience: asked.early_stopping_patience.map(|patience| patience.get()),
            early_stopping_threshold: asked.early_stopping_threshold.get(),
            load_best_model_at_end: asked.load_best_model_at_end,
        }
    }

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
    use tunesmith_types::hyperparameters::HyperparametersRequest;

    #[test]
    fn difference_names_the_fields() {
        let asked = HyperparametersRequest {
            learning_rate: Some(1e-3),
            ..Default::default()
        };
        let recipe = Recipe::of_numbers(&asked.resolve(None).unwrap());
        assert_eq!(recipe.difference(&recipe), None);
        let other = Recipe {
            learning_rate: 2e-3,
            total_steps: 8,
            ..recipe.clone()
        };
        assert_eq!(
            recipe.difference(&other).unwrap(),
            "learning_rate is 0.002 there and 0.001 here; total_steps is 8 there and 0 here"
        );
        let text = serde_json::to_string(&recipe).unwrap();
        assert_eq!(serde_json::from_str::<Recipe>(&text).unwrap(), recipe);
    }
}
