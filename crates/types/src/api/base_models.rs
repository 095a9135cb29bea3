//! Base models of the catalogue.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::adapters::StoredFile;
use crate::ids::BaseModelId;
use crate::states::BaseModelState;

/// A base model to be registered.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateBaseModelRequest {
    /// Name, once per organization.
    #[schema(example = "qwen2.5-0.5b")]
    pub name: String,
    /// Folder below `imports/` of the configured bucket to copy the files from. Absent: the files are uploaded one by
    /// one, then `complete` is called.
    #[schema(example = "qwen2.5-0.5b")]
    pub s3_prefix: Option<String>,
}

/// A frozen pre-trained model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BaseModel {
    /// Id.
    pub id: BaseModelId,
    /// Always `base_model`.
    #[schema(example = "base_model")]
    pub object: String,
    /// Name.
    pub name: String,
    /// Whether it can be trained.
    pub status: BaseModelState,
    /// Whether all organizations see it.
    pub shared: bool,
    /// Hash over its files; null until complete.
    pub digest: Option<String>,
    /// Size of its files.
    pub bytes: i64,
    /// What its configuration says; null until complete.
    pub architecture: Option<BaseModelArchitecture>,
    /// Whether it can be trained on conversations; null until complete.
    pub has_chat_template: Option<bool>,
    /// Its files.
    pub files: Vec<StoredFile>,
    /// Why it cannot be used.
    pub error: Option<String>,
    /// When it was registered.
    pub created_at: i64,
}

/// What matters of a model's `config.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BaseModelArchitecture {
    /// Family (`llama`, `mistral`, `qwen2`).
    pub model_type: String,
    /// Width of the residual stream.
    pub hidden_size: u32,
    /// Blocks.
    pub num_hidden_layers: u32,
    /// Query heads.
    pub num_attention_heads: u32,
    /// Key and value heads.
    pub num_key_value_heads: u32,
    /// Rows of the embedding.
    pub vocab_size: u32,
    /// Longest sequence.
    pub max_position_embeddings: u32,
    /// Numbers in the weight files.
    pub parameters: u64,
}
