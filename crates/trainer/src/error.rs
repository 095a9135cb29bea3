//! Why a training ends early, each with a stable code for programs.

use std::any::Any;
use std::path::{Path, PathBuf};

use tunesmith_dataset::corpus::CorpusError;
use tunesmith_dataset::encode::EncodeError;
use tunesmith_dataset::template::TemplateError;
use tunesmith_dataset::tokenizer::TokenizerError;
use tunesmith_model::ModelError;
use tunesmith_torch_ext::TensorFileError;
use tunesmith_types::error::ParameterError;

/// Why a training failed.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A hyperparameter is outside its bounds.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    /// The base model, the adapter or LibTorch.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Tokenizer or chat template of the base model cannot be loaded.
    #[error("the base model's text files cannot be used: {}", explain(.0))]
    Text(#[from] EncodeError),
    /// A data file cannot be opened.
    #[error("cannot read the data {path}: {source}", path = path.display())]
    DataUnreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The data breaks the rules.
    #[error("{path}: {}", explain(source), path = path.display())]
    Data {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: CorpusError,
    },
    /// The tokens of the data were lost after they were made.
    #[error("{}", explain(.0))]
    Tokens(#[from] CorpusError),
    /// The data has no line with an example.
    #[error("{path} has no examples", path = path.display())]
    NoExamples {
        /// The file.
        path: PathBuf,
    },
    /// No token of the data would count in the loss.
    #[error(
        "nothing in {path} would be learnt: of {examples} examples, {unsupervised} have no supervised token within \
         {max_seq_len} tokens and {dropped} are longer than that; check the messages' weights or raise --max-seq-len",
        path = path.display()
    )]
    NothingSupervised {
        /// The file.
        path: PathBuf,
        /// Lines with an example.
        examples: u64,
        /// Examples without a supervised token.
        unsupervised: u64,
        /// Examples that were dropped for their length.
        dropped: u64,
        /// The limit.
        max_seq_len: usize,
    },
    /// The tokenizer makes ids that the model has no embedding for.
    #[error("the tokenizer gives token {token}, but the base model's vocabulary ends before {vocabulary}")]
    TokenizerMismatch {
        /// The id.
        token: u32,
        /// Rows of the embedding.
        vocabulary: i64,
    },
    /// Loss or gradient is infinite or not a number.
    #[error(
        "step {step}: the {what} is not finite; lower the learning rate, or look for broken examples. {}",
        kept_words(kept.as_deref())
    )]
    NonFinite {
        /// The optimizer step, which was not taken.
        step: u64,
        /// `loss` or `gradient`.
        what: &'static str,
        /// A checkpoint of the state before it.
        kept: Option<PathBuf>,
    },
    /// A checkpoint is not whole or not one of ours.
    #[error("the checkpoint {path} cannot be resumed: {reason}", path = path.display())]
    CheckpointInvalid {
        /// The folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A checkpoint belongs to another job.
    #[error("the checkpoint {path} belongs to another job: {difference}", path = path.display())]
    CheckpointMismatch {
        /// The folder.
        path: PathBuf,
        /// What differs.
        difference: String,
    },
    /// Checkpoints of an earlier run are in the way.
    #[error(
        "{path} has checkpoints of an earlier run; go on from one with --resume, or choose another --out",
        path = path.display()
    )]
    CheckpointsExist {
        /// The folder of checkpoints.
        path: PathBuf,
    },
    /// The device does not exist here.
    #[error("the device {device} cannot be used: {reason}")]
    Device {
        /// As asked for.
        device: String,
        /// Why.
        reason: String,
    },
    /// A file cannot be written.
    #[error("cannot write {path}: {source}", path = path.display())]
    Output {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The disk has too little room for what the job will write.
    #[error(
        "{path} has {free} MB free, but the checkpoints and the result need up to {needed} MB; make room, or keep fewer \
         checkpoints",
        path = path.display()
    )]
    DiskTooSmall {
        /// The folder that would be written.
        path: PathBuf,
        /// Megabytes that are needed at most.
        needed: u64,
        /// Megabytes that are free.
        free: u64,
    },
    /// A pass over the documents of several jobs failed in the documents of this one.
    #[error("{message}{}", pass_advice(code))]
    Pass {
        /// The model's code for it.
        code: &'static str,
        /// The model's words for it.
        message: String,
    },
    /// A merged model does not give what base and adapter give.
    #[error(
        "the merged model's scores differ from those of base and adapter by {difference:e}, more than {tolerance:e}, so \
         it was not written; try --dtype float32"
    )]
    MergeDiffers {
        /// The largest difference of two scores.
        difference: f64,
        /// What is allowed.
        tolerance: f64,
    },
    /// A merged model was not written as it was computed.
    #[error(
        "`{tensor}` of the written model is not the merged weight rounded to {dtype}, so the model was not kept; the disk \
         or the memory of this machine is at fault"
    )]
    MergeNotRounded {
        /// The tensor.
        tensor: String,
        /// The format.
        dtype: &'static str,
    },
    /// SPEC.json is not valid, or a command is not.
    #[error("{0}")]
    Specification(String),
    /// The arguments contradict each other.
    #[error("{0}")]
    Arguments(String),
    /// A defect of this program, or of LibTorch.
    #[error("this should not have happened, please report it: {0}")]
    Internal(String),
    /// A tokenizer cannot be made.
    #[error("the tokenizer cannot be made: {0}")]
    Vocabulary(String),
}

impl TrainError {
    /// The stable code of a `failed` event.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Parameter(_) | Self::Arguments(_) => "invalid_hyperparameter",
            Self::Model(error) => error.code(),
            Self::Text(error) => text_code(error),
            Self::DataUnreadable { .. } => "data_unreadable",
            Self::Data { source, .. } | Self::Tokens(source) => data_code(source),
            Self::NoExamples { .. } => "invalid_dataset",
            Self::NothingSupervised { .. } => "nothing_supervised",
            Self::TokenizerMismatch { .. } => "tokenizer_mismatch",
            Self::NonFinite { .. } => "non_finite_loss",
            Self::CheckpointInvalid { .. } => "checkpoint_invalid",
            Self::CheckpointMismatch { .. } => "checkpoint_mismatch",
            Self::CheckpointsExist { .. } => "checkpoints_exist",
            Self::Device { .. } => "device_unavailable",
            Self::Output { .. } | Self::DiskTooSmall { .. } => "output_unwritable",
            Self::Pass { code, .. } => code,
            Self::MergeDiffers { .. } => "merge_differs",
            Self::MergeNotRounded { .. } => "merge_not_rounded",
            Self::Specification(_) => "invalid_specification",
            Self::Internal(_) => "internal_error",
            Self::Vocabulary(_) => "tokenizer_invalid",
        }
    }

    /// Whether the process cannot go on: LibTorch is in a state that nobody knows.
    #[must_use]
    pub fn ends_the_process(&self) -> bool {
        matches!(self, Self::Model(ModelError::Torch(_))) && self.code() != "out_of_memory"
    }

    /// Wraps an error of writing to `path`, which the model crate does not tell from one of reading.
    pub(crate) fn saving(path: &Path, error: ModelError) -> Self {
        match error {
            ModelError::Io { path, source }
            | ModelError::TensorFile(TensorFileError::Io { path, source }) => Self::Output { path, source },
            ModelError::TensorFile(TensorFileError::Format { path, source }) => Self::Output {
                path,
                source: std::io::Error::other(source),
            },
            ModelError::Torch(_) => Self::Model(error),
            other => Self::Output {
                path: path.to_path_buf(),
                source: std::io::Error::other(other),
            },
        }
    }

    /// Wraps an input/output error of a file that is written.
    pub(crate) fn output(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Output { path, source }
    }
}

impl From<tch::TchError> for TrainError {
    fn from(error: tch::TchError) -> Self {
        Self::Model(error.into())
    }
}

impl From<TensorFileError> for TrainError {
    fn from(error: TensorFileError) -> Self {
        Self::Model(error.into())
    }
}

fn pass_advice(code: &str) -> &'static str {
    if code == "out_of_memory" {
        "; half the tokens per pass were too many as well: lower the micro batch's tokens or `max_seq_len`"
    } else {
        ""
    }
}

/// What a caught panic says.
#[must_use]
pub fn words_of(panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<String>().map(String::as_str);
    let words = words.or_else(|| panic.downcast_ref::<&str>().copied());
    words.unwrap_or("a panic").to_owned()
}

fn kept_words(kept: Option<&Path>) -> String {
    kept.map_or_else(
        || "It was the first step, so nothing is kept.".to_owned(),
        |path| format!("The state before that step is kept in {}.", path.display()),
    )
}

fn data_code(error: &CorpusError) -> &'static str {
    match error {
        CorpusError::Read(_) | CorpusError::Lost { .. } => "data_unreadable",
        CorpusError::Line { .. } => "invalid_dataset",
        CorpusError::Encode { source, .. } => text_code(source),
        CorpusError::OverLong { .. } => "example_too_long",
        CorpusError::NoRoom { .. } => "output_unwritable",
    }
}

fn text_code(error: &EncodeError) -> &'static str {
    match error {
        EncodeError::Tokenizer(TokenizerError::Read { .. }) => "tokenizer_missing",
        EncodeError::Tokenizer(_) => "tokenizer_invalid",
        EncodeError::Template(TemplateError::Missing) => "chat_template_missing",
        EncodeError::Template(TemplateError::Refused(_)) => "chat_template_refused",
        EncodeError::Template(TemplateError::IgnoresTools | TemplateError::IgnoresCalls) => {
            "chat_template_without_tools"
        }
        EncodeError::Template(_)
        | EncodeError::RewritesHistory { .. }
        | EncodeError::NotAContinuation { .. }
        | EncodeError::MarksDiffer { .. } => "chat_template_failed",
    }
}

/// An error with its causes, each once.
fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(found) = cause {
        let next = found.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = found.source();
    }
    text
}
