//! Who hears about a run: a supervisor (JSON lines on stdout) or a person (words on stderr); and the steps log.

use std::io::Write;

use tunesmith_types::trainer::{StopReason, TrainerEvent, TrainerStep};

use crate::error::TrainError;
use crate::evaluate::Evaluation;
use crate::progress::Progress;
use crate::steps_log::StepsLog;

/// The audience.
#[derive(Debug)]
enum Audience {
    Supervisor,
    Person(Progress),
}

/// Where events go.
#[derive(Debug)]
pub struct Reporter {
    audience: Audience,
    steps_log: Option<StepsLog>,
}

impl Reporter {
    /// For a supervisor, or for a person.
    #[must_use]
    pub fn new(supervised: bool) -> Self {
        let audience = if supervised {
            Audience::Supervisor
        } else {
            Audience::Person(Progress::new())
        };
        Self {
            audience,
            steps_log: None,
        }
    }

    /// Steps and evaluations go there too from now on.
    pub fn log_steps(&mut self, log: StepsLog) {
        self.steps_log = Some(log);
    }

    /// Tells one event.
    pub fn tell(&mut self, event: &TrainerEvent) {
        match &mut self.audience {
            Audience::Supervisor => {
                let line = serde_json::to_string(event).expect("invariant: an event is plain data");
                let mut output = std::io::stdout().lock();
                // A supervisor that does not listen is gone, and stdin's end will end this process.
                let _ = writeln!(output, "{line}").and_then(|()| output.flush());
            }
            Audience::Person(progress) => progress.tell(event),
        }
    }

    /// Tells a step.
    ///
    /// # Errors
    /// The steps log cannot be written.
    pub fn step(&mut self, step: TrainerStep) -> Result<(), TrainError> {
        if let Some(log) = &mut self.steps_log {
            log.step(&step)?;
        }
        self.tell(&TrainerEvent::Step(step));
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
        self.tell(&TrainerEvent::Evaluation {
            step,
            loss: evaluation.loss,
            token_accuracy: evaluation.token_accuracy,
            tokens: evaluation.tokens,
        });
        Ok(())
    }

    /// Tells a warning.
    pub fn warning(&mut self, message: String) {
        self.tell(&TrainerEvent::Warning { message });
    }

    /// Tells that the run ended on a command.
    pub fn stopped(&mut self, step: u64, reason: StopReason, checkpoint: Option<String>) {
        self.tell(&TrainerEvent::Stopped {
            step,
            reason,
            checkpoint,
        });
    }

    /// Tells that the run failed.
    pub fn failed(&mut self, error: &TrainError) {
        self.tell(&TrainerEvent::Failed {
            code: error.code().to_owned(),
            message: error.to_string(),
        });
    }
}
