//! Checkpoints that become versions.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use tunesmith_types::api::adapters::{AdapterVersion, PublishCheckpointRequest};
use tunesmith_types::error::ErrorBody;
use tunesmith_types::ids::JobId;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::{checkpoints, jobs};
use crate::error::ApiError;
use crate::extract::Json;
use crate::middleware::authenticate::Member;
use crate::state::ApiState;

/// The operations.
pub(crate) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(publish_checkpoint))
}

/// Publish a checkpoint
///
/// Makes the next version of an adapter from a checkpoint that the job keeps, whatever has become of the job.
/// Publishing it again gives the same version.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/checkpoints/{step}/publish", tag = "jobs", request_body = PublishCheckpointRequest,
    params(
        ("id" = JobId, Path, description = "The job"),
        ("step" = i64, Path, description = "Optimizer steps of the checkpoint"),
    ),
    responses(
        (status = 201, description = "The version", body = AdapterVersion),
        (status = 200, description = "The version that was made from it before", body = AdapterVersion),
        (status = 404, description = "No such job or checkpoint", body = ErrorBody),
        (status = 409, description = "It is a version of another adapter, or no good adapter", body = ErrorBody),
        (status = 410, description = "The version that was made from it is deleted", body = ErrorBody),
    )
)]
async fn publish_checkpoint(
    State(state): State<ApiState>,
    Member(caller): Member,
    Path((id, step)): Path<(String, String)>,
    Json(request): Json<PublishCheckpointRequest>,
) -> Result<(StatusCode, axum::Json<AdapterVersion>), ApiError> {
    let job: JobId = id.parse().map_err(|_| ApiError::not_found(jobs::KIND, &id))?;
    let step: i64 = step
        .parse()
        .map_err(|_| ApiError::not_found(checkpoints::KIND, &step))?;
    let published = checkpoints::publish(&state, &caller, job, step, &request).await?;
    let status = if published.is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, axum::Json(published.version)))
}
