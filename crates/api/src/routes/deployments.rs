//! Deployments.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::middleware::from_fn;
use tunesmith_types::api::Deleted;
use tunesmith_types::api::deployments::{CreateDeploymentRequest, Deployment, PromoteRequest};
use tunesmith_types::error::ErrorBody;
use tunesmith_types::list::{List, PageQuery};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

use super::name_in_path;
use crate::app::deployments::{self, KIND};
use crate::error::ApiError;
use crate::extract::{Json, Query};
use crate::middleware::authenticate::{Caller, Member};
use crate::middleware::idempotency::keyed_json;
use crate::state::ApiState;

/// The operations.
pub(crate) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(create_deployment).layer(from_fn(keyed_json)))
        .routes(routes!(promote_version).layer(from_fn(keyed_json)))
        .routes(routes!(list_deployments))
        .routes(routes!(get_deployment))
        .routes(routes!(delete_deployment))
}

/// Make a deployment
///
/// A public model name over one base model. Its first revision serves the base model, or the version that is given.
#[utoipa::path(
    post, path = "/v1/deployments", tag = "deployments", request_body = CreateDeploymentRequest,
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key makes one deployment")),
    responses(
        (status = 201, description = "The deployment; its first revision is pending", body = Deployment),
        (status = 400, description = "A field breaks its rule, or the version has another base model", body = ErrorBody),
        (status = 404, description = "No such base model or version", body = ErrorBody),
        (status = 409, description = "The name is taken", body = ErrorBody),
    )
)]
async fn create_deployment(
    State(state): State<ApiState>,
    Member(caller): Member,
    Json(request): Json<CreateDeploymentRequest>,
) -> Result<(StatusCode, axum::Json<Deployment>), ApiError> {
    let deployment = deployments::create(&state, &caller, &request).await?;
    Ok((StatusCode::CREATED, axum::Json(deployment)))
}

/// Promote a version
///
/// Makes the next revision. Requests go to the present one until a replica has proved that it answers with the new.
#[utoipa::path(
    post, path = "/v1/deployments/{name}/promote", tag = "deployments", request_body = PromoteRequest,
    params(
        ("name" = String, Path, description = "The deployment"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key makes one revision"),
    ),
    responses(
        (status = 200, description = "The deployment; its newest revision is pending", body = Deployment),
        (status = 400, description = "The version has another base model", body = ErrorBody),
        (status = 404, description = "No such deployment or version", body = ErrorBody),
        (status = 409, description = "Another revision came between", body = ErrorBody),
    )
)]
async fn promote_version(
    State(state): State<ApiState>,
    Member(caller): Member,
    Path(name): Path<String>,
    Json(request): Json<PromoteRequest>,
) -> Result<axum::Json<Deployment>, ApiError> {
    let name = name_in_path(KIND, &name)?;
    Ok(axum::Json(
        deployments::promote(&state, &caller, &name, &request).await?,
    ))
}

/// List deployments
#[utoipa::path(
    get, path = "/v1/deployments", tag = "deployments", params(PageQuery),
    responses((status = 200, description = "The deployments, newest first, without their histories", body = List<Deployment>))
)]
async fn list_deployments(
    State(state): State<ApiState>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<List<Deployment>>, ApiError> {
    Ok(axum::Json(deployments::list(&state, &caller.0, &query).await?))
}

/// Get a deployment
#[utoipa::path(
    get, path = "/v1/deployments/{name}", tag = "deployments",
    params(("name" = String, Path, description = "The deployment")),
    responses(
        (status = 200, description = "The deployment with its revisions", body = Deployment),
        (status = 404, description = "No such deployment", body = ErrorBody),
    )
)]
async fn get_deployment(
    State(state): State<ApiState>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<axum::Json<Deployment>, ApiError> {
    let name = name_in_path(KIND, &name)?;
    Ok(axum::Json(deployments::get(&state, &caller.0, &name).await?))
}

/// Delete a deployment
#[utoipa::path(
    delete, path = "/v1/deployments/{name}", tag = "deployments",
    params(("name" = String, Path, description = "The deployment")),
    responses(
        (status = 200, description = "Deleted", body = Deleted),
        (status = 404, description = "No such deployment", body = ErrorBody),
    )
)]
async fn delete_deployment(
    State(state): State<ApiState>,
    Member(caller): Member,
    Path(name): Path<String>,
) -> Result<axum::Json<Deleted>, ApiError> {
    let name = name_in_path(KIND, &name)?;
    let id = deployments::delete(&state, &caller, &name).await?;
    Ok(axum::Json(Deleted::new("deployment", id)))
}
