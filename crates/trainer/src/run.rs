//! The recipe: from the command line to the finished folder.

use std::path::{Path, PathBuf};
use std::time::Instant;

use tch::{Device, Tensor};
use tunesmith_dataset::Encoder;
use tunesmith_model::digest::base_model_digest;
use tunesmith_model::{DropoutKey, ModelConfig};
use tunesmith_types::trainer::{StopReason, TrainerEvent, TrainerStep};

use crate::checkpoint::{self, State};
use crate::cli::TrainArgs;
use crate::commands::StopRequest;
use crate::data::Data;
use crate::device::{device_name, kind_name, pick_device, pick_kind};
use crate::error::TrainError;
use crate::evaluate::evaluate;
use crate::files::write_into;
use crate::loss::backward;
use crate::micro_batch::{MicroBatch, default_tokens, split};
use crate::optimizer::AdamW;
use crate::plan::Plan;
use crate::recipe::{Recipe, Settings};
use crate::report::Reporter;
use crate::schedule::LearningRateSchedule;
use crate::steps_log::StepsLog;
use crate::subject::Subject;

/// Trains as `args` say, and tells `reporter` all but a failure.
///
/// # Errors
/// Why the training failed; checkpoints that were written stay.
pub fn train(args: &TrainArgs, stop: &StopRequest, reporter: &mut Reporter) -> Result<(), TrainError> {
    Run::prepare(args, reporter)?.drive(stop, reporter)
}

/// A training that is ready to take steps.
struct Run<'a> {
    args: &'a TrainArgs,
    settings: Settings,
    data: Data,
    subject: Subject,
    optimizer: AdamW,
    plan: Plan,
    schedule: LearningRateSchedule,
    state: State,
    device: Device,
    budget: usize,
    base_name: String,
    checkpoints: PathBuf,
    /// Step of the newest checkpoint of this run.
    saved: Option<(u64, PathBuf)>,
}

impl<'a> Run<'a> {
    fn prepare(args: &'a TrainArgs, reporter: &mut Reporter) -> Result<Self, TrainError> {
        let config = ModelConfig::from_folder(&args.base)?;
        let settings = Settings::new(args, config.max_positions)?;
        let device = pick_device(&args.device)?;
        let kind = pick_kind(args.dtype, device);
        let checkpoints = args
            .checkpoint_dir
            .clone()
            .unwrap_or_else(|| args.out.join("checkpoints"));
        let resumed = match &args.resume {
            Some(path) => Some(checkpoint::find(path)?),
            None if checkpoint::list(&checkpoints)?.is_empty() => None,
            None => return Err(TrainError::CheckpointsExist { path: checkpoints }),
        };
        let encoder = Encoder::load(&args.base)?;
        let data = Data::load(args, &settings, &encoder, config.vocab_size)?;
        for warning in &data.warnings {
            reporter.warning(warning.clone());
        }
        let subject = Subject::load(args, &settings, resumed.as_deref(), device, kind)?;
        let plan = plan(&settings, &data);
        let total_steps = match settings.max_steps {
            Some(steps) => steps.get(),
            None => plan.steps_per_epoch() * u64::from(settings.epochs.get()),
        };
        let recipe = recipe(args, &settings, &data, &subject, total_steps)?;
        let mut optimizer = AdamW::new(&subject.parameters(), settings.weight_decay.get())?;
        let state = match &resumed {
            Some(path) => resume(path, recipe, &mut optimizer, device)?,
            None => State::new(0, 0, 0, recipe),
        };
        if let Some(path) = &args.steps_log {
            reporter.log_steps(StepsLog::open(path, state.step)?);
        }
        reporter.tell(&TrainerEvent::Started {
            total_steps,
            train_examples: data.train.len() as u64,
            eval_examples: data.eval.len() as u64,
            trainable_parameters: optimizer.size(),
            device: device_name(device),
            dtype: kind_name(kind).to_owned(),
            resumed_from_step: state.step,
        });
        Ok(Self {
            schedule: LearningRateSchedule::new(
                settings.learning_rate.get(),
                settings.schedule,
                settings.warmup_ratio.get(),
                total_steps,
            ),
            budget: args
                .micro_batch_tokens
                .unwrap_or_else(|| default_tokens(&config, device)),
            base_name: args
                .base_name
                .clone()
                .unwrap_or_else(|| args.base.display().to_string()),
            saved: resumed.map(|path| (state.step, path)),
            args,
            settings,
            data,
            subject,
            optimizer,
            plan,
            state,
            device,
            checkpoints,
        })
    }

    fn drive(mut self, stop: &StopRequest, reporter: &mut Reporter) -> Result<(), TrainError> {
        let total_steps = self.state.recipe.total_steps;
        while self.state.step < total_steps {
            if let Some(reason) = stop.reason() {
                return self.stop(reason, reporter);
            }
            let step = self.step()?;
            reporter.step(step)?;
            let is_last = self.state.step == total_steps;
            if self.is_evaluated(is_last) {
                self.evaluate(reporter)?;
            }
            let every = self.args.checkpoint_every;
            if is_last || every > 0 && self.state.step.is_multiple_of(every) {
                self.save_checkpoint(reporter)?;
            }
        }
        write_into(&self.args.out, |aside| {
            self.subject.save_result(aside, self.args, &self.base_name)
        })?;
        reporter.tell(&TrainerEvent::Finished {
            steps: total_steps,
            path: self.args.out.display().to_string(),
        });
        Ok(())
    }

    /// One optimizer step.
    fn step(&mut self) -> Result<TrainerStep, TrainError> {
        let begun = Instant::now();
        let index = self.state.step;
        let members: Vec<usize> = self
            .plan
            .step(index)
            .iter()
            .map(|place| self.data.train[*place])
            .collect();
        let corpus = &self.data.corpus;
        let tokens: usize = members.iter().map(|member| corpus.length(*member)).sum();
        let supervised: usize = members.iter().map(|member| corpus.targets(*member)).sum();
        let weight = 1.0 / supervised as f64;
        let mut losses = Vec::new();
        for (number, group) in split(corpus, &members, self.budget).iter().enumerate() {
            let batch = MicroBatch::new(corpus, group, self.device)?;
            let dropout = DropoutKey {
                seed: self.settings.seed,
                step: index,
                micro_batch: number as u64,
            };
            let (model, adapter) = (&self.subject.model, self.subject.adapter.as_ref());
            losses.push(backward(model, adapter, &batch, weight, Some(dropout))?);
        }
        let learning_rate = self.schedule.at(index);
        let norm = self
            .optimizer
            .step(learning_rate, self.settings.max_grad_norm.get())?;
        // The only place of a step that waits for the device.
        let loss_sum = Tensor::f_stack(&losses, 0)?.f_sum(tch::Kind::Double)?;
        let numbers = Vec::<f64>::try_from(Tensor::f_stack(&[loss_sum, norm], 0)?)?;
        let (loss, grad_norm) = (numbers[0] * weight, numbers[1]);
        for (what, value) in [("loss", loss), ("gradient", grad_norm)] {
            if !value.is_finite() {
                return Err(TrainError::NonFinite {
                    step: index + 1,
                    what,
                });
            }
        }
        self.state.step += 1;
        self.state.tokens += tokens as u64;
        self.state.supervised_tokens += supervised as u64;
        Ok(TrainerStep {
            step: self.state.step,
            total_steps: self.state.recipe.total_steps,
            epoch: self.state.step as f64 / self.plan.steps_per_epoch() as f64,
            loss,
            lr: learning_rate,
            grad_norm,
            tokens: tokens as u64,
            supervised_tokens: supervised as u64,
            seconds: begun.elapsed().as_secs_f64(),
        })
    }

    fn is_evaluated(&self, is_last: bool) -> bool {
        let every = self
            .args
            .eval_every
            .unwrap_or_else(|| self.plan.steps_per_epoch());
        !self.data.eval.is_empty() && (is_last || every > 0 && self.state.step.is_multiple_of(every))
    }

    fn evaluate(&self, reporter: &mut Reporter) -> Result<(), TrainError> {
        let evaluation = evaluate(
            &self.subject.model,
            self.subject.adapter.as_ref(),
            self.data.eval_corpus(),
            &self.data.eval,
            self.budget,
            self.device,
        )?;
        reporter.evaluation(self.state.step, &evaluation)
    }

    fn save_checkpoint(&mut self, reporter: &mut Reporter) -> Result<(), TrainError> {
        let moments = self.optimizer.moments();
        let path = checkpoint::save(
            &self.checkpoints,
            &self.subject,
            &moments,
            &self.state,
            &self.base_name,
        )?;
        reporter.tell(&TrainerEvent::Checkpoint {
            step: self.state.step,
            path: path.display().to_string(),
        });
        self.saved = Some((self.state.step, path));
        checkpoint::prune(&self.checkpoints, self.state.step, self.args.keep_checkpoints)
    }

    fn stop(mut self, reason: StopReason, reporter: &mut Reporter) -> Result<(), TrainError> {
        let step = self.state.step;
        let is_saved = |saved: &Option<(u64, PathBuf)>| saved.as_ref().is_some_and(|(at, _)| *at == step);
        if reason == StopReason::Drained && step > 0 && !is_saved(&self.saved) {
            self.save_checkpoint(reporter)?;
        }
        let checkpoint = self.saved.map(|(_, path)| path.display().to_string());
        reporter.stopped(step, reason, checkpoint);
        Ok(())
    }
}

fn plan(settings: &Settings, data: &Data) -> Plan {
    let lengths = data.train.iter().map(|place| data.corpus.length(*place));
    Plan::new(
        settings.order(),
        settings.seed,
        settings.length_buckets,
        settings.batch_size.get() as usize,
        lengths.collect(),
    )
}

fn recipe(
    args: &TrainArgs,
    settings: &Settings,
    data: &Data,
    subject: &Subject,
    total_steps: u64,
) -> Result<Recipe, TrainError> {
    Ok(Recipe {
        method: "sft".to_owned(),
        subject: subject.recipe(args)?,
        base_model: base_model_digest(&args.base)?,
        data: data.corpus.digest(),
        train_examples: data.train.len() as u64,
        learning_rate: settings.learning_rate.get(),
        schedule: settings.schedule,
        warmup_ratio: settings.warmup_ratio.get(),
        weight_decay: settings.weight_decay.get(),
        max_grad_norm: settings.max_grad_norm.get(),
        total_steps,
        batch_size: settings.batch_size.get(),
        seed: settings.seed,
        shuffled: settings.shuffled,
        length_buckets: settings.length_buckets,
    })
}

/// The state of the checkpoint at `path`, if it belongs to `recipe`; the optimizer gets its moments.
fn resume(path: &Path, recipe: Recipe, optimizer: &mut AdamW, device: Device) -> Result<State, TrainError> {
    let state = checkpoint::read_state(path)?;
    if let Some(difference) = recipe.difference(&state.recipe) {
        return Err(TrainError::CheckpointMismatch {
            path: path.to_path_buf(),
            difference,
        });
    }
    let moments = checkpoint::read_moments(path, state.step, optimizer.size(), device)?;
    optimizer.restore(&moments)?;
    Ok(state)
}
