//! Exports of adapter versions.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::adapters::StoredFile;
use super::jobs::JobError;
use crate::ids::ExportId;
use crate::states::{ExportDtype, ExportFormat, ExportState};

/// What to export a version as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateExportRequest {
    /// The form.
    pub format: ExportFormat,
    /// The number format; without it that of the base model for merged weights, float32 for adapters.
    #[serde(default)]
    pub dtype: Option<ExportDtype>,
}

/// An adapter version in another form, made or to be made. There is one per version, form and number format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AdapterExport {
    /// Id.
    pub id: ExportId,
    /// Always `adapter_export`.
    #[schema(example = "adapter_export")]
    pub object: String,
    /// The version.
    #[schema(example = "support@7")]
    pub version: String,
    /// The form.
    pub format: ExportFormat,
    /// The number format.
    pub dtype: ExportDtype,
    /// How far it is.
    pub status: ExportState,
    /// Its files once it has succeeded; `GET /v1/exports/{id}/files` gives their addresses.
    pub files: Vec<StoredFile>,
    /// How what was made was compared with what it was made from, with the numbers found and allowed.
    pub verification: Option<serde_json::Value>,
    /// Why it failed.
    pub error: Option<JobError>,
    /// When it was asked for.
    pub created_at: i64,
    /// When it succeeded or failed.
    pub ended_at: Option<i64>,
}
