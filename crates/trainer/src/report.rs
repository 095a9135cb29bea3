//! Who hears about a run: a supervisor (JSON lines on stdout) or a person (words on stderr); and the steps log.

use std::io::Write;

use tunesmith_types::trainer::{StopReason, TrainerEvent, TrainerLine, TrainerStep};

use crate::error::TrainError;
use crate::evaluate::Evaluation;
use crate::progress::Progress;
use crate::steps_log::StepsLog;

/// Who listens to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Another program: JSON lines on stdout.
    Supervisor,
    /// A person who trains one job: words on stderr.
    Person,
    /// A person who trains several jobs: words on stderr, each line with the job's id.
    PersonOfMany,
    /// Nobody: for a program that drives [`crate::job::Job`] itself.
    Nobody,
}

/// Where the events of one job go, or those of the process as a whole.
#[derive(Debug)]
pub struct Reporter {
    audience: Audience,
    job: Option<String>,
    progress: Progress,
    steps_log: Option<StepsLog>,
}

impl Reporter {
    /// For the events of `job`; none is the process.
    #[must_use]
    pub fn new(audience: Audience, job: Option<&str>) -> Self {
        let label = job.filter(|_| audience == Audience::PersonOfMany);
        Self {
            audience,
            job: job.map(ToOwned::to_owned),
            progress: Progress::new(label),
            steps_log: None,
        }
    }

    /// Steps and evaluations go there too from now on.
    pub fn log_steps(&mut self, log: StepsLog) {
        self.steps_log = Some(log);
    }

    /// Tells one event.
    pub fn tell(&mut self, event: TrainerEvent) {
        match self.audience {
            Audience::Supervisor => self.print(event),
            Audience::Person | Audience::PersonOfMany => self.progress.tell(&event),
            Audience::Nobody => {}
        }
    }

    fn print(&self, event: TrainerEvent) {
        let line = TrainerLine {
            job: self.job.clone(),
            event,
        };
        let line = serde_json::to_string(&line).expect("invariant: an event is plain data");
        let mut output = std::io::stdout().lock();
        // A supervisor that does not listen is gone, and stdin's end will end this process.
        let _ = writeln!(output, "{line}").and_then(|()| output.flush());
    }

    /// Tells a step.
    ///
    /// # Errors
    /// The steps log cannot be written.
    pub fn step(&mut self, step: TrainerStep) -> Result<(), TrainError> {
        if let Some(log) = &mut self.steps_log {
            log.step(&step)?;
        }
        self.tell(TrainerEvent::Step(step));
        Ok(())
    }

    /// Tells an evaluation.
    ///
    /// # Errors
    /// The steps log cannot be written.
    pub fn evaluation(&mut self, step: u64, evaluation: &Evaluation) -> Result<(), TrainError> {
        if let Some(log) = &mut self.steps_log {
            log.evaluation(step, evaluation)?;
        }
        self.tell(TrainerEvent::Evaluation {
            step,
            loss: evaluation.loss,
            token_accuracy: evaluation.token_accuracy,
            tokens: evaluation.tokens,
        });
        Ok(())
    }

    /// Tells a warning.
    pub fn warning(&mut self, message: String) {
        self.tell(TrainerEvent::Warning { message });
    }

    /// Tells that the run ended on a command.
    pub fn stopped(&mut self, step: u64, reason: StopReason, checkpoint: Option<String>) {
        self.tell(TrainerEvent::Stopped {
            step,
            reason,
            checkpoint,
        });
    }

    /// Tells that the run failed.
    pub fn failed(&mut self, error: &TrainError) {
        self.tell(TrainerEvent::Failed {
            code: error.code().to_owned(),
            message: error.to_string(),
        });
    }
}
