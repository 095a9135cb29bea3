//! Splits, canaries, shadows, rollbacks, and the figures that they are decided on.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::middleware::from_fn;
use tunesmith_types::api::Deleted;
use tunesmith_types::api::deployments::Deployment;
use tunesmith_types::api::rollouts::{
    Canary, CanaryRequest, DeploymentStats, RollbackRequest, Shadow, ShadowRequest, SplitRequest, StatsQuery,
};
use tunesmith_types::error::ErrorBody;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

use super::name_in_path;
use crate::app::deployments::KIND;
use crate::app::{rollouts, stats};
use crate::error::ApiError;
use crate::extract::{Json, Query};
use crate::middleware::authenticate::{Caller, Member};
use crate::middleware::idempotency::keyed_json;
use crate::state::ApiState;

/// The operations.
pub(crate) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(split_deployment).layer(from_fn(keyed_json)))
        .routes(routes!(rollback_deployment).layer(from_fn(keyed_json)))
        .routes(routes!(start_canary).layer(from_fn(keyed_json)))
        .routes(routes!(get_canary, abort_canary))
        .routes(routes!(set_shadow).layer(from_fn(keyed_json)))
        .routes(routes!(get_shadow, delete_shadow))
        .routes(routes!(get_stats))
}

/// Split requests between versions
///
/// Makes the next revision, with shares for several versions, aliases or the base model. Requests with the same header
/// `x-tunesmith-session`, else with the same `user`, stay on the same version; a share that grows only draws
/// conversations to itself. Where all versions are loaded already, the revision answers at once.
#[utoipa::path(
    post, path = "/v1/deployments/{name}/split", tag = "deployments", request_body = SplitRequest,
    params(
        ("name" = String, Path, description = "The deployment"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key makes one revision"),
    ),
    responses(
        (status = 200, description = "The deployment with its newest revision", body = Deployment),
        (status = 400, description = "The weights do not sum to 100, or a version has another base model", body = ErrorBody),
        (status = 404, description = "No such deployment, version or alias", body = ErrorBody),
        (status = 409, description = "Another revision came between", body = ErrorBody),
    )
)]
async fn split_deployment(
    State(state): State<ApiState>,
    Member(caller): Member,
    Path(name): Path<String>,
    Json(request): Json<SplitRequest>,
) -> Result<axum::Json<Deployment>, ApiError> {
    let name = name_in_path(KIND, &name)?;
    Ok(axum::Json(
        rollouts::split(&state, &caller, &name, &request).await?,
    ))
}

/// Roll back
///
/// Makes the next revision out of an earlier one. What answered before the present revision stays loaded, so going
/// back to it takes no replica and answers at once. The routes are pinned: they follow no alias. A canary that runs
/// ends.
#[utoipa::path(
    post, path = "/v1/deployments/{name}/rollback", tag = "deployments", request_body = RollbackRequest,
    params(
        ("name" = String, Path, description = "The deployment"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key makes one revision"),
    ),
    responses(
        (status = 200, description = "The deployment with its newest revision", body = Deployment),
        (status = 404, description = "No such deployment or revision", body = ErrorBody),
        (status = 409, description = "Nothing to go back to, or another revision came between", body = ErrorBody),
    )
)]
async fn rollback_deployment(
    State(state): State<ApiState>,
    Member(caller): Member,
    Path(name): Path<String>,
    Json(request): Json<RollbackRequest>,
) -> Result<axum::Json<Deployment>, ApiError> {
    let name = name_in_path(KIND, &name)?;
    Ok(axum::Json(
        rollouts::rollback(&state, &caller, &name, &request).await?,
    ))
}

/// Start a canary
///
/// Gives a version a share that grows by steps. Before each step its requests are compared with the others'; a gate
/// that fails sends all requests back where they went before, and the reason says which gate, and with which numbers.
#[utoipa::path(
    post, path = "/v1/deployments/{name}/canary", tag = "deployments", request_body = CanaryRequest,
    params(
        ("name" = String, Path, description = "The deployment"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key begins one canary"),
    ),
    responses(
        (status = 201, description = "The canary; its first revision is being made ready", body = Canary),
        (status = 400, description = "Steps or gates are out of bounds, or the version has another base model", body = ErrorBody),
        (status = 404, description = "No such deployment, version or alias", body = ErrorBody),
        (status = 409, description = "The deployment does not answer yet, the version has requests already, or another revision came between", body = ErrorBody),
    )
)]
async fn start_canary(
    State(state): State<ApiState>,
    Member(caller): Member,
    Path(name): Path<String>,
    Json(request): Json<CanaryRequest>,
) -> Result<(StatusCode, axum::Json<Canary>), ApiError> {
    let name = name_in_path(KIND, &name)?;
    let canary = rollouts::start_canary(&state, &caller, &name, &request).await?;
    Ok((StatusCode::CREATED, axum::Json(canary)))
}

/// Get the canary
///
/// The newest canary of the deployment, whatever its state.
#[utoipa::path(
    get, path = "/v1/deployments/{name}/canary", tag = "deployments",
    params(("name" = String, Path, description = "The deployment")),
    responses(
        (status = 200, description = "The canary", body = Canary),
        (status = 404, description = "No such deployment, or it never had a canary", body = ErrorBody),
    )
)]
async fn get_canary(
    State(state): State<ApiState>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<axum::Json<Canary>, ApiError> {
    let name = name_in_path(KIND, &name)?;
    Ok(axum::Json(rollouts::canary(&state, &caller.0, &name).await?))
}

/// Abort the canary
///
/// Sends all requests back where they went before.
#[utoipa::path(
    delete, path = "/v1/deployments/{name}/canary", tag = "deployments",
    params(("name" = String, Path, description = "The deployment")),
    responses(
        (status = 200, description = "The canary, aborted", body = Canary),
        (status = 404, description = "No such deployment, or it has no canary that runs", body = ErrorBody),
    )
)]
async fn abort_canary(
    State(state): State<ApiState>,
    Member(caller): Member,
    Path(name): Path<String>,
) -> Result<axum::Json<Canary>, ApiError> {
    let name = name_in_path(KIND, &name)?;
    Ok(axum::Json(rollouts::abort_canary(&state, &caller, &name).await?))
}

/// Mirror requests to a version
///
/// Copies of a share of the requests go to the version after they were answered. Nobody sees its answers; `stats`
/// compares them. What finds no room is dropped, so callers are never slowed down.
#[utoipa::path(
    post, path = "/v1/deployments/{name}/shadow", tag = "deployments", request_body = ShadowRequest,
    params(
        ("name" = String, Path, description = "The deployment"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key acts once"),
    ),
    responses(
        (status = 200, description = "The shadow, in place of an earlier one", body = Shadow),
        (status = 400, description = "The percentage is out of bounds, or the version has another base model", body = ErrorBody),
        (status = 404, description = "No such deployment, version or alias", body = ErrorBody),
    )
)]
async fn set_shadow(
    State(state): State<ApiState>,
    Member(caller): Member,
    Path(name): Path<String>,
    Json(request): Json<ShadowRequest>,
) -> Result<axum::Json<Shadow>, ApiError> {
    let name = name_in_path(KIND, &name)?;
    Ok(axum::Json(
        rollouts::set_shadow(&state, &caller, &name, &request).await?,
    ))
}

/// Get the shadow
#[utoipa::path(
    get, path = "/v1/deployments/{name}/shadow", tag = "deployments",
    params(("name" = String, Path, description = "The deployment")),
    responses(
        (status = 200, description = "The shadow", body = Shadow),
        (status = 404, description = "No such deployment, or nothing is mirrored", body = ErrorBody),
    )
)]
async fn get_shadow(
    State(state): State<ApiState>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<axum::Json<Shadow>, ApiError> {
    let name = name_in_path(KIND, &name)?;
    Ok(axum::Json(rollouts::shadow(&state, &caller.0, &name).await?))
}

/// End the shadow
#[utoipa::path(
    delete, path = "/v1/deployments/{name}/shadow", tag = "deployments",
    params(("name" = String, Path, description = "The deployment")),
    responses(
        (status = 200, description = "Nothing is mirrored any more", body = Deleted),
        (status = 404, description = "No such deployment, or nothing is mirrored", body = ErrorBody),
    )
)]
async fn delete_shadow(
    State(state): State<ApiState>,
    Member(caller): Member,
    Path(name): Path<String>,
) -> Result<axum::Json<Deleted>, ApiError> {
    let name = name_in_path(KIND, &name)?;
    rollouts::delete_shadow(&state, &caller, &name).await?;
    Ok(axum::Json(Deleted::new("shadow", name)))
}

/// Compare the versions of a deployment
///
/// Requests, tokens, errors, latency and feedback by version, and how the versions differ, with 95 % confidence
/// intervals.
#[utoipa::path(
    get, path = "/v1/deployments/{name}/stats", tag = "deployments",
    params(("name" = String, Path, description = "The deployment"), StatsQuery),
    responses(
        (status = 200, description = "The figures", body = DeploymentStats),
        (status = 400, description = "The window is wrong", body = ErrorBody),
        (status = 404, description = "No such deployment", body = ErrorBody),
    )
)]
async fn get_stats(
    State(state): State<ApiState>,
    caller: Caller,
    Path(name): Path<String>,
    Query(query): Query<StatsQuery>,
) -> Result<axum::Json<DeploymentStats>, ApiError> {
    let name = name_in_path(KIND, &name)?;
    Ok(axum::Json(
        stats::of_deployment(&state, &caller.0, &name, &query).await?,
    ))
}
