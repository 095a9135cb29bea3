//! What a job does once its gradient is there: update, evaluation, checkpoint.

use tch::{Tensor, no_grad_guard};
use tunesmith_types::trainer::TrainerStep;

use crate::ahead::StepInput;
use crate::base::Base;
use crate::error::TrainError;
use crate::evaluate::evaluate;
use crate::job::Job;
use crate::optimizer::norm;

/// What was found out about a step before its update.
#[derive(Debug, Clone, Copy)]
pub struct StepNumbers {
    /// Σ weight · cross-entropy.
    pub loss_sum: f64,
    /// Norm of the gradient.
    pub grad_norm: f64,
    /// Seconds that the cycle has taken.
    pub seconds: f64,
}

impl Job {
    /// Norm of the gradient: a float64 scalar on the device, not read yet.
    ///
    /// # Errors
    /// LibTorch refused.
    pub fn gradient_norm(&self) -> Result<Tensor, TrainError> {
        norm(&self.gradient)
    }

    /// Takes the step whose gradient is there; evaluates and saves where that is due.
    ///
    /// # Errors
    /// Loss or gradient is not finite, and then nothing has changed; the evaluation failed, or a file cannot be written.
    pub fn step(
        &mut self,
        base: &Base,
        budget: usize,
        input: &StepInput,
        numbers: StepNumbers,
    ) -> Result<(), TrainError> {
        let documents = &input.documents;
        let loss = numbers.loss_sum / documents.weight_sum;
        for (what, value) in [("loss", loss), ("gradient", numbers.grad_norm)] {
            if !value.is_finite() {
                return Err(self.not_finite(self.state.step + 1, what, base));
            }
        }
        let lr = self.schedule.at(self.state.step);
        let clip = self.asked.max_grad_norm.get();
        self.optimizer.step(&self.gradient, numbers.grad_norm, lr, clip)?;
        let tokens = documents.token_count() as u64;
        self.state.step += 1;
        self.state.tokens += tokens;
        self.state.supervised_tokens += documents.supervised;
        self.reporter.step(TrainerStep {
            step: self.state.step,
            total_steps: self.state.recipe.total_steps,
            epoch: input.epochs_done,
            loss,
            lr,
            grad_norm: numbers.grad_norm,
            tokens,
            supervised_tokens: documents.supervised,
            seconds: numbers.seconds,
        })?;
        if self.is_evaluation_due(input.ends_epoch) {
            self.evaluate(base, budget)?;
        }
        if self.is_done() || is_due(self.asked.checkpoint_every.get(), self.state.step) {
            self.save_checkpoint(base)?;
        }
        Ok(())
    }

    /// Keeps the state as it was before the step that failed, so that the work so far is not lost.
    fn not_finite(&mut self, step: u64, what: &'static str, base: &Base) -> TrainError {
        if self.state.step > 0
            && !self.is_saved()
            && let Err(error) = self.save_checkpoint(base)
        {
            self.reporter.warning(error.to_string());
        }
        TrainError::NonFinite {
            step,
            what,
            kept: self.saved.as_ref().map(|(_, path)| path.clone()),
        }
    }

    fn is_evaluation_due(&self, ends_epoch: bool) -> bool {
        let step = self.state.step;
        let is_due = match self.asked.eval_every {
            Some(every) => is_due(every.get(), step),
            None => ends_epoch,
        };
        !self.data.eval.is_empty() && (is_due || step == self.state.recipe.total_steps)
    }

    fn evaluate(&mut self, base: &Base, budget: usize) -> Result<(), TrainError> {
        let (corpus, members) = (self.data.eval_corpus(), &self.data.eval);
        let adapter = self.subject.as_adapter();
        let evaluation = evaluate(&base.model, adapter, corpus, members, budget)?;
        let step = self.state.step;
        if !evaluation.loss.is_finite() {
            return Err(TrainError::NonFinite {
                step,
                what: "evaluation loss",
                kept: self.saved.as_ref().map(|(_, path)| path.clone()),
            });
        }
        self.reporter.evaluation(step, &evaluation)?;
        let is_best = self.state.selection.observe(step, evaluation.loss, &self.asked);
        if is_best && self.asked.load_best_model_at_end {
            self.keep_best(base)?;
        }
        Ok(())
    }

    fn keep_best(&mut self, base: &Base) -> Result<(), TrainError> {
        let _guard = no_grad_guard();
        let values = self.subject.flat();
        let mut copy = Tensor::f_empty(values.size(), (values.f_kind()?, tch::Device::Cpu))?;
        copy.f_copy_(values)?;
        self.best = Some(copy);
        self.snapshot().save_best(&self.assignment.checkpoints(), base)?;
        Ok(())
    }
}

fn is_due(every: u64, step: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}
