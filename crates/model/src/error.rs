//! What can go wrong with a model, one variant per failing step.

use std::path::PathBuf;

use tch::TchError;
use tunesmith_torch_ext::GpuError;
use tunesmith_torch_ext::TensorFileError;
use tunesmith_torch_ext::kernels::KernelError;

/// Why a model or an adapter could not be read, run or written.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A JSON file is not what it should be.
    #[error("{path} is not valid: {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// The model is of a family that is not built in.
    #[error("architecture `{found}` is not supported; supported are {supported}")]
    UnsupportedArchitecture {
        /// The class named in `config.json`.
        found: String,
        /// The classes that would do.
        supported: String,
    },
    /// The model's configuration asks for something that is not built in.
    #[error("config.json: `{field}` is {value}, which is not supported: {reason}")]
    UnsupportedFeature {
        /// The field.
        field: String,
        /// Its value.
        value: String,
        /// What would do.
        reason: String,
    },
    /// The model's configuration contradicts itself.
    #[error("config.json: {0}")]
    InvalidConfig(String),
    /// The folder has neither one weights file nor an index of several.
    #[error("{0} has neither model.safetensors nor model.safetensors.index.json")]
    NoWeights(PathBuf),
    /// The weights do not fit the configuration: every misfit, one a line.
    #[error("the weights in {folder} do not fit config.json:\n{}", problems.join("\n"))]
    WeightsMismatch {
        /// The model's folder.
        folder: PathBuf,
        /// What is missing, misshapen or unexpected.
        problems: Vec<String>,
    },
    /// A weights file is damaged.
    #[error(transparent)]
    TensorFile(#[from] TensorFileError),
    /// An adapter has something that cannot be served or trained further.
    #[error("adapter_config.json: `{field}` is {value}, which is not supported: {reason}")]
    UnsupportedAdapter {
        /// The field.
        field: String,
        /// Its value.
        value: String,
        /// What would do.
        reason: String,
    },
    /// An adapter's tensors do not fit its configuration or the base model: every misfit, one a line.
    #[error("the adapter in {folder} does not fit:\n{}", problems.join("\n"))]
    AdapterMismatch {
        /// The adapter's folder.
        folder: PathBuf,
        /// What is missing, misshapen, unexpected or not finite.
        problems: Vec<String>,
    },
    /// None of the model's modules is targeted.
    #[error("`target_modules` names none of the model's modules; it has {}", modules.join(", "))]
    NoTargetModule {
        /// What could be named.
        modules: Vec<String>,
    },
    /// The rank of a module is above its smaller dimension, where more adds nothing.
    #[error(
        "rank {rank} is above {limit}, the smaller dimension of `{module}`; lower `rank`, or give this module a rank of \
         its own in `rank_pattern`"
    )]
    RankTooLarge {
        /// The module's name.
        module: String,
        /// Its rank.
        rank: i64,
        /// The largest rank that it can have.
        limit: i64,
    },
    /// `layers_to_transform` names a block that the model does not have.
    #[error("`layers_to_transform` names block {layer}; the model has blocks 0 to {}", layers - 1)]
    LayerOutOfRange {
        /// The block's number.
        layer: u32,
        /// How many blocks there are.
        layers: usize,
    },
    /// The settings of an adapter contradict each other, or one is not valid.
    #[error("`{field}`: {reason}")]
    InvalidLora {
        /// The setting.
        field: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A batch is empty, or its parts do not add up.
    #[error("invalid batch: {0}")]
    InvalidBatch(String),
    /// A token id lies outside the model's vocabulary.
    #[error("token id {token} is outside the vocabulary of {vocabulary}")]
    TokenOutOfRange {
        /// The token.
        token: u32,
        /// Number of rows of the embedding.
        vocabulary: i64,
    },
    /// LibTorch refused: most often for want of memory.
    #[error(transparent)]
    Torch(#[from] TchError),
    /// A fused kernel was given a tensor that it does not take: a defect.
    #[error(transparent)]
    Kernel(KernelError),
}

impl From<KernelError> for ModelError {
    fn from(error: KernelError) -> Self {
        match error {
            KernelError::Torch(source) => Self::Torch(source),
            other => Self::Kernel(other),
        }
    }
}

impl ModelError {
    /// A stable word for programs, snake_case.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "model_unreadable",
            Self::Json { .. } | Self::InvalidConfig(_) => "model_config_invalid",
            Self::UnsupportedArchitecture { .. } => "unsupported_architecture",
            Self::UnsupportedFeature { .. } => "unsupported_model_feature",
            Self::NoWeights(_) => "model_weights_missing",
            Self::WeightsMismatch { .. } | Self::TensorFile(_) => "model_weights_invalid",
            Self::UnsupportedAdapter { .. } => "unsupported_adapter",
            Self::AdapterMismatch { .. } => "adapter_invalid",
            Self::NoTargetModule { .. } => "target_modules_match_nothing",
            Self::RankTooLarge { .. } => "rank_too_large",
            Self::LayerOutOfRange { .. } => "layer_out_of_range",
            Self::InvalidLora { .. } => "lora_invalid",
            Self::InvalidBatch(_) | Self::TokenOutOfRange { .. } => "invalid_batch",
            Self::Torch(error) if is_out_of_memory(error) => "out_of_memory",
            Self::Torch(_) | Self::Kernel(_) => "torch_error",
        }
    }
}

/// LibTorch reports exhausted memory as text: the CUDA allocator's, and the CPU allocator's.
fn is_out_of_memory(error: &TchError) -> bool {
    let text = error.to_string();
    text.contains("out of memory")
        || text.contains("can't allocate memory")
        || text.contains("not enough memory")
}

impl From<GpuError> for ModelError {
    fn from(error: GpuError) -> Self {
        Self::Kernel(KernelError::from(error))
    }
}
