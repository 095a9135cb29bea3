//! Datasets.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use tunesmith_types::api::Deleted;
use tunesmith_types::api::datasets::{Dataset, UploadDatasetQuery};
use tunesmith_types::dataset::ValidationReport;
use tunesmith_types::error::ErrorBody;
use tunesmith_types::ids::DatasetId;
use tunesmith_types::list::{List, PageQuery};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

use super::download_headers;
use crate::app::datasets;
use crate::error::ApiError;
use crate::extract::{Named, PathId, Query};
use crate::middleware::authenticate::{Caller, Member};
use crate::middleware::idempotency::keyed_upload;
use crate::state::ApiState;

impl Named for DatasetId {
    const KIND: &'static str = datasets::KIND;
}

/// The operations.
pub(crate) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(upload_dataset).layer(from_fn(keyed_upload)))
        .routes(routes!(list_datasets))
        .routes(routes!(get_dataset))
        .routes(routes!(get_dataset_report))
        .routes(routes!(get_dataset_content))
        .routes(routes!(delete_dataset))
}

/// Upload a dataset
///
/// The body is the file itself, of any size: one JSON object per line, with `messages`, with `prompt` and
/// `completion`, or with `text`. It is validated behind the answer; a file with errors is kept with its report.
#[utoipa::path(
    post, path = "/v1/datasets", tag = "datasets",
    params(
        UploadDatasetQuery,
        ("Idempotency-Key" = Option<String>, Header, description = "The same key makes one dataset"),
    ),
    request_body(content = String, content_type = "application/jsonl", description = "The lines"),
    responses(
        (status = 201, description = "Stored; its validation has begun", body = Dataset),
        (status = 400, description = "The name breaks its rule, or the body broke off", body = ErrorBody),
    )
)]
async fn upload_dataset(
    State(state): State<ApiState>,
    Member(caller): Member,
    Query(query): Query<UploadDatasetQuery>,
    request: Request,
) -> Result<(StatusCode, axum::Json<Dataset>), ApiError> {
    let media_type = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    if media_type.to_ascii_lowercase().starts_with("multipart/") {
        return Err(ApiError::MediaType {
            expected: "application/jsonl (the file itself, not a form)",
        });
    }
    let dataset = datasets::upload(&state, &caller, &query, request.into_body()).await?;
    Ok((StatusCode::CREATED, axum::Json(dataset)))
}

/// List datasets
#[utoipa::path(
    get, path = "/v1/datasets", tag = "datasets", params(PageQuery),
    responses((status = 200, description = "The datasets, newest first, without their reports", body = List<Dataset>))
)]
async fn list_datasets(
    State(state): State<ApiState>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<List<Dataset>>, ApiError> {
    Ok(axum::Json(datasets::list(&state, &caller.0, &query).await?))
}

/// Get a dataset
#[utoipa::path(
    get, path = "/v1/datasets/{id}", tag = "datasets", params(("id" = DatasetId, Path, description = "The dataset")),
    responses(
        (status = 200, description = "The dataset with its report", body = Dataset),
        (status = 404, description = "No such dataset", body = ErrorBody),
    )
)]
async fn get_dataset(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(id): PathId<DatasetId>,
) -> Result<axum::Json<Dataset>, ApiError> {
    Ok(axum::Json(datasets::get(&state, &caller.0, id).await?))
}

/// Get the validation report of a dataset
#[utoipa::path(
    get, path = "/v1/datasets/{id}/report", tag = "datasets",
    params(("id" = DatasetId, Path, description = "The dataset")),
    responses(
        (status = 200, description = "What the validator found", body = ValidationReport),
        (status = 404, description = "No such dataset", body = ErrorBody),
        (status = 409, description = "The validator has not finished", body = ErrorBody),
    )
)]
async fn get_dataset_report(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(id): PathId<DatasetId>,
) -> Result<axum::Json<ValidationReport>, ApiError> {
    Ok(axum::Json(datasets::report(&state, &caller.0, id).await?))
}

/// Download a dataset
#[utoipa::path(
    get, path = "/v1/datasets/{id}/content", tag = "datasets",
    params(("id" = DatasetId, Path, description = "The dataset")),
    responses(
        (status = 200, description = "The bytes as they were uploaded", content_type = "application/jsonl", body = String),
        (status = 404, description = "No such dataset", body = ErrorBody),
    )
)]
async fn get_dataset_content(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(id): PathId<DatasetId>,
) -> Result<Response, ApiError> {
    let (dataset, content) = datasets::content(&state, &caller.0, id).await?;
    let file_name = format!("{}-{}.jsonl", dataset.name, dataset.number);
    let headers = download_headers("application/jsonl", &file_name, content.bytes);
    Ok((headers, Body::from_stream(content.stream)).into_response())
}

/// Delete a dataset
///
/// Only one that no job was made from.
#[utoipa::path(
    delete, path = "/v1/datasets/{id}", tag = "datasets", params(("id" = DatasetId, Path, description = "The dataset")),
    responses(
        (status = 200, description = "Deleted", body = Deleted),
        (status = 404, description = "No such dataset", body = ErrorBody),
        (status = 409, description = "A job was made from it", body = ErrorBody),
    )
)]
async fn delete_dataset(
    State(state): State<ApiState>,
    Member(caller): Member,
    PathId(id): PathId<DatasetId>,
) -> Result<axum::Json<Deleted>, ApiError> {
    datasets::delete(&state, &caller, id).await?;
    Ok(axum::Json(Deleted::new("dataset", id)))
}
