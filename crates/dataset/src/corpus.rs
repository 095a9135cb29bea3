//! A tokenized dataset: four bytes per token, the loss mask in the top bit, in a file where they are many
//! (`TokenStore`). In memory are where each sequence ends and, as runs, the weights that are neither 0 nor 1.

use std::borrow::Cow;
use std::io::{self, BufRead};
use std::path::PathBuf;

use sha2::{Digest, Sha256};
use tunesmith_types::hyperparameters::OverLong;

use self::reading::read_into;
use self::token_store::TokenStore;
use crate::encode::{EncodeError, Encoder, Fraction, Sequence, truncate_fractions, weigh};
use crate::fields::Problem;
use crate::order::permutation;

mod reading;
mod token_store;

const SUPERVISED: u32 = 1 << 31;
/// Tokens that are hashed at a time.
const DIGEST_TOKENS: usize = 16 * 1024;

/// Why a file cannot be trained on.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    /// The file cannot be read.
    #[error("the data cannot be read")]
    Read(#[source] io::Error),
    /// A line breaks the rules.
    #[error("line {line} of the data: {}", problem.message)]
    Line {
        /// From 1.
        line: u64,
        /// The first thing that is wrong with it.
        problem: Problem,
    },
    /// A line has no tokens.
    #[error("line {line} of the data: {source}")]
    Encode {
        /// From 1.
        line: u64,
        /// Why.
        #[source]
        source: EncodeError,
    },
    /// An example is longer than allowed, and the caller asked to fail then.
    #[error("line {line} of the data has {tokens} tokens; the most is {most}")]
    OverLong {
        /// From 1.
        line: u64,
        /// Its length.
        tokens: usize,
        /// The limit.
        most: usize,
    },
    /// The tokens have no room on the disk.
    #[error(
        "the tokens of the data, {} bytes each, cannot be kept in {folder}; make room there, or write elsewhere",
        size_of::<u32>(),
        folder = folder.display()
    )]
    NoRoom {
        /// The folder of their file.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The tokens cannot be read back.
    #[error("the tokens of the data cannot be read back from {folder}", folder = folder.display())]
    Lost {
        /// The folder of their file.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What became of a file's lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CorpusReport {
    /// Lines with an example.
    pub lines: u64,
    /// Examples that were cut to the limit.
    pub truncated: u64,
    /// Examples that were left out for their length.
    pub dropped: u64,
    /// Examples that were left out because no token of them is supervised (within the limit).
    pub unsupervised: u64,
}

/// Limits on the length of an example.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LengthLimit {
    /// Most tokens.
    pub most: usize,
    /// What happens to longer examples.
    pub over_long: OverLong,
}

/// Token sequences with loss masks, which do not change once they are there. Memory: [`Self::resident_bytes`].
#[derive(Debug)]
pub struct Corpus {
    tokens: TokenStore,
    ends: Vec<usize>,
    /// Places count through all sequences.
    fractions: Vec<Fraction>,
    greatest: Option<u32>,
}

/// One sequence of a corpus.
#[derive(Debug)]
pub struct StoredSequence<'a> {
    marked: Cow<'a, [u32]>,
    /// The place of its first token in the numbering of `fractions`.
    start: usize,
    fractions: &'a [Fraction],
}

impl Default for Corpus {
    /// [`Self::in_folder`], in the system's folder for temporary files.
    fn default() -> Self {
        Self::in_folder(std::env::temp_dir())
    }
}

impl Corpus {
    /// An empty corpus whose tokens go to a file in `folder` once they are many. The file has no name, so it is gone with
    /// the corpus, or with the process; the folder is made when it is needed.
    #[must_use]
    pub fn in_folder(folder: PathBuf) -> Self {
        Self {
            tokens: TokenStore::new(folder),
            ends: Vec::new(),
            fractions: Vec::new(),
            greatest: None,
        }
    }

    /// Reads and tokenizes a JSONL file. `folder`: as for [`Self::in_folder`]. Memory: the corpus, and a bounded number of
    /// lines.
    ///
    /// # Errors
    /// The reader's error, the first line that breaks the rules, the first over-long example where that is asked for, or
    /// there is no room in `folder`.
    pub fn read(
        reader: impl BufRead,
        encoder: &Encoder,
        limit: LengthLimit,
        folder: PathBuf,
    ) -> Result<(Self, CorpusReport), CorpusError> {
        read_into(Self::in_folder(folder), reader, encoder, limit)
    }

    /// Adds a sequence at the end.
    ///
    /// # Errors
    /// The file for the tokens cannot be written. The corpus is then of no more use.
    pub fn push(&mut self, sequence: &Sequence) -> Result<(), CorpusError> {
        let pairs = sequence.tokens.iter().zip(&sequence.supervised);
        let marked = pairs.map(|(token, supervised)| if *supervised { token | SUPERVISED } else { *token });
        let first = self.tokens.len();
        self.tokens.push(marked)?;
        let moved = |fraction: &Fraction| Fraction {
            places: fraction.places.start + first..fraction.places.end + first,
            weight: fraction.weight,
        };
        self.fractions.extend(sequence.fractions.iter().map(moved));
        self.ends.push(self.tokens.len());
        self.greatest = self.greatest.max(sequence.tokens.iter().max().copied());
        Ok(())
    }

    /// Number of sequences.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Number of tokens of all sequences.
    #[must_use]
    pub fn token_count(&self) -> usize {
        self.tokens.len()
    }

    /// Number of tokens of sequence `index`.
    #[must_use]
    pub fn length(&self, index: usize) -> usize {
        self.ends[index] - self.start(index)
    }

    /// Sequence `index`.
    ///
    /// # Errors
    /// The file with the tokens cannot be read.
    pub fn sequence(&self, index: usize) -> Result<StoredSequence<'_>, CorpusError> {
        let start = self.start(index);
        Ok(StoredSequence {
            marked: self.tokens.read(start..self.ends[index])?,
            start,
            fractions: &self.fractions,
        })
    }

    /// The greatest token id that was ever added.
    #[must_use]
    pub fn greatest_token(&self) -> Option<u32> {
        self.greatest
    }

    /// Bytes of memory: of the newest tokens, at most some MiB; beyond them nothing for a token, eight for a sequence, and
    /// a little for each run of weights that are neither 0 nor 1.
    #[must_use]
    pub fn resident_bytes(&self) -> usize {
        self.tokens.resident_bytes() + size_of_val(&self.ends[..]) + size_of_val(&self.fractions[..])
    }

    /// sha256 over tokens, masks, weights and lengths, in hex: equal exactly for equal training data.
    ///
    /// # Errors
    /// The file with the tokens cannot be read.
    pub fn digest(&self) -> Result<String, CorpusError> {
        let mut hasher = Sha256::new();
        hasher.update((self.ends.len() as u64).to_le_bytes());
        for end in &self.ends {
            hasher.update((*end as u64).to_le_bytes());
        }
        let count = self.tokens.len();
        for start in (0..count).step_by(DIGEST_TOKENS) {
            let piece = self.tokens.read(start..count.min(start + DIGEST_TOKENS))?;
            let bytes: Vec<u8> = piece.iter().flat_map(|marked| marked.to_le_bytes()).collect();
            hasher.update(bytes);
        }
        for Fraction { places, weight } in &self.fractions {
            hasher.update((places.start as u64).to_le_bytes());
            hasher.update((places.end as u64).to_le_bytes());
            hasher.update(weight.to_le_bytes());
        }
        Ok(hex::encode(hasher.finalize()))
    }

    /// Joins all sequences and cuts them into rows of exactly `row` tokens; the rest at the end is left out.
    #[must_use]
    pub fn into_rows(mut self, row: usize) -> Self {
        let count = self.tokens.len() / row.max(1);
        self.tokens.truncate(count * row);
        truncate_fractions(&mut self.fractions, count * row);
        self.ends = (1..=count).map(|index| index * row).collect();
        self
    }

    /// Picks `fraction` of the sequences for evaluation, by `seed`: (training, evaluation), both in file order. A
    /// fraction above zero picks at least one, and never all.
    #[must_use]
    pub fn split(&self, fraction: f64, seed: u64) -> (Vec<usize>, Vec<usize>) {
        let count = self.len();
        let held_out = if fraction > 0.0 && count > 1 {
            ((count as f64 * fraction).round() as usize).clamp(1, count - 1)
        } else {
            0
        };
        let mut is_held_out = vec![false; count];
        for index in permutation(seed, u64::MAX, count).into_iter().take(held_out) {
            is_held_out[index] = true;
        }
        (0..count).partition(|index| !is_held_out[*index])
    }

    fn start(&self, index: usize) -> usize {
        if index == 0 { 0 } else { self.ends[index - 1] }
    }
}

impl StoredSequence<'_> {
    /// Number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.marked.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.marked.is_empty()
    }

    /// Token ids.
    pub fn tokens(&self) -> impl ExactSizeIterator<Item = u32> {
        self.marked.iter().map(|marked| marked & !SUPERVISED)
    }

    /// For each token, whether it is supervised.
    pub fn supervised(&self) -> impl ExactSizeIterator<Item = bool> {
        self.marked.iter().map(|marked| marked & SUPERVISED != 0)
    }

    /// Weight of each token in the loss: from 0 to 1, 0 exactly where it is not supervised.
    pub fn weights(&self) -> impl ExactSizeIterator<Item = f32> {
        weigh(self.supervised(), self.start, self.fractions)
    }

    /// Tokens that count in the loss: supervised, and not the first.
    #[must_use]
    pub fn targets(&self) -> usize {
        self.supervised().skip(1).filter(|supervised| *supervised).count()
    }
}

#[cfg(test)]
mod tests;
