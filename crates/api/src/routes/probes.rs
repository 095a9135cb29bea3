//! For probes.

use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::error::ApiError;
use crate::state::ApiState;

/// The operations.
pub(crate) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(health))
        .routes(routes!(ready))
}

/// What is well.
#[derive(Debug, Serialize, ToSchema)]
struct Health {
    /// Always `ok`.
    #[schema(example = "ok")]
    status: &'static str,
}

/// Is the process alive?
#[utoipa::path(
    get, path = "/healthz", tag = "probes", security(()),
    responses((status = 200, description = "It is", body = Health))
)]
async fn health() -> axum::Json<Health> {
    axum::Json(Health { status: "ok" })
}

/// Can it answer requests?
///
/// Asks the database and the object store.
#[utoipa::path(
    get, path = "/readyz", tag = "probes", security(()),
    responses(
        (status = 200, description = "It can", body = Health),
        (status = 503, description = "Something that it needs does not answer", body = tunesmith_types::error::ErrorBody),
    )
)]
async fn ready(State(state): State<ApiState>) -> Result<(StatusCode, axum::Json<Health>), ApiError> {
    state.store.ping().await?;
    state.blobs.ensure_bucket().await?;
    Ok((StatusCode::OK, axum::Json(Health { status: "ok" })))
}
