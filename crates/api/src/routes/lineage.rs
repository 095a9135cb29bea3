//! Lineage, from whichever end.

use axum::Json;
use axum::extract::{Path, State};
use tunesmith_types::api::lineage::Lineage;
use tunesmith_types::error::ErrorBody;
use tunesmith_types::ids::{DatasetId, JobId};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{name_in_path, version_in_path};
use crate::app::{deployments, lineage};
use crate::error::ApiError;
use crate::extract::PathId;
use crate::middleware::authenticate::Caller;
use crate::state::ApiState;

/// The operations.
pub(crate) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(get_adapter_version_lineage))
        .routes(routes!(get_dataset_lineage))
        .routes(routes!(get_job_lineage))
        .routes(routes!(get_deployment_lineage))
}

/// Get the lineage of a version
///
/// The dataset and the job that it was made from, its parent and children, and the aliases and deployments that use it
/// or did.
#[utoipa::path(
    get, path = "/v1/adapters/{name}/versions/{number}/lineage", tag = "adapters",
    params(
        ("name" = String, Path, description = "The adapter"),
        ("number" = String, Path, description = "Number of the version, an alias, or `latest`"),
    ),
    responses(
        (status = 200, description = "The lineage", body = Lineage),
        (status = 404, description = "No such version", body = ErrorBody),
    )
)]
async fn get_adapter_version_lineage(
    State(state): State<ApiState>,
    caller: Caller,
    Path((name, version)): Path<(String, String)>,
) -> Result<Json<Lineage>, ApiError> {
    let (name, version) = version_in_path(&name, &version)?;
    Ok(Json(
        lineage::of_version(&state, &caller.0, &name, &version).await?,
    ))
}

/// Get the lineage of a dataset
///
/// The jobs that learned from it, at most the newest 1000, and what became of their versions.
#[utoipa::path(
    get, path = "/v1/datasets/{id}/lineage", tag = "datasets",
    params(("id" = DatasetId, Path, description = "The dataset")),
    responses(
        (status = 200, description = "The lineage", body = Lineage),
        (status = 404, description = "No such dataset", body = ErrorBody),
    )
)]
async fn get_dataset_lineage(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(id): PathId<DatasetId>,
) -> Result<Json<Lineage>, ApiError> {
    Ok(Json(lineage::of_dataset(&state, &caller.0, id).await?))
}

/// Get the lineage of a training job
///
/// Its dataset, and the versions that it made, those of its checkpoints too.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/lineage", tag = "jobs", params(("id" = JobId, Path, description = "The job")),
    responses(
        (status = 200, description = "The lineage", body = Lineage),
        (status = 404, description = "No such job", body = ErrorBody),
    )
)]
async fn get_job_lineage(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(id): PathId<JobId>,
) -> Result<Json<Lineage>, ApiError> {
    Ok(Json(lineage::of_job(&state, &caller.0, id).await?))
}

/// Get the lineage of a deployment
///
/// The versions that its revisions route to or did, and what they were made from.
#[utoipa::path(
    get, path = "/v1/deployments/{name}/lineage", tag = "deployments",
    params(("name" = String, Path, description = "The deployment")),
    responses(
        (status = 200, description = "The lineage", body = Lineage),
        (status = 404, description = "No such deployment", body = ErrorBody),
    )
)]
async fn get_deployment_lineage(
    State(state): State<ApiState>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Lineage>, ApiError> {
    let name = name_in_path(deployments::KIND, &name)?;
    Ok(Json(lineage::of_deployment(&state, &caller.0, &name).await?))
}
