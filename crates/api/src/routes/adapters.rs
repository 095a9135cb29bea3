//! Adapters and their versions.

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use tunesmith_types::api::adapters::{
    Adapter, AdapterVersion, DeleteVersionQuery, DownloadableFiles, ImportAdapterQuery,
    ImportedAdapterVersion, ListVersionsQuery,
};
use tunesmith_types::error::ErrorBody;
use tunesmith_types::list::{List, PageQuery};
use tunesmith_types::version_reference::VersionReference;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{download_headers, name_in_path, version_in_path};
use crate::app::{adapter_import, adapters, tar_stream};
use crate::error::ApiError;
use crate::extract::Query;
use crate::middleware::authenticate::{Caller, Member};
use crate::state::ApiState;

/// The operations.
pub(crate) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(list_adapters))
        .routes(routes!(get_adapter))
        .routes(routes!(list_adapter_versions))
        .routes(routes!(get_adapter_version))
        .routes(routes!(delete_adapter_version))
        .routes(routes!(download_adapter_version))
        .routes(routes!(list_adapter_version_files))
        .routes(routes!(import_adapter))
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
    params(("name" = String, Path, description = "The adapter"), ListVersionsQuery),
    responses(
        (status = 200, description = "The versions, newest first", body = List<AdapterVersion>),
        (status = 404, description = "No such adapter", body = ErrorBody),
    )
)]
async fn list_adapter_versions(
    State(state): State<ApiState>,
    caller: Caller,
    Path(name): Path<String>,
    Query(query): Query<ListVersionsQuery>,
) -> Result<axum::Json<List<AdapterVersion>>, ApiError> {
    let name = name_in_path(adapters::KIND, &name)?;
    Ok(axum::Json(
        adapters::versions(&state, &caller.0, &name, &query).await?,
    ))
}

/// Get a version of an adapter
#[utoipa::path(
    get, path = "/v1/adapters/{name}/versions/{number}", tag = "adapters",
    params(("name" = String, Path, description = "The adapter"), ("number" = String, Path, description = "Number of the version, an alias, or `latest`")),
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
    let (name, version) = version_in_path(&name, &number)?;
    Ok(axum::Json(
        adapters::version(&state, &caller.0, &name, &version).await?,
    ))
}

/// Delete a version of an adapter
///
/// Its files go; number, digest and manifest stay, and its number is never given to another. Deleting it again is no
/// error.
#[utoipa::path(
    delete, path = "/v1/adapters/{name}/versions/{number}", tag = "adapters",
    params(
        ("name" = String, Path, description = "The adapter"),
        ("number" = i32, Path, description = "Number of the version"),
        DeleteVersionQuery,
    ),
    responses(
        (status = 200, description = "What is left of the version", body = AdapterVersion),
        (status = 404, description = "No such version", body = ErrorBody),
        (status = 409, description = "An alias or a deployment uses the version", body = ErrorBody),
    )
)]
async fn delete_adapter_version(
    State(state): State<ApiState>,
    Member(caller): Member,
    Path((name, number)): Path<(String, String)>,
    Query(query): Query<DeleteVersionQuery>,
) -> Result<axum::Json<AdapterVersion>, ApiError> {
    let (name, version) = version_in_path(&name, &number)?;
    // An alias may be elsewhere by the time that this is done.
    let VersionReference::Number(number) = version else {
        return Err(ApiError::not_found(
            adapters::VERSION_KIND,
            format!("{name}@{version}"),
        ));
    };
    Ok(axum::Json(
        adapters::delete_version(&state, &caller, &name, number, &query).await?,
    ))
}

/// Download a version of an adapter
///
/// A tar archive of a folder that `peft` loads. The same version always gives the same bytes.
#[utoipa::path(
    get, path = "/v1/adapters/{name}/versions/{number}/download", tag = "adapters",
    params(("name" = String, Path, description = "The adapter"), ("number" = String, Path, description = "Number of the version, an alias, or `latest`")),
    responses(
        (status = 200, description = "The archive", content_type = "application/x-tar", body = Vec<u8>),
        (status = 404, description = "No such version", body = ErrorBody),
        (status = 410, description = "The version is deleted", body = ErrorBody),
    )
)]
async fn download_adapter_version(
    State(state): State<ApiState>,
    caller: Caller,
    Path((name, number)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let (name, version) = version_in_path(&name, &number)?;
    let version = adapters::stored_version(&state, &caller.0, &name, &version).await?;
    let folder = format!("{name}-v{}", version.number);
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
    params(("name" = String, Path, description = "The adapter"), ("number" = String, Path, description = "Number of the version, an alias, or `latest`")),
    responses(
        (status = 200, description = "The files", body = DownloadableFiles),
        (status = 404, description = "No such version", body = ErrorBody),
        (status = 410, description = "The version is deleted", body = ErrorBody),
    )
)]
async fn list_adapter_version_files(
    State(state): State<ApiState>,
    caller: Caller,
    Path((name, number)): Path<(String, String)>,
) -> Result<axum::Json<DownloadableFiles>, ApiError> {
    let (name, version) = version_in_path(&name, &number)?;
    Ok(axum::Json(
        adapters::files(&state, &caller.0, &name, &version).await?,
    ))
}

/// Import an adapter that was trained elsewhere
///
/// The body is a tar archive of a PEFT folder, 4 GiB at most. It is checked against the base model and written anew as
/// float32; the same adapter again gives the same version.
#[utoipa::path(
    post, path = "/v1/adapters/{name}/import", tag = "adapters",
    params(("name" = String, Path, description = "The adapter whose next version it becomes; a new name makes a new adapter"), ImportAdapterQuery),
    request_body(content = Vec<u8>, content_type = "application/x-tar", description = "The archive"),
    responses(
        (status = 201, description = "The version", body = ImportedAdapterVersion),
        (status = 200, description = "The version that was made from the same adapter before", body = ImportedAdapterVersion),
        (status = 400, description = "The archive holds no adapter of this base model; the message lists what is wrong", body = ErrorBody),
        (status = 404, description = "No such base model", body = ErrorBody),
        (status = 409, description = "The base model is not ready", body = ErrorBody),
        (status = 413, description = "The archive is too large", body = ErrorBody),
        (status = 429, description = "Too many imports are under way", body = ErrorBody),
    )
)]
async fn import_adapter(
    State(state): State<ApiState>,
    Member(caller): Member,
    Path(name): Path<String>,
    Query(query): Query<ImportAdapterQuery>,
    request: Request,
) -> Result<(StatusCode, axum::Json<ImportedAdapterVersion>), ApiError> {
    let media_type = request.headers().get(header::CONTENT_TYPE);
    let media_type = media_type.and_then(|value| value.to_str().ok()).unwrap_or("");
    if media_type.to_ascii_lowercase().starts_with("multipart/") {
        return Err(ApiError::MediaType {
            expected: "application/x-tar (the archive itself, not a form)",
        });
    }
    let imported = adapter_import::import(&state, &caller, &name, &query, request.into_body()).await?;
    let status = if imported.is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, axum::Json(imported.answer)))
}
