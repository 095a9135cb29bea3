//! From what is asked for to what a job runs with.

use super::Schedule;
use super::bounded::*;
use super::request::HyperparametersRequest;
use super::resolved::{Batch, DEFAULT_DECAY_RATIO, Duration, Hyperparameters};
use super::targets::{AlphaPattern, RankPattern, TargetForm, TargetModules, check_keys};
use crate::error::ParameterError;

impl HyperparametersRequest {
    /// Fills in the defaults and checks every bound. `base_model_limit`: the longest sequence of the base model.
    /// Evaluation data is what `eval_fraction` holds out.
    ///
    /// # Errors
    /// The first field outside its bounds, or two fields that contradict each other.
    pub fn resolve(&self, base_model_limit: Option<u32>) -> Result<Hyperparameters, ParameterError> {
        let resolved = self.resolve_with_evaluation_data(base_model_limit)?;
        check_evaluation(&resolved)?;
        Ok(resolved)
    }

    /// As [`Self::resolve`], for a job that has a file of evaluation data of its own, so that an `eval_fraction` of 0
    /// contradicts nothing.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub fn resolve_with_evaluation_data(
        &self,
        base_model_limit: Option<u32>,
    ) -> Result<Hyperparameters, ParameterError> {
        let resolved = self.bounded(base_model_limit)?;
        self.check_schedule(&resolved)?;
        self.check_early_stopping(&resolved)?;
        check_layers(&resolved)?;
        Ok(resolved)
    }

    fn bounded(&self, base_model_limit: Option<u32>) -> Result<Hyperparameters, ParameterError> {
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
        check_keys("rank_pattern", &pattern)?;
        Ok(pattern)
    }

    fn resolve_alpha_pattern(&self) -> Result<AlphaPattern, ParameterError> {
        let pattern = self.alpha_pattern.clone().unwrap_or_default();
        check_keys("alpha_pattern", &pattern)?;
        Ok(pattern)
    }

    fn resolve_layers(&self) -> Result<Option<Vec<u32>>, ParameterError> {
        let Some(mut layers) = self.layers_to_transform.clone() else {
            return Ok(None);
        };
        layers.sort_unstable();
        layers.dedup();
        let message = match layers.last() {
            None => "`layers_to_transform` is empty; leave it out for all blocks.".to_owned(),
            Some(last) if *last >= MOST_LAYERS => {
                format!(
                    "`layers_to_transform` counts blocks from 0 to {}; {last} was given.",
                    MOST_LAYERS - 1
                )
            }
            Some(_) => return Ok(Some(layers)),
        };
        Err(ParameterError::new("layers_to_transform", message))
    }

    fn resolve_batch(&self) -> Result<Batch, ParameterError> {
        match (self.batch_size, self.batch_tokens) {
            (Some(_), Some(_)) => Err(ParameterError::new(
                "batch_tokens",
                "Give `batch_size` or `batch_tokens`, not both.",
            )),
            (None, Some(tokens)) => BatchTokens::new(tokens).map(Batch::BatchTokens),
            (size, None) => BatchSize::new(size.unwrap_or(16)).map(Batch::BatchSize),
        }
    }

    fn resolve_duration(&self) -> Result<Duration, ParameterError> {
        match (self.epochs, self.max_steps) {
            (Some(_), Some(_)) => Err(ParameterError::new(
                "max_steps",
                "Give `epochs` or `max_steps`, not both.",
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

    /// The falling share belongs to one schedule, and must leave room for the rising one.
    fn check_schedule(&self, resolved: &Hyperparameters) -> Result<(), ParameterError> {
        let refuse = |message: String| Err(ParameterError::new("decay_ratio", message));
        if resolved.schedule != Schedule::WarmupStableDecay {
            if self.decay_ratio.is_some() {
                return refuse(
                    "`decay_ratio` is only for the schedule `warmup_stable_decay`; leave it out, or set `schedule`."
                        .to_owned(),
                );
            }
            return Ok(());
        }
        let (warmup, decay) = (resolved.warmup_ratio.get(), resolved.decay_ratio.get());
        if warmup + decay > 1.0 + ROUNDING {
            return refuse(format!(
                "`warmup_ratio` and `decay_ratio` must be at most 1 together, for both are shares of the same steps; \
                 they are {warmup} and {decay}."
            ));
        }
        Ok(())
    }

    fn check_early_stopping(&self, resolved: &Hyperparameters) -> Result<(), ParameterError> {
        if resolved.early_stopping_patience.is_none() {
            if self.early_stopping_threshold.is_some() {
                return Err(ParameterError::new(
                    "early_stopping_threshold",
                    "`early_stopping_threshold` does nothing without `early_stopping_patience`; give both or neither.",
                ));
            }
            return Ok(());
        }
        if resolved.eval_every.is_some_and(|steps| steps.get() == 0) {
            return Err(ParameterError::new(
                "early_stopping_patience",
                "`early_stopping_patience` needs evaluations during training, but `eval_every` is 0, which evaluates \
                 only at the end; raise it, or leave it out for one evaluation per epoch.",
            ));
        }
        Ok(())
    }
}

/// What is decided by evaluations needs data to evaluate on.
fn check_evaluation(resolved: &Hyperparameters) -> Result<(), ParameterError> {
    if resolved.eval_fraction.get() > 0.0 {
        return Ok(());
    }
    let wanting = [
        (
            "early_stopping_patience",
            resolved.early_stopping_patience.is_some(),
        ),
        ("load_best_model_at_end", resolved.load_best_model_at_end),
    ];
    match wanting.into_iter().find(|(_, asked)| *asked) {
        None => Ok(()),
        Some((field, _)) => Err(ParameterError::new(
            field,
            format!(
                "`{field}` needs evaluation data, but `eval_fraction` is 0; hold some examples out (0.05, say), or \
                 leave `{field}` out."
            ),
        )),
    }
}

/// A pattern names its blocks itself; PEFT refuses the two together as well.
fn check_layers(resolved: &Hyperparameters) -> Result<(), ParameterError> {
    if resolved.layers_to_transform.is_some()
        && matches!(resolved.target_modules.form(), TargetForm::Pattern(_))
    {
        return Err(ParameterError::new(
            "layers_to_transform",
            "`layers_to_transform` cannot be given where `target_modules` is a regular expression; name the blocks in \
             the expression (`.*layers\\.[0-3]\\..*q_proj`), or give a list of module names.",
        ));
    }
    Ok(())
}

/// Deepest model: number of its blocks.
const MOST_LAYERS: u32 = 1024;
/// Slack for shares that add up to one.
const ROUNDING: f64 = 1e-9;

fn interval(field: &str, steps: u64) -> Result<StepInterval, ParameterError> {
    StepInterval::new(steps).map_err(|error| {
        ParameterError::new(
            field,
            error.message.replacen("`interval`", &format!("`{field}`"), 1),
        )
    })
}
