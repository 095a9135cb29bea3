//! How long a child, or a job in it, may go without a step.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use crate::settings::WorkerTimings;

/// Steps whose median counts.
const WINDOW: usize = 51;

/// Bites when nothing happens for longer than the steps so far let expect.
#[derive(Debug)]
pub(crate) struct Watchdog {
    least: Duration,
    factor: f64,
    seconds: VecDeque<f64>,
    last_progress: Instant,
}

impl Watchdog {
    pub(crate) fn new(timings: &WorkerTimings) -> Self {
        Self {
            least: timings.progress_least,
            factor: timings.progress_factor,
            seconds: VecDeque::with_capacity(WINDOW),
            last_progress: Instant::now(),
        }
    }

    /// Something other than a step shows that the child lives.
    pub(crate) fn progress(&mut self) {
        self.last_progress = Instant::now();
    }

    /// A step that took so long.
    pub(crate) fn step(&mut self, seconds: f64) {
        self.progress();
        if self.seconds.len() == WINDOW {
            self.seconds.pop_front();
        }
        if seconds.is_finite() && seconds >= 0.0 {
            self.seconds.push_back(seconds);
        }
    }

    /// The longest silence that is still fine.
    pub(crate) fn patience(&self) -> Duration {
        let mut sorted: Vec<f64> = self.seconds.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
        let slow = Duration::try_from_secs_f64(self.factor * median).unwrap_or(Duration::MAX / 4);
        self.least.max(slow)
    }

    /// When to bite, where `turns` have as much patience each.
    pub(crate) fn deadline(&self, turns: u32) -> Instant {
        let patience = self.patience().saturating_mul(turns);
        self.last_progress + patience.min(Duration::from_secs(30 * 24 * 3600))
    }
}

/// Waits until a deadline; for ever where there is none.
pub(crate) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_steps_are_given_ten_times_their_median() {
        let mut watchdog = Watchdog::new(&WorkerTimings::default());
        assert_eq!(watchdog.patience(), Duration::from_secs(600));
        for seconds in [1.0, 200.0, 100.0, 90.0, 1e9] {
            watchdog.step(seconds);
        }
        assert_eq!(watchdog.patience(), Duration::from_secs(1000));
        watchdog.step(f64::NAN);
        assert_eq!(watchdog.patience(), Duration::from_secs(1000));
    }
}
