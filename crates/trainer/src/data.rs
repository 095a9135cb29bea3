//! Training and evaluation examples.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use tunesmith_dataset::corpus::LengthLimit;
use tunesmith_dataset::{Corpus, CorpusReport, Encoder};

use crate::cli::TrainArgs;
use crate::error::TrainError;
use crate::recipe::Settings;

/// The examples of a run.
#[derive(Debug)]
pub struct Data {
    /// Training examples, and held-out ones where they come from the same file.
    pub corpus: Corpus,
    /// Places of the training examples.
    pub train: Vec<usize>,
    /// Evaluation examples of their own file.
    eval_corpus: Option<Corpus>,
    /// Places of the evaluation examples.
    pub eval: Vec<usize>,
    /// What a person should know about the data.
    pub warnings: Vec<String>,
}

impl Data {
    /// Reads and tokenizes what the command line names.
    ///
    /// # Errors
    /// A file is unreadable or breaks the rules, nothing is supervised, or tokenizer and model do not fit.
    pub fn load(
        args: &TrainArgs,
        settings: &Settings,
        encoder: &Encoder,
        vocabulary: i64,
    ) -> Result<Self, TrainError> {
        let mut warnings = Vec::new();
        let mut corpus = read(&args.data, settings, encoder, &mut warnings)?;
        if let Some(row) = settings.pack_text {
            corpus = corpus.into_rows(row);
            if corpus.is_empty() {
                let message = format!("{} has fewer than --pack-text {row} tokens", args.data.display());
                return Err(TrainError::Arguments(message));
            }
        }
        let (train, held_out) = corpus.split(settings.eval_fraction.get(), settings.seed);
        let eval_corpus = match &args.eval {
            Some(path) => Some(read(path, settings, encoder, &mut warnings)?),
            None => None,
        };
        let eval = match &eval_corpus {
            Some(corpus) => (0..corpus.len()).collect(),
            None => held_out,
        };
        for corpus in std::iter::once(&corpus).chain(&eval_corpus) {
            check_vocabulary(corpus, vocabulary)?;
        }
        Ok(Self {
            corpus,
            train,
            eval_corpus,
            eval,
            warnings,
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

fn read(
    path: &Path,
    settings: &Settings,
    encoder: &Encoder,
    warnings: &mut Vec<String>,
) -> Result<Corpus, TrainError> {
    let file = File::open(path).map_err(|source| TrainError::DataUnreadable {
        path: path.to_path_buf(),
        source,
    })?;
    // Text that is cut into rows is as long as it is.
    let most = if settings.pack_text.is_some() {
        usize::MAX
    } else {
        settings.max_seq_len
    };
    let limit = LengthLimit {
        most,
        over_long: settings.over_long,
    };
    let reader = BufReader::with_capacity(1 << 20, file);
    let (corpus, report) = Corpus::read(reader, encoder, limit).map_err(|source| TrainError::Data {
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
            max_seq_len: most,
        });
    }
    warnings.extend(warnings_of(path, &report, settings.max_seq_len));
    Ok(corpus)
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
