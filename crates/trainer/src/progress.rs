//! Progress in words, on stderr: a line that renews itself on a terminal, now and then a line elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use tunesmith_types::trainer::{TrainerEvent, TrainerStep};

/// Least time between two lines where stderr is not a terminal.
const QUIET: Duration = Duration::from_secs(5);
/// Weight of the newest step in the running speed.
const NEWEST: f64 = 0.2;

/// Tells a person how a run goes.
#[derive(Debug)]
pub struct Progress {
    /// Stands before each line.
    label: String,
    on_terminal: bool,
    line_is_open: bool,
    last: Option<Instant>,
    /// Running means: seconds per step, tokens per second.
    pace: Option<(f64, f64)>,
}

impl Progress {
    /// On this process's stderr; with a label where several jobs write there.
    #[must_use]
    pub fn new(label: Option<&str>) -> Self {
        Self {
            label: label.map(|label| format!("[{label}] ")).unwrap_or_default(),
            // Several jobs cannot renew the same line.
            on_terminal: label.is_none() && std::io::stderr().is_terminal(),
            line_is_open: false,
            last: None,
            pace: None,
        }
    }

    /// Tells one event.
    pub fn tell(&mut self, event: &TrainerEvent) {
        match event {
            TrainerEvent::Step(step) => self.step(step),
            other => {
                if let Some(text) = words(other) {
                    self.line(&text);
                }
            }
        }
    }

    fn step(&mut self, step: &TrainerStep) {
        let speed = step.tokens as f64 / step.seconds.max(1e-9);
        let (seconds, speed) = match self.pace {
            Some((old_seconds, old_speed)) => (
                old_seconds + NEWEST * (step.seconds - old_seconds),
                old_speed + NEWEST * (speed - old_speed),
            ),
            None => (step.seconds, speed),
        };
        self.pace = Some((seconds, speed));
        let is_edge = step.step == 1 || step.step == step.total_steps;
        let is_due = self.last.is_none_or(|last| last.elapsed() >= QUIET);
        if !self.on_terminal && !is_edge && !is_due {
            return;
        }
        self.last = Some(Instant::now());
        let left = seconds * (step.total_steps - step.step) as f64;
        let text = format!(
            "step {}/{}  epoch {:.2}  loss {:.4}  lr {:.2e}  norm {:.3}  {:.0} tokens/s  {} left",
            step.step,
            step.total_steps,
            step.epoch,
            step.loss,
            step.lr,
            step.grad_norm,
            speed,
            time(left)
        );
        if self.on_terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K{text}");
            self.line_is_open = true;
        } else {
            self.line(&text);
        }
    }

    fn line(&mut self, text: &str) {
        let start = if std::mem::take(&mut self.line_is_open) {
            "\n"
        } else {
            ""
        };
        let _ = writeln!(std::io::stderr(), "{start}{}{text}", self.label);
    }
}

fn words(event: &TrainerEvent) -> Option<String> {
    Some(match event {
        TrainerEvent::Ready {
            device,
            dtype,
            seconds,
        } => format!("base model loaded on {device} in {dtype} ({seconds:.1} s)"),
        TrainerEvent::Started {
            total_steps,
            train_examples,
            eval_examples,
            trainable_parameters,
            device,
            dtype,
            resumed_from_step,
        } => {
            let resumed = if *resumed_from_step > 0 {
                format!(", going on after step {resumed_from_step}")
            } else {
                String::new()
            };
            format!(
                "{train_examples} training and {eval_examples} evaluation examples, {trainable_parameters} trained \
                 parameters, {total_steps} steps on {device} in {dtype}{resumed}"
            )
        }
        TrainerEvent::Evaluation {
            step,
            loss,
            token_accuracy,
            ..
        } => format!("step {step}  evaluation loss {loss:.4}  token accuracy {token_accuracy:.4}"),
        TrainerEvent::Checkpoint { path, .. } => format!("checkpoint {path}"),
        TrainerEvent::Warning { message } => format!("warning: {message}"),
        TrainerEvent::Finished {
            steps,
            path,
            delivered_step,
            stopped_early,
        } => {
            let early = if *stopped_early {
                format!(" (stopped early after step {steps})")
            } else {
                String::new()
            };
            let best = if delivered_step == steps {
                String::new()
            } else {
                format!(", of step {delivered_step}")
            };
            format!("done{early}: {path}{best}")
        }
        TrainerEvent::Stopped { step, .. } => format!("stopped after step {step}"),
        TrainerEvent::Failed { code, message } => format!("error: {message} [{code}]"),
        TrainerEvent::Step(_) => return None,
    })
}

fn time(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        _ => format!("{}h{:02}m", whole / 3600, whole / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn times() {
        assert_eq!([time(3.4), time(75.0), time(7265.0)], ["3s", "1m15s", "2h01m"]);
    }
}
