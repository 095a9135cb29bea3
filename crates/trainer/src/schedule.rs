//! The learning rate of each optimizer step, as in transformers' `get_*_schedule_with_warmup`.

use std::f64::consts::PI;

use tunesmith_types::hyperparameters::Schedule;

/// A schedule over a known number of steps.
#[derive(Debug, Clone, Copy)]
pub struct LearningRateSchedule {
    peak: f64,
    course: Schedule,
    warmup_steps: u64,
    total_steps: u64,
}

impl LearningRateSchedule {
    /// A rise over `ceil(total_steps · warmup_ratio)` steps, then `course`.
    #[must_use]
    pub fn new(peak: f64, course: Schedule, warmup_ratio: f64, total_steps: u64) -> Self {
        Self {
            peak,
            course,
            warmup_steps: (total_steps as f64 * warmup_ratio).ceil() as u64,
            total_steps,
        }
    }

    /// Learning rate of the update with index `index`, from 0.
    #[must_use]
    pub fn at(&self, index: u64) -> f64 {
        let done = index as f64;
        let warmup = self.warmup_steps as f64;
        if index < self.warmup_steps {
            return self.peak * (done / warmup.max(1.0));
        }
        let rest = (self.total_steps as f64 - warmup).max(1.0);
        let share = match self.course {
            Schedule::Constant => 1.0,
            Schedule::Linear => (self.total_steps as f64 - done) / rest,
            Schedule::Cosine => 0.5 * (1.0 + (PI * ((done - warmup) / rest)).cos()),
        };
        self.peak * share.max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(course: Schedule) -> Vec<f64> {
        let schedule = LearningRateSchedule::new(1.0, course, 0.2, 10);
        (0..10).map(|index| schedule.at(index)).collect()
    }

    /// Made with transformers 5: `get_*_schedule_with_warmup(optimizer, 2, 10)` at peak 1.
    #[test]
    fn equals_transformers() {
        let close = |found: Vec<f64>, wanted: [f64; 10]| {
            for (found, wanted) in found.into_iter().zip(wanted) {
                assert!((found - wanted).abs() < 1e-12, "{found} {wanted}");
            }
        };
        close(
            rates(Schedule::Constant),
            [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
        );
        close(
            rates(Schedule::Linear),
            [0.0, 0.5, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125],
        );
        close(
            rates(Schedule::Cosine),
            [
                0.0,
                0.5,
                1.0,
                0.961_939_766_255_643_4,
                0.853_553_390_593_273_7,
                0.691_341_716_182_545,
                0.5,
                0.308_658_283_817_455_1,
                0.146_446_609_406_726_3,
                0.038_060_233_744_356_686,
            ],
        );
    }
}
