//! The gang loop: all jobs of a process take their steps together over the shared base model.
//!
//! A cycle is one optimizer step of every job that is not paused. Between cycles jobs join, leave and hear commands. What
//! goes wrong in one job ends that job alone; what leaves LibTorch in doubt ends the process.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use tch::Tensor;
use tunesmith_types::trainer::{StopReason, TrainerCommand};

use crate::ahead::StepInput;
use crate::assignment::Assignment;
use crate::base::Base;
use crate::commands::Message;
use crate::error::TrainError;
use crate::job::{Job, StepNumbers};
use crate::passes::{Limits, PassFailure, accumulate};
use crate::preparation::{Loading, Preparations};
use crate::report::{Audience, Reporter};

mod membership;

/// All jobs of a process.
#[derive(Debug)]
pub struct Gang<'a> {
    base: &'a Base,
    audience: Audience,
    preparations: Preparations,
    inbox: Receiver<Message>,
    /// In the order in which they joined.
    jobs: Vec<Job>,
    loading: Vec<Loading>,
    /// Of its passes; tightened when memory runs out.
    limits: Limits,
    /// Whether no job will join any more.
    is_closed: bool,
    failures: u64,
}

impl<'a> Gang<'a> {
    /// An empty gang on a base model, that hears of `inbox`, whose other end `preparations` has.
    #[must_use]
    pub fn new(
        base: &'a Base,
        audience: Audience,
        preparations: Preparations,
        inbox: Receiver<Message>,
    ) -> Self {
        Self {
            base,
            audience,
            preparations,
            inbox,
            jobs: Vec::new(),
            loading: Vec::new(),
            limits: Limits {
                budget: base.budget,
                whole: usize::MAX,
            },
            is_closed: false,
            failures: 0,
        }
    }

    /// No job will join any more: [`Self::run`] returns when the last one has ended.
    pub fn close(&mut self) {
        self.is_closed = true;
    }

    /// Trains until the gang is closed and its last job has ended. Returns how many jobs failed.
    ///
    /// # Errors
    /// LibTorch is in a state that nobody knows.
    pub fn run(mut self) -> Result<u64, TrainError> {
        loop {
            self.hear()?;
            if self.jobs.iter().any(|job| !job.is_paused) {
                self.cycle()?;
            } else if self.is_closed && self.jobs.is_empty() && self.loading.is_empty() {
                return Ok(self.failures);
            }
        }
    }

    /// Takes all messages that are there; waits for one where there is nothing else to do.
    fn hear(&mut self) -> Result<(), TrainError> {
        loop {
            let is_idle = self.jobs.iter().all(|job| job.is_paused);
            let is_over = self.is_closed && self.jobs.is_empty() && self.loading.is_empty();
            let message = if is_idle && !is_over {
                self.inbox.recv().ok()
            } else {
                self.inbox.try_recv().ok()
            };
            match message {
                Some(message) => self.take(message)?,
                None => return Ok(()),
            }
        }
    }

    fn take(&mut self, message: Message) -> Result<(), TrainError> {
        match message {
            Message::Command(command) => self.obey(command),
            Message::Unreadable { job, reason } => {
                self.refuse(job.as_deref(), &format!("a command is not valid: {reason}"));
                Ok(())
            }
            Message::Prepared { number, result } => self.begin(number, *result),
        }
    }

    fn obey(&mut self, command: TrainerCommand) -> Result<(), TrainError> {
        match command {
            TrainerCommand::Join { job } => {
                self.join(Assignment::from(*job));
                Ok(())
            }
            TrainerCommand::Cancel { job } => self.stop(job.as_deref(), StopReason::Cancelled),
            TrainerCommand::Drain { job } => self.stop(job.as_deref(), StopReason::Drained),
            TrainerCommand::Pause { job } => {
                self.pause(job.as_deref(), true);
                Ok(())
            }
            TrainerCommand::Resume { job } => {
                self.pause(job.as_deref(), false);
                Ok(())
            }
            TrainerCommand::Finish => {
                self.close();
                Ok(())
            }
        }
    }

    /// One optimizer step of every job that is not paused.
    fn cycle(&mut self) -> Result<(), TrainError> {
        let begun = Instant::now();
        let active: Vec<usize> = (0..self.jobs.len())
            .filter(|index| !self.jobs[*index].is_paused)
            .collect();
        let mut inputs = Vec::with_capacity(active.len());
        for index in &active {
            match self.jobs[*index].next_input() {
                Ok(input) => inputs.push(input),
                // The others take their step in the next cycle.
                Err(error) => return self.lose(*index, error),
            }
        }
        let losses = match self.gradients(&active, &inputs) {
            Ok(losses) => losses,
            Err(failure) => return self.drop_members(&active, failure),
        };
        let numbers = self.read(&active, &losses)?;
        let mut results = Vec::with_capacity(active.len());
        for ((index, input), (loss_sum, grad_norm)) in active.iter().zip(&inputs).zip(numbers) {
            let numbers = StepNumbers {
                loss_sum,
                grad_norm,
                seconds: begun.elapsed().as_secs_f64(),
            };
            let (base, budget) = (self.base, self.limits.budget);
            results.push(self.jobs[*index].step(base, budget, input, numbers));
        }
        // From the back, so that places stay right.
        for (index, result) in active.iter().zip(results).rev() {
            match result {
                Err(error) => self.lose(*index, error)?,
                Ok(()) => self.deliver_if_done(*index)?,
            }
        }
        Ok(())
    }

    /// Sums the gradients of a cycle into the jobs' buffers.
    fn gradients(&mut self, active: &[usize], inputs: &[Arc<StepInput>]) -> Result<Vec<Tensor>, PassFailure> {
        let jobs: Vec<&Job> = active.iter().map(|index| &self.jobs[*index]).collect();
        let contributions: Vec<_> = jobs
            .iter()
            .zip(inputs)
            .map(|(job, input)| job.contribution(&input.documents))
            .collect();
        let model = &self.base.model;
        let full = jobs.first().and_then(|job| job.full());
        let limits = self.limits_of(&jobs);
        let mut tightened = limits;
        let losses = accumulate(&contributions, &mut tightened, &mut |segments, keep| match full {
            Some(full) => full.train_pass(model, segments, keep),
            None => model.train_pass_keeping(segments, keep),
        });
        if tightened != limits {
            self.limits = tightened;
            let Limits { budget, whole } = tightened;
            self.process_reporter().warning(format!(
                "The device ran out of memory, so a pass has at most {budget} tokens from now on, and one of more than \
                 {whole} tokens recomputes its activations."
            ));
        }
        losses
    }

    /// The member that takes most memory decides how large a pass may be that keeps all its activations.
    fn limits_of(&self, jobs: &[&Job]) -> Limits {
        let whole = jobs.iter().map(|job| self.base.whole_tokens(job.adapter())).min();
        Limits {
            whole: self.limits.whole.min(whole.unwrap_or(usize::MAX)),
            ..self.limits
        }
    }

    /// Loss sums and gradient norms, in one transfer: the only place of a cycle that waits for the device.
    fn read(&self, active: &[usize], losses: &[Tensor]) -> Result<Vec<(f64, f64)>, TrainError> {
        let mut scalars: Vec<Tensor> = losses.iter().map(Tensor::shallow_clone).collect();
        for index in active {
            scalars.push(self.jobs[*index].gradient_norm()?);
        }
        let numbers = Vec::<f64>::try_from(Tensor::f_stack(&scalars, 0)?)?;
        let (losses, norms) = numbers.split_at(active.len());
        Ok(losses.iter().copied().zip(norms.iter().copied()).collect())
    }

    /// Memory did not suffice the second time either: those whose documents were in the pass leave, and the others
    /// take the step again.
    fn drop_members(&mut self, active: &[usize], failure: PassFailure) -> Result<(), TrainError> {
        let PassFailure { members, error, .. } = failure;
        let code = error.code();
        let error = TrainError::from(*error);
        if error.ends_the_process() {
            return Err(error);
        }
        let message = error.to_string();
        for member in members.into_iter().rev() {
            let error = TrainError::Pass {
                code,
                message: message.clone(),
            };
            self.lose(active[member], error)?;
        }
        Ok(())
    }

    fn process_reporter(&self) -> Reporter {
        Reporter::new(self.audience, None)
    }
}
