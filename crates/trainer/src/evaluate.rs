//! Loss and token accuracy on the evaluation split.

use tch::Device;
use tunesmith_dataset::Corpus;
use tunesmith_model::{Adapter, CausalLm};

use crate::error::TrainError;
use crate::loss::score;
use crate::micro_batch::{MicroBatch, split};

/// How well the model does on a split.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// Mean over the supervised tokens.
    pub loss: f64,
    /// Share of the supervised tokens that the model would have chosen.
    pub token_accuracy: f64,
    /// Supervised tokens.
    pub tokens: u64,
}

/// Scores the examples `members` of `corpus`.
///
/// # Errors
/// LibTorch refused, most often for want of memory.
pub fn evaluate(
    model: &CausalLm,
    adapter: Option<&Adapter>,
    corpus: &Corpus,
    members: &[usize],
    budget: usize,
    device: Device,
) -> Result<Evaluation, TrainError> {
    let (mut loss, mut correct, mut tokens) = (0.0, 0, 0);
    // Groups of this many examples are sorted by length at a time.
    for window in members.chunks(1024) {
        for group in split(corpus, window, budget) {
            let batch = MicroBatch::new(corpus, &group, device)?;
            let scores = score(model, adapter, &batch)?;
            loss += scores.loss_sum.f_double_value(&[])?;
            correct += scores.correct.f_int64_value(&[])?;
            tokens += batch.target_count as u64;
        }
    }
    let count = (tokens as f64).max(1.0);
    Ok(Evaluation {
        loss: loss / count,
        token_accuracy: correct as f64 / count,
        tokens,
    })
}
