//! Base models.

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::middleware::from_fn;
use tunesmith_types::api::Deleted;
use tunesmith_types::api::adapters::StoredFile;
use tunesmith_types::api::base_models::{BaseModel, CreateBaseModelRequest};
use tunesmith_types::error::ErrorBody;
use tunesmith_types::ids::BaseModelId;
use tunesmith_types::list::{List, PageQuery};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

use crate::app::base_models;
use crate::error::ApiError;
use crate::extract::{Json, Named, PathId, Query};
use crate::middleware::authenticate::{Caller, Member};
use crate::middleware::idempotency::keyed_json;
use crate::state::ApiState;

impl Named for BaseModelId {
    const KIND: &'static str = base_models::KIND;
}

/// The operations.
pub(crate) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(create_base_model).layer(from_fn(keyed_json)))
        .routes(routes!(list_base_models))
        .routes(routes!(get_base_model))
        .routes(routes!(delete_base_model))
        .routes(routes!(put_base_model_file))
        .routes(routes!(complete_base_model))
}

/// Register a base model
///
/// Without `s3_prefix`: upload the files of the Hugging Face folder one by one, then call `complete`. With it, they
/// are copied from `imports/<s3_prefix>/` of the bucket behind the answer.
#[utoipa::path(
    post, path = "/v1/base-models", tag = "base models", request_body = CreateBaseModelRequest,
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key makes one base model")),
    responses(
        (status = 201, description = "The registration, pending", body = BaseModel),
        (status = 400, description = "A field breaks its rule", body = ErrorBody),
        (status = 409, description = "The name is taken", body = ErrorBody),
    )
)]
async fn create_base_model(
    State(state): State<ApiState>,
    Member(caller): Member,
    Json(request): Json<CreateBaseModelRequest>,
) -> Result<(StatusCode, axum::Json<BaseModel>), ApiError> {
    let model = base_models::create(&state, &caller, &request).await?;
    Ok((StatusCode::CREATED, axum::Json(model)))
}

/// Upload a file of a base model
///
/// The body is the file itself, of any size.
#[utoipa::path(
    put, path = "/v1/base-models/{id}/files/{file}", tag = "base models",
    params(
        ("id" = BaseModelId, Path, description = "The registration"),
        ("file" = String, Path, description = "Name of the file, such as `config.json` or `model.safetensors`"),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "The bytes"),
    responses(
        (status = 200, description = "Stored", body = StoredFile),
        (status = 400, description = "The file has no place in a model", body = ErrorBody),
        (status = 404, description = "No such registration", body = ErrorBody),
        (status = 409, description = "The registration is complete", body = ErrorBody),
    )
)]
async fn put_base_model_file(
    State(state): State<ApiState>,
    Member(caller): Member,
    Path((id, file)): Path<(String, String)>,
    request: Request,
) -> Result<axum::Json<StoredFile>, ApiError> {
    let id = id
        .parse()
        .map_err(|_| ApiError::not_found(base_models::KIND, &id))?;
    Ok(axum::Json(
        base_models::put_file(&state, &caller, id, &file, request.into_body()).await?,
    ))
}

/// Complete a base model
///
/// Checks that the files make a model that can be trained, and freezes it. Where something is missing the answer lists
/// it, and more files may be uploaded.
#[utoipa::path(
    post, path = "/v1/base-models/{id}/complete", tag = "base models",
    params(("id" = BaseModelId, Path, description = "The registration")),
    responses(
        (status = 200, description = "Ready", body = BaseModel),
        (status = 400, description = "The files make no model; the message lists what is wrong", body = ErrorBody),
        (status = 404, description = "No such registration", body = ErrorBody),
        (status = 409, description = "The registration is complete", body = ErrorBody),
    )
)]
async fn complete_base_model(
    State(state): State<ApiState>,
    Member(caller): Member,
    PathId(id): PathId<BaseModelId>,
) -> Result<axum::Json<BaseModel>, ApiError> {
    Ok(axum::Json(base_models::complete(&state, &caller, id).await?))
}

/// List base models
#[utoipa::path(
    get, path = "/v1/base-models", tag = "base models", params(PageQuery),
    responses((status = 200, description = "Your own and the shared ones, newest first", body = List<BaseModel>))
)]
async fn list_base_models(
    State(state): State<ApiState>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<List<BaseModel>>, ApiError> {
    Ok(axum::Json(base_models::list(&state, &caller.0, &query).await?))
}

/// Get a base model
#[utoipa::path(
    get, path = "/v1/base-models/{id}", tag = "base models",
    params(("id" = String, Path, description = "Id or name of the model")),
    responses(
        (status = 200, description = "The model", body = BaseModel),
        (status = 404, description = "No such model", body = ErrorBody),
    )
)]
async fn get_base_model(
    State(state): State<ApiState>,
    caller: Caller,
    Path(reference): Path<String>,
) -> Result<axum::Json<BaseModel>, ApiError> {
    Ok(axum::Json(base_models::get(&state, &caller.0, &reference).await?))
}

/// Delete a base model
///
/// Only one of your own from which nothing was made.
#[utoipa::path(
    delete, path = "/v1/base-models/{id}", tag = "base models",
    params(("id" = String, Path, description = "Id or name of the model")),
    responses(
        (status = 200, description = "Deleted", body = Deleted),
        (status = 404, description = "No such model", body = ErrorBody),
        (status = 409, description = "Something was made from it, or it is shared", body = ErrorBody),
    )
)]
async fn delete_base_model(
    State(state): State<ApiState>,
    Member(caller): Member,
    Path(reference): Path<String>,
) -> Result<axum::Json<Deleted>, ApiError> {
    let id = base_models::delete(&state, &caller, &reference).await?;
    Ok(axum::Json(Deleted::new("base_model", id)))
}
