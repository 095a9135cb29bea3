//! A job while it trains: one line that moves where stderr is a terminal, a line now and then where it is not.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use tunesmith_types::{
    api::jobs::{Job, JobMetric, JobProgress},
    states::JobState,
};

use super::text::duration;
use crate::printer::Printer;

/// Between two lines where nothing moves.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows the progress of one job.
#[derive(Debug)]
pub(crate) struct TrainingBar {
    bar: ProgressBar,
    moving: bool,
    printer: Printer,
    last_line: Option<Instant>,
}

impl TrainingBar {
    pub(crate) fn new(printer: Printer) -> Self {
        let moving = std::io::stderr().is_terminal();
        let bar = if moving {
            ProgressBar::new(0)
        } else {
            ProgressBar::hidden()
        };
        let style = ProgressStyle::with_template("{bar:28} {pos}/{len} {msg}")
            .expect("invariant: the template is right");
        bar.set_style(style);
        Self {
            bar,
            moving,
            printer,
            last_line: None,
        }
    }

    /// Shows how far the job is now.
    pub(crate) fn show(&mut self, job: &Job, metrics: &[JobMetric]) {
        let text = describe(job, metrics);
        if let Some(progress) = &job.progress {
            self.bar
                .set_length(progress.total_steps.unwrap_or(0).unsigned_abs());
            self.bar.set_position(progress.step.unsigned_abs());
        }
        self.bar.set_message(text.clone());
        let due = self.last_line.is_none_or(|last| last.elapsed() >= LINE_EVERY);
        if !self.moving && due && !job.status.is_final() {
            self.last_line = Some(Instant::now());
            self.printer.words(match &job.progress {
                Some(JobProgress {
                    step,
                    total_steps: Some(total),
                    ..
                }) => format!("step {step}/{total} {text}"),
                _ => text,
            });
        }
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn describe(job: &Job, metrics: &[JobMetric]) -> String {
    if job.status == JobState::Queued {
        return match &job.error {
            Some(error) => format!("waits to be tried again ({})", error.message),
            None => "queued".to_owned(),
        };
    }
    let known = job.progress.as_ref();
    let Some(progress) = known.filter(|progress| progress.total_steps.is_some()) else {
        return "preparing".to_owned();
    };
    let mut parts = Vec::new();
    if let Some(loss) = metrics.last().and_then(|metric| metric.loss).or(progress.loss) {
        parts.push(format!("loss {loss:.4}"));
    }
    if let Some(loss) = metrics.iter().rev().find_map(|metric| metric.eval_loss) {
        parts.push(format!("eval loss {loss:.4}"));
    }
    if let Some(speed) = progress.tokens_per_second {
        parts.push(format!("{speed:.0} tokens/s"));
    }
    if let Some(left) = progress.seconds_left {
        parts.push(format!("{} left", duration(left)));
    }
    parts.join(", ")
}
