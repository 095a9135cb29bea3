//! Adapters and their versions.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::ids::{AdapterId, AdapterVersionId, BaseModelId, JobId, UserId};

/// A named LoRA adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Adapter {
    /// Id.
    pub id: AdapterId,
    /// Always `adapter`.
    #[schema(example = "adapter")]
    pub object: String,
    /// Name.
    pub name: String,
    /// Name of the base model of its newest version.
    pub base_model: String,
    /// Number of its newest version.
    pub latest_version: i32,
    /// When its first version was made.
    pub created_at: i64,
}

/// One immutable numbered version of an adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AdapterVersion {
    /// Id.
    pub id: AdapterVersionId,
    /// Always `adapter_version`.
    #[schema(example = "adapter_version")]
    pub object: String,
    /// Name of the adapter.
    pub adapter: String,
    /// Number, from 1.
    pub number: i32,
    /// `name@number`.
    #[schema(example = "support@7")]
    pub reference: String,
    /// Hash over its files; names the version's content everywhere.
    pub digest: String,
    /// Size of its files.
    pub bytes: i64,
    /// Name of the base model.
    pub base_model: String,
    /// Id of the base model.
    pub base_model_id: BaseModelId,
    /// The job that made it.
    pub job_id: Option<JobId>,
    /// What it was made from: digests of base model, tokenizer, template and data, and the hyperparameters.
    pub manifest: serde_json::Value,
    /// Final numbers of the training.
    pub metrics: serde_json::Value,
    /// Its files.
    pub files: Vec<StoredFile>,
    /// Optimizer steps of the checkpoint that it was made from; null where it is what the job ended with.
    pub checkpoint_step: Option<i64>,
    /// The version whose adapter its training began with.
    pub parent_version_id: Option<AdapterVersionId>,
    /// When it was made.
    pub created_at: i64,
    /// When it was deleted; its files are gone then.
    pub deleted_at: Option<i64>,
    /// Who deleted it.
    pub deleted_by: Option<UserId>,
    /// Why it was deleted.
    pub deletion_reason: Option<String>,
}

/// Query of the list of an adapter's versions.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListVersionsQuery {
    /// The `last_id` of the page before; absent for the first page.
    pub after: Option<String>,
    /// Rows of the page, 1 to 100 (20 when absent).
    pub limit: Option<u16>,
    /// Lists deleted versions too.
    #[serde(default)]
    pub include_deleted: bool,
}

/// Query of a deletion.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeleteVersionQuery {
    /// Why, for whoever comes after you; at most 1000 characters.
    pub reason: Option<String>,
}

/// A checkpoint to be made a version.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishCheckpointRequest {
    /// Adapter whose next version it becomes (default: the job's); a new name makes a new adapter.
    #[schema(example = "support")]
    pub adapter: Option<String>,
}

/// Query of an import.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ImportAdapterQuery {
    /// Base model that the adapter was trained on, by name or id.
    pub base_model: String,
}

/// A version that was made from an adapter trained elsewhere.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ImportedAdapterVersion {
    /// The version.
    #[serde(flatten)]
    pub version: AdapterVersion,
    /// Files of the archive that were left out, as they are no part of the adapter.
    pub ignored_files: Vec<String>,
}

/// A file of a version or of a base model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StoredFile {
    /// Name.
    #[schema(example = "adapter_model.safetensors")]
    pub name: String,
    /// Size.
    pub bytes: i64,
    /// Hash of the bytes.
    pub sha256: String,
}

/// A file with an address that works for a while without credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DownloadableFile {
    /// The file.
    #[serde(flatten)]
    pub file: StoredFile,
    /// Presigned address for a GET.
    pub url: String,
    /// When the address ends.
    pub url_expires_at: i64,
}

/// The files of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DownloadableFiles {
    /// Always `list`.
    #[schema(example = "list")]
    pub object: String,
    /// The files, by name.
    pub data: Vec<DownloadableFile>,
}
