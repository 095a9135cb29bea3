//! From the bytes of a JSONL file to a corpus.

use std::io::{self, BufRead};

use tunesmith_types::hyperparameters::OverLong;

use super::{Corpus, CorpusError, CorpusReport, LengthLimit};
use crate::encode::{Encoder, Sequence};
use crate::example::Example;
use crate::fields::Problem;
use crate::lines::MOST_LINE_BYTES;

/// Lines and bytes that are tokenized at once.
const CHUNK_LINES: usize = 1024;
const CHUNK_BYTES: usize = 8 * 1024 * 1024;

/// Reads and tokenizes `reader`, and adds its examples to `corpus`.
pub(super) fn read_into(
    corpus: Corpus,
    mut reader: impl BufRead,
    encoder: &Encoder,
    limit: LengthLimit,
) -> Result<(Corpus, CorpusReport), CorpusError> {
    let mut builder = Builder {
        encoder,
        limit,
        corpus,
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
            self.corpus.push(&sequence)?;
        }
        Ok(())
    }
}
