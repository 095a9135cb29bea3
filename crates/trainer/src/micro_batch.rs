//! The examples that go through the model at once.

use tch::{Device, Tensor};
use tunesmith_dataset::Corpus;
use tunesmith_dataset::pack::pack;
use tunesmith_model::PackedBatch;

use crate::error::TrainError;

/// A packed batch with the rows that count in the loss.
#[derive(Debug)]
pub struct MicroBatch {
    /// All tokens.
    pub packed: PackedBatch,
    /// int64 `[n]`: rows whose next token is learnt.
    pub rows: Tensor,
    /// int64 `[n]`: those next tokens.
    pub targets: Tensor,
    /// `n`.
    pub target_count: usize,
}

impl MicroBatch {
    /// Lays out the examples `members` of `corpus`.
    ///
    /// # Errors
    /// The examples have no tokens, or LibTorch has no memory.
    pub fn new(corpus: &Corpus, members: &[usize], device: Device) -> Result<Self, TrainError> {
        let total = members.iter().map(|member| corpus.length(*member)).sum();
        let mut tokens: Vec<u32> = Vec::with_capacity(total);
        let mut lengths = Vec::with_capacity(members.len());
        let (mut rows, mut targets) = (Vec::new(), Vec::new());
        for &member in members {
            let start = tokens.len();
            tokens.extend(corpus.tokens(member));
            lengths.push(tokens.len() - start);
            for (place, supervised) in corpus.supervised(member).enumerate().skip(1) {
                if supervised {
                    rows.push((start + place - 1) as i64);
                    targets.push(i64::from(tokens[start + place]));
                }
            }
        }
        let on_device = |values: &[i64]| Tensor::f_from_slice(values)?.f_to_device(device);
        Ok(Self {
            packed: PackedBatch::new(&tokens, &lengths, device)?,
            target_count: rows.len(),
            rows: on_device(&rows)?,
            targets: on_device(&targets)?,
        })
    }
}

/// Splits the examples of one optimizer step so that no part has more than `budget` tokens (a longer example is alone).
#[must_use]
pub fn split(corpus: &Corpus, members: &[usize], budget: usize) -> Vec<Vec<usize>> {
    let lengths: Vec<usize> = members.iter().map(|member| corpus.length(*member)).collect();
    pack(&lengths, budget)
        .into_iter()
        .map(|group| group.into_iter().map(|place| members[place]).collect())
        .collect()
}

/// Tokens per micro-batch where the caller does not say: what keeps the activations of plain autograd within a budget.
/// A pure function of the model's shape and the kind of device, so that a resumed run splits its steps as before.
#[must_use]
pub fn default_tokens(config: &tunesmith_model::ModelConfig, device: Device) -> usize {
    let (budget, most) = if device.is_cuda() {
        (24 << 30, 65_536)
    } else {
        (1 << 30, 8192)
    };
    let width = 16 * config.hidden_size + 6 * config.intermediate_size;
    let per_token = (config.layers as i64 * width * 4).max(1);
    usize::try_from(budget / per_token)
        .unwrap_or(most)
        .clamp(512, most)
}
