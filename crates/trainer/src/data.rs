//! Training and evaluation examples.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use tunesmith_dataset::corpus::LengthLimit;
use tunesmith_dataset::{Corpus, CorpusReport, Encoder};
use tunesmith_types::hyperparameters::Hyperparameters;

use crate::assignment::Assignment;
use crate::error::TrainError;
use crate::preparation::BaseText;
use crate::probes::ProbePrompts;

/// The examples of a run.
#[derive(Debug)]
pub struct Data {
    /// Training examples, and held-out ones where they come from the same file.
    pub corpus: Corpus,
    /// Digest of that corpus.
    pub digest: String,
    /// Places of the training examples.
    pub train: Vec<usize>,
    /// Evaluation examples of their own file.
    eval_corpus: Option<Corpus>,
    /// Places of the evaluation examples.
    pub eval: Vec<usize>,
    /// What a person should know about the data.
    pub warnings: Vec<String>,
    /// What the finished adapter is asked.
    pub probe_prompts: ProbePrompts,
}

impl Data {
    /// Reads and tokenizes what `assignment` names.
    ///
    /// # Errors
    /// A file is unreadable or breaks the rules, nothing is supervised, tokenizer and model do not fit, or there is no
    /// room for the tokens.
    pub fn load(
        assignment: &Assignment,
        asked: &Hyperparameters,
        base: &BaseText,
    ) -> Result<Self, TrainError> {
        let (spec, pack_text) = (&assignment.spec, assignment.extras.pack_text);
        let mut reading = Reading {
            encoder: base.encoder()?.train_on_inputs(asked.train_on_inputs),
            limit: limit(asked, pack_text),
            max_seq_len: asked.max_seq_len.get() as usize,
            vocabulary: base.vocabulary,
            folder: spec.out.clone(),
            warnings: Vec::new(),
        };
        let mut corpus = reading.read(&spec.data)?;
        if let Some(row) = pack_text {
            corpus = corpus.into_rows(row);
            if corpus.is_empty() {
                let message = format!("{} has fewer than --pack-text {row} tokens", spec.data.display());
                return Err(TrainError::Arguments(message));
            }
        }
        let eval_corpus = spec.eval.as_deref().map(|path| reading.read(path)).transpose()?;
        let held_out = if eval_corpus.is_some() {
            0.0
        } else {
            asked.eval_fraction.get()
        };
        let (train, held_out) = corpus.split(held_out, u64::from(asked.seed.get()));
        Ok(Self {
            probe_prompts: ProbePrompts::choose(&corpus, &train, &reading.encoder, base.vocabulary)?,
            digest: corpus.digest()?,
            eval: match &eval_corpus {
                Some(corpus) => (0..corpus.len()).collect(),
                None => held_out,
            },
            corpus,
            train,
            eval_corpus,
            warnings: reading.warnings,
        })
    }

    /// The corpus that [`Self::eval`] points into.
    #[must_use]
    pub fn eval_corpus(&self) -> &Corpus {
        self.eval_corpus.as_ref().unwrap_or(&self.corpus)
    }
}

fn check_vocabulary(corpus: &Corpus, vocabulary: i64) -> Result<(), TrainError> {
    match corpus.greatest_token() {
        Some(token) if i64::from(token) >= vocabulary => {
            Err(TrainError::TokenizerMismatch { token, vocabulary })
        }
        _ => Ok(()),
    }
}

fn limit(asked: &Hyperparameters, pack_text: Option<usize>) -> LengthLimit {
    LengthLimit {
        // Text that is cut into rows is as long as it is.
        most: pack_text.map_or(asked.max_seq_len.get() as usize, |_| usize::MAX),
        over_long: asked.over_long,
    }
}

/// Reads the files of one job.
struct Reading {
    encoder: Encoder,
    limit: LengthLimit,
    max_seq_len: usize,
    vocabulary: i64,
    /// Where tokens go that are too many for the memory.
    folder: PathBuf,
    warnings: Vec<String>,
}

impl Reading {
    fn read(&mut self, path: &Path) -> Result<Corpus, TrainError> {
        let file = File::open(path).map_err(|source| TrainError::DataUnreadable {
            path: path.to_path_buf(),
            source,
        })?;
        let reader = BufReader::with_capacity(1 << 20, file);
        let read = Corpus::read(reader, &self.encoder, self.limit, self.folder.clone());
        let (corpus, report) = read.map_err(|source| TrainError::Data {
            path: path.to_path_buf(),
            source,
        })?;
        if report.lines == 0 {
            return Err(TrainError::NoExamples {
                path: path.to_path_buf(),
            });
        }
        if corpus.is_empty() {
            return Err(TrainError::NothingSupervised {
                path: path.to_path_buf(),
                examples: report.lines,
                unsupervised: report.unsupervised,
                dropped: report.dropped,
                max_seq_len: self.max_seq_len,
            });
        }
        check_vocabulary(&corpus, self.vocabulary)?;
        self.warnings.extend(warnings_of(path, &report, self.max_seq_len));
        Ok(corpus)
    }
}

fn warnings_of(path: &Path, report: &CorpusReport, most: usize) -> Vec<String> {
    let table = [
        (
            report.truncated,
            format!("have more than {most} tokens and are cut there"),
        ),
        (
            report.dropped,
            format!("have more than {most} tokens and are left out"),
        ),
        (
            report.unsupervised,
            format!("have nothing to learn within {most} tokens and are left out"),
        ),
    ];
    table
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| {
            format!(
                "{count} of {} examples in {} {what}.",
                report.lines,
                path.display()
            )
        })
        .collect()
}
