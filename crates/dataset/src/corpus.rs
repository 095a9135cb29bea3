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
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tokenizer::tests::byte_tokenizer;

    fn read(file: &str, most: usize, over_long: OverLong) -> Result<(Corpus, CorpusReport), CorpusError> {
        let encoder = Encoder::new(byte_tokenizer(), None);
        Corpus::read(file.as_bytes(), &encoder, LengthLimit { most, over_long })
    }

    const FILE: &str =
        "{\"text\":\"abc\"}\n\n{\"prompt\":\"0123456789\",\"completion\":\"x\"}\n{\"text\":\"d\"}";

    #[test]
    fn reads_tokens_and_masks() {
        let (corpus, report) = read(FILE, 100, OverLong::Fail).unwrap();
        assert_eq!(
            (corpus.len(), corpus.token_count(), report.lines),
            (3, 4 + 12 + 2, 3)
        );
        assert_eq!(
            (corpus.targets(0), corpus.targets(1), corpus.targets(2)),
            (3, 2, 1)
        );
        assert_eq!(corpus.tokens(2).last(), Some(257));
        assert_eq!(corpus.greatest_token(), Some(257));
        assert_ne!(corpus.digest(), corpus.clone().into_rows(2).digest());
    }

    #[test]
    fn over_long_examples() {
        let (corpus, report) = read(FILE, 4, OverLong::Truncate).unwrap();
        assert_eq!((corpus.len(), report.truncated, report.unsupervised), (2, 1, 1));
        let (corpus, report) = read(FILE, 4, OverLong::Drop).unwrap();
        assert_eq!((corpus.len(), report.dropped, report.unsupervised), (2, 1, 0));
        let error = read(FILE, 4, OverLong::Fail).unwrap_err();
        assert_eq!(
            error.to_string(),
            "line 3 of the data has 12 tokens; the most is 4"
        );
    }

    #[test]
    fn bad_lines_are_named() {
        let error = read("{\"text\":\"a\"}\n{\"txt\":1}", 9, OverLong::Fail).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("line 2 of the data: `txt` is not a field")
        );
        let chat = "{\"messages\":[{\"role\":\"user\",\"content\":\"u\"},{\"role\":\"assistant\",\"content\":\"a\"}]}";
        let error = read(chat, 9, OverLong::Fail).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("line 1 of the data: the base model has no chat template"),
            "{error}"
        );
    }

    const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

    fn read_chat(weights: [&str; 2]) -> Corpus {
        let template = crate::ChatTemplate::new(CHATML, None, None).unwrap();
        let encoder = Encoder::new(byte_tokenizer(), Some(template));
        let line = |weight: &str| {
            format!(
                "{{\"messages\":[{{\"role\":\"user\",\"content\":\"u\"}},{{\"role\":\"assistant\",\"content\":\"ab\",\"weight\":{weight}}}]}}\n"
            )
        };
        let limit = LengthLimit {
            most: 100,
            over_long: OverLong::Fail,
        };
        let file = weights.map(line).concat();
        Corpus::read(file.as_bytes(), &encoder, limit).unwrap().0
    }

    #[test]
    fn weights_cost_memory_only_where_they_are_fractions() {
        let whole = read_chat(["1", "1.0"]);
        assert!(whole.fractions.is_empty());
        assert!(whole.weights(1).all(|weight| weight == 0.0 || weight == 1.0));
        let corpus = read_chat(["1", "0.3"]);
        assert_eq!(corpus.fractions.len(), 1, "one run for the four tokens");
        let last =
            |index: usize| -> Vec<f32> { corpus.weights(index).skip(corpus.length(index) - 5).collect() };
        assert_eq!(last(0), [0.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(last(1), [0.0, 0.3, 0.3, 0.3, 0.3]);
        for index in 0..2 {
            assert_eq!(corpus.weights(index).len(), corpus.length(index));
            assert_eq!(corpus.targets(index), 4);
            let supervised = corpus.weights(index).map(|weight| weight > 0.0);
            assert!(supervised.eq(corpus.supervised(index)));
        }
    }

    #[test]
    fn the_digest_covers_weights() {
        let digests = ["1", "0.3", "0.300001"].map(|weight| read_chat(["1", weight]).digest());
        assert!(digests[0] != digests[1] && digests[1] != digests[2]);
        assert_eq!(digests[1], read_chat(["1.0", "3e-1"]).digest());
    }

    #[test]
    fn rows_keep_weights_in_their_places() {
        let corpus = read_chat(["0.5", "0.25"]);
        let wanted: Vec<f32> = (0..2).flat_map(|index| corpus.weights(index)).collect();
        let rows = corpus.into_rows(7);
        let found: Vec<f32> = (0..rows.len()).flat_map(|row| rows.weights(row)).collect();
        assert_eq!(found, wanted[..found.len()]);
        assert!(found.len() < wanted.len(), "the last run is cut");
        assert!(rows.fractions.last().unwrap().places.end <= found.len());
    }

    #[test]
    fn rows_have_one_length() {
        let (corpus, _) = read(FILE, 100, OverLong::Fail).unwrap();
        let rows = corpus.into_rows(5);
        assert_eq!((rows.len(), rows.length(2)), (3, 5));
    }

    #[test]
    fn split_is_a_pure_function_of_the_seed() {
        let file = "{\"text\":\"a\"}\n".repeat(40);
        let (corpus, _) = read(&file, 9, OverLong::Fail).unwrap();
        let (train, held_out) = corpus.split(0.1, 7);
        assert_eq!((train.len(), held_out.len()), (36, 4));
        assert_eq!(corpus.split(0.1, 7).1, held_out);
        assert_ne!(corpus.split(0.1, 8).1, held_out);
        assert!(train.is_sorted() && held_out.is_sorted());
        assert_eq!(corpus.split(0.001, 7).1.len(), 1);
        assert_eq!(corpus.split(0.0, 7).1.len(), 0);
    }
}
