//! Datasets: immutable files of examples.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::dataset::ValidationReport;
use crate::ids::DatasetId;
use crate::states::DatasetState;

/// Query of an upload.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UploadDatasetQuery {
    /// Name of the dataset; each upload under the same name gets the next number.
    #[param(example = "support")]
    pub name: String,
}

/// A dataset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Dataset {
    /// Id.
    pub id: DatasetId,
    /// Always `dataset`.
    #[schema(example = "dataset")]
    pub object: String,
    /// Name.
    pub name: String,
    /// Number of this upload under the name, from 1.
    pub number: i32,
    /// `name@number`, which jobs take.
    #[schema(example = "support@3")]
    pub reference: String,
    /// Size.
    pub bytes: i64,
    /// Hash of the bytes.
    pub sha256: String,
    /// Whether it can be trained on.
    pub status: DatasetState,
    /// Examples that can be trained on; null until validated.
    pub examples: Option<i64>,
    /// What the validator found; null until validated, and in lists.
    pub report: Option<ValidationReport>,
    /// When the upload was complete.
    pub created_at: i64,
    /// When the validator finished.
    pub validated_at: Option<i64>,
}
