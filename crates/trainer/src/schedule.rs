//! The learning rate of each optimizer step, as in transformers' `get_*_schedule_with_warmup` and `get_wsd_schedule`.

use std::f64::consts::PI;

use tunesmith_types::hyperparameters::{Hyperparameters, Schedule};

/// A schedule over a known number of steps.
#[derive(Debug, Clone, Copy)]
pub struct LearningRateSchedule {
    peak: f64,
    course: Schedule,
    warmup_steps: u64,
    /// Of a warmup-stable-decay schedule.
    decay_steps: u64,
    total_steps: u64,
}

impl LearningRateSchedule {
    /// A rise over `ceil(total_steps · warmup_ratio)` steps, then the course that is asked for. A warmup-stable-decay
    /// schedule falls over the last `ceil(total_steps · decay_ratio)` steps, or over all that the warm-up leaves.
    #[must_use]
    pub fn new(asked: &Hyperparameters, total_steps: u64) -> Self {
        let share = |ratio: f64| (total_steps as f64 * ratio).ceil() as u64;
        let warmup_steps = share(asked.warmup_ratio.get());
        Self {
            peak: asked.learning_rate.get(),
            course: asked.schedule,
            warmup_steps,
            decay_steps: share(asked.decay_ratio.get()).min(total_steps.saturating_sub(warmup_steps)),
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
            Schedule::WarmupStableDecay => {
                let stable = (self.total_steps - self.decay_steps) as f64;
                1.0 - ((done - stable) / (self.decay_steps as f64).max(1.0)).max(0.0)
            }
        };
        self.peak * share.max(0.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tunesmith_types::hyperparameters::HyperparametersRequest;

    fn rates(course: Schedule, warmup_ratio: f64, decay_ratio: f64, total_steps: u64) -> Vec<f64> {
        let asked = HyperparametersRequest {
            schedule: Some(course),
            learning_rate: Some(0.1),
            warmup_ratio: Some(warmup_ratio),
            decay_ratio: (course == Schedule::WarmupStableDecay).then_some(decay_ratio),
            ..Default::default()
        };
        let schedule = LearningRateSchedule::new(&asked.resolve(None).unwrap(), total_steps);
        (0..total_steps).map(|index| schedule.at(index) / 0.1).collect()
    }

    fn close(found: &[f64], wanted: &[f64]) {
        assert_eq!(found.len(), wanted.len());
        for (found, wanted) in found.iter().zip(wanted) {
            assert!((found - wanted).abs() < 1e-12, "{found} {wanted}");
        }
    }

    /// Made with transformers 5: `get_*_schedule_with_warmup(optimizer, 2, 10)` at peak 1.
    #[test]
    fn equals_transformers() {
        close(
            &rates(Schedule::Constant, 0.2, 0.1, 10),
            &[0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
        );
        close(
            &rates(Schedule::Linear, 0.2, 0.1, 10),
            &[0.0, 0.5, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125],
        );
        close(
            &rates(Schedule::Cosine, 0.2, 0.1, 10),
            &[
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

    /// Made with transformers 5: `get_wsd_schedule(optimizer, warmup, decay, total, decay_type="linear")` with (warmup,
    /// decay, total) of (2, 3, 10), (0, 12, 12) and (3, 5, 20).
    #[test]
    fn warmup_stable_decay_equals_transformers() {
        let course = Schedule::WarmupStableDecay;
        close(
            &rates(course, 0.2, 0.3, 10),
            &[
                0.0,
                0.5,
                1.0,
                1.0,
                1.0,
                1.0,
                1.0,
                1.0,
                0.666_666_666_666_666_7,
                0.333_333_333_333_333_37,
            ],
        );
        close(
            &rates(course, 0.0, 1.0, 12),
            &[
                1.0,
                0.916_666_666_666_666_6,
                0.833_333_333_333_333_4,
                0.75,
                0.666_666_666_666_666_7,
                0.583_333_333_333_333_3,
                0.5,
                0.416_666_666_666_666_63,
                0.333_333_333_333_333_37,
                0.25,
                0.166_666_666_666_666_63,
                0.083_333_333_333_333_37,
            ],
        );
        let mut wanted = vec![0.0, 0.333_333_333_333_333_3, 0.666_666_666_666_666_6];
        wanted.extend([1.0; 13]);
        wanted.extend([0.8, 0.6, 0.4, 0.199_999_999_999_999_96]);
        close(&rates(course, 0.15, 0.25, 20), &wanted);
        let all_warmup = rates(course, 1.0, 0.0, 4);
        close(&all_warmup, &[0.0, 0.25, 0.5, 0.75]);
    }
}
