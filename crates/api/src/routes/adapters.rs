//! Adapters and their versions.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use tunesmith_types::api::adapters::{Adapter, AdapterVersion, DownloadableFiles};
use tunesmith_types::error::ErrorBody;
use tunesmith_types::list::{List, PageQuery};
use tunesmith_types::names::ResourceName;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{download_headers, name_in_path};
use crate::app::{adapters, tar_stream};
use crate::error::ApiError;
use crate::extract::Query;
use crate::middleware::authenticate::Caller;
use crate::state::ApiState;

/// The operations.
pub(crate) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(list_adapters))
        .routes(routes!(get_adapter))
        .routes(routes!(list_adapter_versions))
        .routes(routes!(get_adapter_version))
        .routes(routes!(download_adapter_version))
        .routes(routes!(list_adapter_version_files))
}

pub(super) fn version_in_path(name: &str, number: &str) -> Result<(ResourceName, i32), ApiError> {
    let absent = || ApiError::not_found(adapters::VERSION_KIND, format!("{name}@{number}"));
    let name = name.parse().map_err(|_| absent())?;
    Ok((name, number.parse().map_err(|_| absent())?))
}

/// List adapters
#[utoipa::path(
    get, path = "/v1/adapters", tag = "adapters", params(PageQuery),
    responses((status = 200, description = "The adapters, newest first", body = List<Adapter>))
)]
async fn list_adapters(
    State(state): State<ApiState>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<List<Adapter>>, ApiError> {
    Ok(axum::Json(adapters::list(&state, &caller.0, &query).await?))
}

/// Get an adapter
#[utoipa::path(
    get, path = "/v1/adapters/{name}", tag = "adapters", params(("name" = String, Path, description = "The adapter")),
    responses(
        (status = 200, description = "The adapter", body = Adapter),
        (status = 404, description = "No such adapter", body = ErrorBody),
    )
)]
async fn get_adapter(
    State(state): State<ApiState>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<axum::Json<Adapter>, ApiError> {
    let name = name_in_path(adapters::KIND, &name)?;
    Ok(axum::Json(adapters::get(&state, &caller.0, &name).await?))
}

/// List the versions of an adapter
#[utoipa::path(
    get, path = "/v1/adapters/{name}/versions", tag = "adapters",
    params(("name" = String, Path, description = "The adapter"), PageQuery),
    responses(
        (status = 200, description = "The versions, newest first", body = List<AdapterVersion>),
        (status = 404, description = "No such adapter", body = ErrorBody),
    )
)]
async fn list_adapter_versions(
    State(state): State<ApiState>,
    caller: Caller,
    Path(name): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<List<AdapterVersion>>, ApiError> {
    let name = name_in_path(adapters::KIND, &name)?;
    Ok(axum::Json(
        adapters::versions(&state, &caller.0, &name, &query).await?,
    ))
}

/// Get a version of an adapter
#[utoipa::path(
    get, path = "/v1/adapters/{name}/versions/{number}", tag = "adapters",
    params(("name" = String, Path, description = "The adapter"), ("number" = i32, Path, description = "The version")),
    responses(
        (status = 200, description = "The version with its manifest and files", body = AdapterVersion),
        (status = 404, description = "No such version", body = ErrorBody),
    )
)]
async fn get_adapter_version(
    State(state): State<ApiState>,
    caller: Caller,
    Path((name, number)): Path<(String, String)>,
) -> Result<axum::Json<AdapterVersion>, ApiError> {
    let (name, number) = version_in_path(&name, &number)?;
    Ok(axum::Json(
        adapters::version(&state, &caller.0, &name, number).await?,
    ))
}

/// Download a version of an adapter
///
/// A tar archive of a folder that `peft` loads. The same version always gives the same bytes.
#[utoipa::path(
    get, path = "/v1/adapters/{name}/versions/{number}/download", tag = "adapters",
    params(("name" = String, Path, description = "The adapter"), ("number" = i32, Path, description = "The version")),
    responses(
        (status = 200, description = "The archive", content_type = "application/x-tar", body = Vec<u8>),
        (status = 404, description = "No such version", body = ErrorBody),
    )
)]
async fn download_adapter_version(
    State(state): State<ApiState>,
    caller: Caller,
    Path((name, number)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let (name, number) = version_in_path(&name, &number)?;
    let version = adapters::stored_version(&state, &caller.0, &name, number).await?;
    let folder = format!("{name}-v{number}");
    let length = tar_stream::length(&version.files);
    let headers = download_headers("application/x-tar", &format!("{folder}.tar"), length);
    let archive = tar_stream::archive(state.blobs.clone(), folder, version.files);
    Ok((headers, Body::from_stream(archive)).into_response())
}

/// List the files of a version, with addresses
///
/// Each address works for some minutes without credentials; compare what you got with its sha256.
#[utoipa::path(
    get, path = "/v1/adapters/{name}/versions/{number}/files", tag = "adapters",
    params(("name" = String, Path, description = "The adapter"), ("number" = i32, Path, description = "The version")),
    responses(
        (status = 200, description = "The files", body = DownloadableFiles),
        (status = 404, description = "No such version", body = ErrorBody),
    )
)]
async fn list_adapter_version_files(
    State(state): State<ApiState>,
    caller: Caller,
    Path((name, number)): Path<(String, String)>,
) -> Result<axum::Json<DownloadableFiles>, ApiError> {
    let (name, number) = version_in_path(&name, &number)?;
    Ok(axum::Json(
        adapters::files(&state, &caller.0, &name, number).await?,
    ))
}
