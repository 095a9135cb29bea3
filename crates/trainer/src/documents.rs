//! The documents of one optimizer step of one job.

use tunesmith_dataset::Corpus;
use tunesmith_dataset::corpus::CorpusError;
use tunesmith_model::Document;

/// Token ids and loss weights of some examples, end to end.
#[derive(Debug, Default)]
pub struct Documents {
    tokens: Vec<u32>,
    weights: Vec<f32>,
    ends: Vec<usize>,
    /// Σ weight over the predicted tokens.
    pub weight_sum: f64,
    /// Predicted tokens with a weight.
    pub supervised: u64,
}

impl Documents {
    /// The examples `members` of `corpus`.
    ///
    /// # Errors
    /// The corpus has lost its tokens.
    pub fn gather(corpus: &Corpus, members: impl Iterator<Item = usize>) -> Result<Self, CorpusError> {
        let mut documents = Self::default();
        for member in members {
            let start = documents.tokens.len();
            let sequence = corpus.sequence(member)?;
            documents.tokens.extend(sequence.tokens());
            documents.weights.extend(sequence.weights());
            // Nothing predicts the first token.
            for weight in documents.weights.iter().skip(start + 1) {
                documents.weight_sum += f64::from(*weight);
                documents.supervised += u64::from(*weight != 0.0);
            }
            documents.ends.push(documents.tokens.len());
        }
        Ok(documents)
    }

    /// How many documents.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Tokens of all.
    #[must_use]
    pub fn token_count(&self) -> usize {
        self.tokens.len()
    }

    /// Tokens of each.
    #[must_use]
    pub fn lengths(&self) -> Vec<usize> {
        (0..self.len()).map(|index| self.range(index).len()).collect()
    }

    /// Document `index`.
    #[must_use]
    pub fn document(&self, index: usize) -> Document<'_> {
        let range = self.range(index);
        Document {
            tokens: &self.tokens[range.clone()],
            weights: &self.weights[range],
        }
    }

    fn range(&self, index: usize) -> std::ops::Range<usize> {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        start..self.ends[index]
    }
}
