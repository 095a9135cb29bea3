//! A tokenized dataset in memory: four bytes per token, the loss mask in the top bit; weights that are neither 0 nor 1
//! are kept beside, as runs.

use std::io::{self, BufRead};

use sha2::{Digest, Sha256};
use tunesmith_types::hyperparameters::OverLong;

use crate::encode::{EncodeError, Encoder, Fraction, Sequence, truncate_fractions, weigh};
use crate::example::Example;
use crate::fields::Problem;
use crate::lines::MOST_LINE_BYTES;
use crate::order::permutation;

const SUPERVISED: u32 = 1 << 31;
/// Lines and bytes that are tokenized at once.
const CHUNK_LINES: usize = 1024;
const CHUNK_BYTES: usize = 8 * 1024 * 1024;

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

/// Token sequences with loss masks.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Corpus {
    marked: Vec<u32>,
    ends: Vec<usize>,
    /// Places count through all sequences.
    fractions: Vec<Fraction>,
}

impl Corpus {
    /// Reads and tokenizes a JSONL file. Memory: the tokens, and a bounded number of lines.
    ///
    /// # Errors
    /// The reader's error, the first line that breaks the rules, or the first over-long example where that is asked for.
    pub fn read(
        mut reader: impl BufRead,
        encoder: &Encoder,
        limit: LengthLimit,
    ) -> Result<(Self, CorpusReport), CorpusError> {
        let mut builder = Builder {
            encoder,
            limit,
            corpus: Self::default(),
            report: CorpusReport::default(),
        };
        let mut pending: Vec<(u64, Example)> = Vec::new();
        let (mut bytes, mut number, mut line) = (0, 0, Vec::new());
        while next_line(&mut reader, &mut line)? {
            number += 1;
            if line.trim_ascii().is_empty() {
                continue;
            }
            bytes += line.len();
            pending.push((number, parse(number, &line)?));
            if pending.len() >= CHUNK_LINES || bytes >= CHUNK_BYTES {
                builder.take(&mut pending)?;
                bytes = 0;
            }
        }
        builder.take(&mut pending)?;
        Ok((builder.corpus, builder.report))
    }

    /// Adds a sequence at the end.
    pub fn push(&mut self, sequence: &Sequence) {
        let pairs = sequence.tokens.iter().zip(&sequence.supervised);
        let marked = pairs.map(|(token, supervised)| if *supervised { token | SUPERVISED } else { *token });
        let first = self.marked.len();
        self.marked.extend(marked);
        let moved = |fraction: &Fraction| Fraction {
            places: fraction.places.start + first..fraction.places.end + first,
            weight: fraction.weight,
        };
        self.fractions.extend(sequence.fractions.iter().map(moved));
        self.ends.push(self.marked.len());
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
        self.marked.len()
    }

    /// Number of tokens of sequence `index`.
    #[must_use]
    pub fn length(&self, index: usize) -> usize {
        self.marked(index).len()
    }

    /// Token ids of sequence `index`.
    pub fn tokens(&self, index: usize) -> impl ExactSizeIterator<Item = u32> {
        self.marked(index).iter().map(|marked| marked & !SUPERVISED)
    }

    /// For each token of sequence `index`, whether it is supervised.
    pub fn supervised(&self, index: usize) -> impl ExactSizeIterator<Item = bool> {
        self.marked(index).iter().map(|marked| marked & SUPERVISED != 0)
    }

    /// Weight of each token of sequence `index` in the loss: from 0 to 1, 0 exactly where it is not supervised.
    pub fn weights(&self, index: usize) -> impl ExactSizeIterator<Item = f32> {
        weigh(self.supervised(index), self.start(index), &self.fractions)
    }

    /// Tokens of sequence `index` that count in the loss: supervised, and not the first.
    #[must_use]
    pub fn targets(&self, index: usize) -> usize {
        self.supervised(index)
            .skip(1)
            .filter(|supervised| *supervised)
            .count()
    }

    /// The greatest token id.
    #[must_use]
    pub fn greatest_token(&self) -> Option<u32> {
        self.marked.iter().map(|marked| marked & !SUPERVISED).max()
    }

    /// sha256 over tokens, masks, weights and lengths, in hex: equal exactly for equal training data.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        hasher.update((self.ends.len() as u64).to_le_bytes());
        for end in &self.ends {
            hasher.update((*end as u64).to_le_bytes());
        }
        for chunk in self.marked.chunks(16 * 1024) {
            let bytes: Vec<u8> = chunk.iter().flat_map(|marked| marked.to_le_bytes()).collect();
            hasher.update(bytes);
        }
        for Fraction { places, weight } in &self.fractions {
            hasher.update((places.start as u64).to_le_bytes());
            hasher.update((places.end as u64).to_le_bytes());
            hasher.update(weight.to_le_bytes());
        }
        hex::encode(hasher.finalize())
    }

    /// Joins all sequences and cuts them into rows of exactly `row` tokens; the rest at the end is left out.
    #[must_use]
    pub fn into_rows(self, row: usize) -> Self {
        let count = self.marked.len() / row.max(1);
        let mut marked = self.marked;
        marked.truncate(count * row);
        let mut fractions = self.fractions;
        truncate_fractions(&mut fractions, marked.len());
        Self {
            marked,
            fractions,
            ends: (1..=count).map(|index| index * row).collect(),
        }
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

    fn marked(&self, index: usize) -> &[u32] {
        &self.marked[self.start(index)..self.ends[index]]
    }

    fn start(&self, index: usize) -> usize {
        if index == 0 { 0 } else { self.ends[index - 1] }
    }
}

/// Reads one line without its break into `line`; false at the end.
fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> Result<bool, CorpusError> {
    use io::Read;
    line.clear();
    let most = MOST_LINE_BYTES as u64 + 2;
    let count = reader
        .take(most)
        .read_until(b'\n', line)
        .map_err(CorpusError::Read)?;
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok(count > 0)
}

fn parse(number: u64, line: &[u8]) -> Result<Example, CorpusError> {
    let problem = if line.len() > MOST_LINE_BYTES {
        Problem::line(
            "line_too_long",
            format!("it has more than {MOST_LINE_BYTES} bytes."),
        )
    } else {
        match Example::parse(line) {
            Ok(example) => return Ok(example),
            Err(problems) => problems
                .into_iter()
                .next()
                .expect("invariant: a refused line has a problem"),
        }
    };
    Err(CorpusError::Line {
        line: number,
        problem,
    })
}

struct Builder<'a> {
    encoder: &'a Encoder,
    limit: LengthLimit,
    corpus: Corpus,
    report: CorpusReport,
}

impl Builder<'_> {
    fn take(&mut self, pending: &mut Vec<(u64, Example)>) -> Result<(), CorpusError> {
        let (numbers, examples): (Vec<u64>, Vec<Example>) = pending.drain(..).unzip();
        let sequences =
            self.encoder
                .encode_batch(&examples)
                .map_err(|(place, source)| CorpusError::Encode {
                    line: numbers[place],
                    source,
                })?;
        for (line, sequence) in numbers.into_iter().zip(sequences) {
            self.keep(line, sequence)?;
        }
        Ok(())
    }

    fn keep(&mut self, line: u64, mut sequence: Sequence) -> Result<(), CorpusError> {
        self.report.lines += 1;
        let tokens = sequence.tokens.len();
        if tokens > self.limit.most {
            match self.limit.over_long {
                OverLong::Truncate => {
                    self.report.truncated += 1;
                    sequence.truncate(self.limit.most);
                }
                OverLong::Drop => {
                    self.report.dropped += 1;
                    return Ok(());
                }
                OverLong::Fail => {
                    return Err(CorpusError::OverLong {
                        line,
                        tokens,
                        most: self.limit.most,
                    });
                }
            }
        }
        if sequence.targets() == 0 {
            self.report.unsupervised += 1;
        } else {
            self.corpus.push(&sequence);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
