//! Which evaluation was the best, and whether it is time to stop: as transformers' `EarlyStoppingCallback` and
//! `load_best_model_at_end` decide.

use serde::{Deserialize, Serialize};
use tunesmith_types::hyperparameters::Hyperparameters;

/// The evaluations so far, in short. Part of a checkpoint's state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// The evaluation with the least loss.
    pub best: Option<Best>,
    /// Evaluations since the last one that fell by more than the threshold.
    pub without_improvement: u32,
    /// Whether patience has run out.
    pub stopped_early: bool,
}

/// The best evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Optimizer steps done.
    pub step: u64,
    /// Its loss.
    pub loss: f64,
}

impl Selection {
    /// Takes note of an evaluation; true where it is the best so far. A loss that is not a number is never better.
    pub fn observe(&mut self, step: u64, loss: f64, asked: &Hyperparameters) -> bool {
        let threshold = asked.early_stopping_threshold.get();
        let fall = self.best.map_or(f64::INFINITY, |best| best.loss - loss);
        if loss.is_finite() && fall > threshold {
            self.without_improvement = 0;
        } else {
            self.without_improvement += 1;
        }
        if let Some(patience) = asked.early_stopping_patience {
            self.stopped_early |= self.without_improvement >= patience.get();
        }
        let is_best = loss.is_finite() && fall > 0.0;
        if is_best {
            self.best = Some(Best { step, loss });
        }
        is_best
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tunesmith_types::hyperparameters::HyperparametersRequest;

    fn observe(losses: &[f64], patience: Option<u32>, threshold: f64) -> (Selection, Vec<bool>) {
        let asked = HyperparametersRequest {
            early_stopping_patience: patience,
            early_stopping_threshold: patience.map(|_| threshold),
            ..Default::default()
        };
        let asked = asked.resolve(None).unwrap();
        let mut selection = Selection::default();
        let is_best = losses
            .iter()
            .enumerate()
            .map(|(index, loss)| selection.observe(index as u64 + 1, *loss, &asked))
            .collect();
        (selection, is_best)
    }

    #[test]
    fn the_least_loss_is_the_best() {
        let (selection, is_best) = observe(&[3.0, 2.0, 2.5, 2.0, f64::NAN, 1.9], None, 0.0);
        assert_eq!(is_best, [true, true, false, false, false, true]);
        assert_eq!(selection.best, Some(Best { step: 6, loss: 1.9 }));
        assert!(!selection.stopped_early);
    }

    #[test]
    fn patience_runs_out() {
        assert!(!observe(&[3.0, 3.1, 2.9, 3.0], Some(2), 0.0).0.stopped_early);
        assert!(observe(&[3.0, 3.1, 3.0], Some(2), 0.0).0.stopped_early);
        assert!(observe(&[f64::NAN, f64::INFINITY], Some(2), 0.0).0.stopped_early);
    }

    #[test]
    fn a_fall_below_the_threshold_is_better_but_no_improvement() {
        let (selection, is_best) = observe(&[3.0, 2.95, 2.92], Some(2), 0.1);
        assert_eq!(is_best, [true; 3]);
        assert_eq!(selection.best.map(|best| best.step), Some(3));
        assert!(selection.stopped_early);
    }
}
