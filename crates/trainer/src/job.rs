//! One job of a gang: its data, adapter, optimizer and state, and how it begins, goes on and ends.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tch::{Tensor, no_grad_guard};
use tunesmith_model::Adapter;
use tunesmith_types::hyperparameters::Hyperparameters;
use tunesmith_types::probe::Probe;
use tunesmith_types::trainer::{StopReason, TrainerEvent};

use crate::ahead::{Ahead, StepInput};
use crate::assignment::Assignment;
use crate::base::Base;
use crate::checkpoint::{self, Snapshot, State};
use crate::data::Data;
use crate::device::{device_name, kind_name, pick_kind};
use crate::disk::{self, Need};
use crate::documents::Documents;
use crate::error::TrainError;
use crate::files::write_into;
use crate::full::FullModel;
use crate::optimizer::AdamW;
use crate::passes::Contribution;
use crate::preparation::Prepared;
use crate::probes::write_probes;
use crate::recipe::Recipe;
use crate::report::Reporter;
use crate::schedule::LearningRateSchedule;
use crate::steps_log::StepsLog;
use crate::subject::Subject;

mod step;

pub use step::StepNumbers;

/// A job that is ready to take steps.
#[derive(Debug)]
pub struct Job {
    assignment: Assignment,
    asked: Hyperparameters,
    reporter: Reporter,
    data: Arc<Data>,
    ahead: Ahead,
    /// Tokens of the longest training example.
    longest: usize,
    schedule: LearningRateSchedule,
    subject: Subject,
    /// Float32, like the subject's flat buffer.
    gradient: Tensor,
    optimizer: AdamW,
    state: State,
    /// Trained values of the best evaluation, on the CPU, where they may be delivered.
    best: Option<Tensor>,
    /// The newest checkpoint that a resume can begin from.
    saved: Option<(u64, PathBuf)>,
    /// Whether it takes no steps for now.
    pub is_paused: bool,
}

impl Job {
    /// Makes the tensors of a job, and tells that it has started.
    ///
    /// # Errors
    /// The adapter does not fit, the checkpoint is not whole or belongs to another job, or the disk has too little room.
    pub fn begin(base: &Base, prepared: Prepared, mut reporter: Reporter) -> Result<Self, TrainError> {
        check_dtype(base, &prepared.asked)?;
        for warning in &prepared.data.warnings {
            reporter.warning(warning.clone());
        }
        let subject = subject(base, &prepared)?;
        let recipe = Recipe::new(&prepared, base)?;
        let mut optimizer = AdamW::new(subject.flat(), subject.ranges(&prepared.asked))?;
        let (mut state, mut best) = (State::new(recipe), None);
        if let Some(path) = &prepared.resumed {
            (state, best) = resume(path, state.recipe, &mut optimizer, base)?;
        }
        let (data, mut plan) = (Arc::new(prepared.data), prepared.plan);
        let (shared, longest) = (Arc::clone(&data), plan.longest());
        let steps = state.step..state.recipe.total_steps;
        let job = Self {
            ahead: Ahead::start(steps, move |step| StepInput::gather(&shared, &mut plan, step))?,
            longest,
            gradient: subject.flat().f_detach()?.f_zeros_like()?,
            schedule: LearningRateSchedule::new(&prepared.asked, prepared.total_steps),
            saved: prepared.resumed.map(|path| (state.step, path)),
            assignment: prepared.assignment,
            asked: prepared.asked,
            data,
            reporter,
            subject,
            optimizer,
            state,
            best,
            is_paused: false,
        };
        job.check_disk()?;
        job.tell_start(base)
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.assignment.spec.id
    }

    /// Whether no step is left.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state.step >= self.state.recipe.total_steps || self.state.selection.stopped_early
    }

    /// Where all weights are trained, the model that is.
    #[must_use]
    pub fn full(&self) -> Option<&FullModel> {
        match &self.subject {
            Subject::Full(full) => Some(full),
            Subject::Adapter(_) => None,
        }
    }

    /// Its adapter, where it has one.
    #[must_use]
    pub fn adapter(&self) -> Option<&Adapter> {
        self.subject.as_adapter()
    }

    /// Tokens of the longest training example.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// What the next step takes; the same as often as it is asked for before that step.
    ///
    /// # Errors
    /// The job's tokens are lost.
    pub fn next_input(&mut self) -> Result<Arc<StepInput>, TrainError> {
        self.ahead.input(self.state.step)
    }

    /// What the job brings to a cycle.
    #[must_use]
    pub fn contribution<'a>(&'a self, documents: &'a Documents) -> Contribution<'a> {
        Contribution {
            adapter: self.subject.as_adapter(),
            gradient: &self.gradient,
            dropout: self.asked.dropout.get(),
            seed: u64::from(self.asked.seed.get()),
            step: self.state.step,
            documents,
        }
    }

    /// Writes what the user gets, and tells that the job has finished.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn deliver(&mut self, base: &Base) -> Result<(), TrainError> {
        let mut delivered_step = self.state.step;
        if let (Some(values), Some(best)) = (&self.best, self.state.selection.best) {
            self.subject.replace(values)?;
            delivered_step = best.step;
        }
        let probes = self.probes(base)?;
        let out = &self.assignment.spec.out;
        write_into(out, |aside| {
            self.subject.save_result(aside, base)?;
            probes.map_or(Ok(()), |probes| write_probes(aside, &probes))
        })?;
        self.reporter.tell(TrainerEvent::Finished {
            steps: self.state.step,
            path: out.display().to_string(),
            delivered_step,
            stopped_early: self.state.selection.stopped_early,
        });
        Ok(())
    }

    /// What the adapter answers to prompts of its data. An adapter is worth more than its probes: where they cannot be
    /// recorded it is delivered without.
    fn probes(&mut self, base: &Base) -> Result<Option<Vec<Probe>>, TrainError> {
        let Some(adapter) = self.subject.as_adapter() else {
            return Ok(None);
        };
        match self.data.probe_prompts.record(base, adapter) {
            Ok(probes) => Ok(Some(probes)),
            Err(error) if error.ends_the_process() => Err(error),
            Err(error) => {
                self.reporter
                    .warning(format!("The adapter has no golden probes: {error}"));
                Ok(None)
            }
        }
    }

    /// Ends on a command; draining leaves a checkpoint of the last step.
    ///
    /// # Errors
    /// The checkpoint cannot be written.
    pub fn stop(&mut self, reason: StopReason, base: &Base) -> Result<(), TrainError> {
        let step = self.state.step;
        if reason == StopReason::Drained && step > 0 && !self.is_saved() {
            self.save_checkpoint(base)?;
        }
        let checkpoint = self.saved.as_ref().map(|(_, path)| path.display().to_string());
        self.reporter.stopped(step, reason, checkpoint);
        Ok(())
    }

    /// Tells that the job has failed.
    pub fn fail(&mut self, error: &TrainError) {
        self.reporter.failed(error);
    }

    fn is_saved(&self) -> bool {
        self.saved
            .as_ref()
            .is_some_and(|(step, _)| *step == self.state.step)
    }

    fn save_checkpoint(&mut self, base: &Base) -> Result<(), TrainError> {
        let folder = self.assignment.checkpoints();
        let probes = self.probes(base)?;
        let path = self.snapshot().save(&folder, base, probes.as_deref())?;
        self.reporter.tell(TrainerEvent::Checkpoint {
            step: self.state.step,
            path: path.display().to_string(),
        });
        self.saved = Some((self.state.step, path));
        checkpoint::prune(&folder, self.state.step, self.assignment.spec.keep_checkpoints)
    }

    fn snapshot(&self) -> Snapshot<'_> {
        Snapshot {
            subject: &self.subject,
            moments: self.optimizer.moments(),
            best: self.best.as_ref(),
            state: &self.state,
        }
    }

    fn check_disk(&self) -> Result<(), TrainError> {
        let (spec, size) = (&self.assignment.spec, self.optimizer.size());
        let steps_left = self.state.recipe.total_steps.saturating_sub(self.state.step);
        let need = Need {
            checkpoint: checkpoint::bytes(size, self.asked.load_best_model_at_end),
            count: steps_left
                .checked_div(self.asked.checkpoint_every.get())
                .unwrap_or(0)
                + 1,
            kept: spec.keep_checkpoints as u64,
            keeps_best: self.asked.load_best_model_at_end,
            result: 4 * size,
        };
        disk::check(&self.assignment.checkpoints(), need)?;
        let result_only = Need {
            count: 0,
            keeps_best: false,
            ..need
        };
        disk::check(&spec.out, result_only)
    }

    fn tell_start(mut self, base: &Base) -> Result<Self, TrainError> {
        if let Some(path) = &self.assignment.spec.steps_log {
            self.reporter.log_steps(StepsLog::open(path, self.state.step)?);
        }
        self.reporter.tell(TrainerEvent::Started {
            total_steps: self.state.recipe.total_steps,
            train_examples: self.data.train.len() as u64,
            eval_examples: self.data.eval.len() as u64,
            trainable_parameters: self.optimizer.size(),
            device: device_name(base.device),
            dtype: kind_name(base.kind).to_owned(),
            resumed_from_step: self.state.step,
        });
        Ok(self)
    }
}

/// The base model has one number format for all.
fn check_dtype(base: &Base, asked: &Hyperparameters) -> Result<(), TrainError> {
    let wanted = pick_kind(asked.dtype, base.device);
    if asked.dtype == Default::default() || wanted == base.kind {
        return Ok(());
    }
    Err(TrainError::Arguments(format!(
        "`dtype` is {}, but the base model is loaded in {}",
        kind_name(wanted),
        kind_name(base.kind)
    )))
}

fn subject(base: &Base, prepared: &Prepared) -> Result<Subject, TrainError> {
    if let Some(save_kind) = prepared.assignment.extras.full {
        return Ok(Subject::Full(FullModel::new(&base.model, save_kind)?));
    }
    let initial = prepared.assignment.spec.init_adapter.as_deref();
    Subject::adapter(base, &prepared.asked, prepared.resumed.as_deref().or(initial))
}

/// State and best values of the checkpoint at `path`, if it belongs to `recipe`; the optimizer gets its moments.
fn resume(
    path: &Path,
    recipe: Recipe,
    optimizer: &mut AdamW,
    base: &Base,
) -> Result<(State, Option<Tensor>), TrainError> {
    let _guard = no_grad_guard();
    let state = checkpoint::read_state(path)?;
    if let Some(difference) = recipe.difference(&state.recipe) {
        return Err(TrainError::CheckpointMismatch {
            path: path.to_path_buf(),
            difference,
        });
    }
    let size = optimizer.size();
    let moments = checkpoint::read_moments(path, state.step, size, base.device)?;
    optimizer.restore(&moments)?;
    let has_best = recipe.load_best_model_at_end && state.selection.best.is_some();
    let best = has_best.then(|| checkpoint::read_best(path, size)).transpose()?;
    Ok((state, best))
}
