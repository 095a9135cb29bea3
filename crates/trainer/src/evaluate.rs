//! Loss and token accuracy on the evaluation split.

use tunesmith_dataset::Corpus;
use tunesmith_dataset::pack::pack;
use tunesmith_model::{Adapter, CausalLm, Segment};

use crate::documents::Documents;
use crate::error::TrainError;

/// Examples that are packed together.
const WINDOW: usize = 1024;

/// How well the model does on a split.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// Mean over the supervised tokens, by their weights.
    pub loss: f64,
    /// Share of the supervised tokens that the model would have chosen.
    pub token_accuracy: f64,
    /// Supervised tokens.
    pub tokens: u64,
}

/// Scores the examples `members` of `corpus`, in passes of at most `budget` tokens.
///
/// # Errors
/// LibTorch refused, most often for want of memory, or the corpus has lost its tokens.
pub fn evaluate(
    model: &CausalLm,
    adapter: Option<&Adapter>,
    corpus: &Corpus,
    members: &[usize],
    budget: usize,
) -> Result<Evaluation, TrainError> {
    let (mut loss, mut correct) = (0.0, 0);
    let (mut weight_sum, mut tokens) = (0.0, 0);
    // Groups of this many examples are packed at a time.
    for window in members.chunks(WINDOW) {
        let documents = Documents::gather(corpus, window.iter().copied())?;
        weight_sum += documents.weight_sum;
        tokens += documents.supervised;
        for group in pack(&documents.lengths(), budget) {
            let segment = Segment {
                adapter,
                gradient: None,
                scale: 1.0,
                dropout: None,
                documents: group.into_iter().map(|index| documents.document(index)).collect(),
            };
            for scores in model.score_pass(&[segment])? {
                loss += scores.loss_sum.f_double_value(&[])?;
                correct += scores.correct.f_int64_value(&[])?;
            }
        }
    }
    Ok(Evaluation {
        loss: loss / weight_sum,
        token_accuracy: correct as f64 / (tokens as f64).max(1.0),
        tokens,
    })
}
