//! Exports of adapter versions.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::middleware::from_fn;
use tunesmith_types::api::adapters::DownloadableFiles;
use tunesmith_types::api::exports::{AdapterExport, CreateExportRequest};
use tunesmith_types::error::ErrorBody;
use tunesmith_types::ids::ExportId;
use tunesmith_types::list::List;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

use super::version_in_path;
use crate::app::exports::{self, KIND};
use crate::error::ApiError;
use crate::extract::Json;
use crate::middleware::authenticate::{Caller, Member};
use crate::middleware::idempotency::keyed_json;
use crate::state::ApiState;

/// The operations.
pub(crate) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(create_export).layer(from_fn(keyed_json)))
        .routes(routes!(list_exports))
        .routes(routes!(get_export))
        .routes(routes!(list_export_files))
}

fn id_in_path(text: &str) -> Result<ExportId, ApiError> {
    text.parse().map_err(|_| ApiError::not_found(KIND, text))
}

/// Export a version of an adapter
///
/// As a PEFT archive with a model card, as merged weights, or as a GGUF LoRA file. A worker makes it and verifies it before
/// it is offered. The same version, form and number format are made once; a failed export is tried again.
#[utoipa::path(
    post, path = "/v1/adapters/{name}/versions/{number}/exports", tag = "exports", request_body = CreateExportRequest,
    params(
        ("name" = String, Path, description = "The adapter"),
        ("number" = String, Path, description = "The version: its number, an alias, or `latest`"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key gives the same answer"),
    ),
    responses(
        (status = 202, description = "The export, made or to be made", body = AdapterExport),
        (status = 400, description = "The form does not go with the number format", body = ErrorBody),
        (status = 404, description = "No such version", body = ErrorBody),
    )
)]
async fn create_export(
    State(state): State<ApiState>,
    Member(caller): Member,
    Path((name, number)): Path<(String, String)>,
    Json(request): Json<CreateExportRequest>,
) -> Result<(StatusCode, axum::Json<AdapterExport>), ApiError> {
    let (name, version) = version_in_path(&name, &number)?;
    let export = exports::create(&state, &caller, &name, &version, request).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(export)))
}

/// List the exports of a version
#[utoipa::path(
    get, path = "/v1/adapters/{name}/versions/{number}/exports", tag = "exports",
    params(("name" = String, Path, description = "The adapter"), ("number" = String, Path, description = "The version: its number, an alias, or `latest`")),
    responses(
        (status = 200, description = "All of them, the oldest first", body = List<AdapterExport>),
        (status = 404, description = "No such version", body = ErrorBody),
    )
)]
async fn list_exports(
    State(state): State<ApiState>,
    caller: Caller,
    Path((name, number)): Path<(String, String)>,
) -> Result<axum::Json<List<AdapterExport>>, ApiError> {
    let (name, version) = version_in_path(&name, &number)?;
    Ok(axum::Json(
        exports::list(&state, &caller.0, &name, &version).await?,
    ))
}

/// Get an export
#[utoipa::path(
    get, path = "/v1/exports/{export}", tag = "exports", params(("export" = String, Path, description = "The export")),
    responses(
        (status = 200, description = "The export", body = AdapterExport),
        (status = 404, description = "No such export", body = ErrorBody),
    )
)]
async fn get_export(
    State(state): State<ApiState>,
    caller: Caller,
    Path(export): Path<String>,
) -> Result<axum::Json<AdapterExport>, ApiError> {
    let id = id_in_path(&export)?;
    Ok(axum::Json(exports::get(&state, &caller.0, id).await?))
}

/// List the files of an export, with addresses
///
/// Each address works for some minutes without credentials; compare what you got with its sha256.
#[utoipa::path(
    get, path = "/v1/exports/{export}/files", tag = "exports",
    params(("export" = String, Path, description = "The export")),
    responses(
        (status = 200, description = "The files", body = DownloadableFiles),
        (status = 404, description = "No such export", body = ErrorBody),
        (status = 409, description = "It is not there yet", body = ErrorBody),
    )
)]
async fn list_export_files(
    State(state): State<ApiState>,
    caller: Caller,
    Path(export): Path<String>,
) -> Result<axum::Json<DownloadableFiles>, ApiError> {
    let id = id_in_path(&export)?;
    Ok(axum::Json(exports::files(&state, &caller.0, id).await?))
}
