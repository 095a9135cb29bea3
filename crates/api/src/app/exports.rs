//! Exports of adapter versions: asked for here, made by a worker.

use chrono::{DateTime, Utc};
use tunesmith_store::exports::{self, Export};
use tunesmith_types::api::adapters::DownloadableFiles;
use tunesmith_types::api::exports::{AdapterExport, CreateExportRequest};
use tunesmith_types::api::jobs::JobError;
use tunesmith_types::ids::ExportId;
use tunesmith_types::list::List;
use tunesmith_types::names::ResourceName;
use tunesmith_types::principal::Principal;
use tunesmith_types::states::{ExportDtype, ExportFormat, ExportState};
use tunesmith_types::version_reference::VersionReference;

use super::adapters::{downloadable_files, file_view, stored_version};
use crate::error::{ApiError, OrNotFound};
use crate::state::ApiState;

/// What people call it.
pub const KIND: &str = "export";

/// Asks for an export; one that is there, or on its way, is returned as it is.
///
/// # Errors
/// The organization has no such version, or the form does not go with the number format.
pub async fn create(
    state: &ApiState,
    caller: &Principal,
    name: &ResourceName,
    reference: &VersionReference,
    request: CreateExportRequest,
) -> Result<AdapterExport, ApiError> {
    let dtype = dtype(request)?;
    let version = stored_version(state, caller, name, reference).await?;
    let organization = caller.organization_id;
    let export = exports::request(&state.store, organization, version.id, request.format, dtype).await?;
    Ok(view(export, format!("{name}@{}", version.number)))
}

/// The exports of a version, all on one page.
///
/// # Errors
/// The organization has no such version.
pub async fn list(
    state: &ApiState,
    caller: &Principal,
    name: &ResourceName,
    reference: &VersionReference,
) -> Result<List<AdapterExport>, ApiError> {
    let version = stored_version(state, caller, name, reference).await?;
    let rows = exports::list(&state.store, caller.organization_id, version.id).await?;
    let shown = format!("{name}@{}", version.number);
    let data = rows
        .into_iter()
        .map(|export| view(export, shown.clone()))
        .collect();
    Ok(List::new(data, false, |export: &AdapterExport| {
        export.id.to_string()
    }))
}

/// One export.
///
/// # Errors
/// The organization has no such export.
pub async fn get(state: &ApiState, caller: &Principal, id: ExportId) -> Result<AdapterExport, ApiError> {
    let export = exports::get(&state.store, caller.organization_id, id).await;
    let export = export.or_not_found(KIND, id)?;
    let version = tunesmith_store::adapters::version(&state.store, caller.organization_id, export.version_id);
    let version = version.await.or_not_found(KIND, id)?;
    Ok(view(export, format!("{}@{}", version.adapter, version.number)))
}

/// The files of an export, each with an address that works for a while without credentials.
///
/// # Errors
/// The organization has no such export, or it is not there yet.
pub async fn files(
    state: &ApiState,
    caller: &Principal,
    id: ExportId,
) -> Result<DownloadableFiles, ApiError> {
    let export = exports::get(&state.store, caller.organization_id, id).await;
    let export = export.or_not_found(KIND, id)?;
    if export.state != ExportState::Succeeded {
        let message = format!(
            "The export {id} has no files yet: it is {}. Wait until its `status` is `succeeded`.",
            export.state
        );
        return Err(ApiError::conflict("export_not_ready", message));
    }
    downloadable_files(state, &export.files).await
}

fn dtype(request: CreateExportRequest) -> Result<ExportDtype, ApiError> {
    let dtype = request.dtype.unwrap_or(ExportDtype::Auto);
    match (request.format, dtype) {
        (ExportFormat::Merged, dtype) => Ok(dtype),
        (ExportFormat::Peft, ExportDtype::Auto | ExportDtype::Float32) => Ok(ExportDtype::Auto),
        (ExportFormat::Gguf, ExportDtype::Auto) => Ok(ExportDtype::Float32),
        (ExportFormat::Gguf, ExportDtype::Float32 | ExportDtype::Float16) => Ok(dtype),
        (ExportFormat::Peft, _) => Err(ApiError::parameter(
            "dtype",
            "`peft` exports hold the trained float32 numbers; leave `dtype` out.",
        )),
        (ExportFormat::Gguf, ExportDtype::Bfloat16) => Err(ApiError::parameter(
            "dtype",
            "`gguf` exports are float32 or float16; `bfloat16` was given.",
        )),
    }
}

fn view(export: Export, version: String) -> AdapterExport {
    AdapterExport {
        id: export.id,
        object: "adapter_export".to_owned(),
        version,
        format: export.format,
        dtype: export.dtype,
        status: export.state,
        files: export.files.iter().map(file_view).collect(),
        verification: export.verification,
        error: export.error.map(|error| JobError {
            code: error.code,
            message: error.message,
        }),
        created_at: export.created_at.timestamp(),
        ended_at: export.ended_at.as_ref().map(DateTime::<Utc>::timestamp),
    }
}
