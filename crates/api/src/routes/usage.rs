//! Usage.

use axum::extract::State;
use tunesmith_types::api::usage::{UsageQuery, UsageReport};
use tunesmith_types::error::ErrorBody;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::usage;
use crate::error::ApiError;
use crate::extract::Query;
use crate::middleware::authenticate::Caller;
use crate::state::ApiState;

/// The operations.
pub(crate) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(get_usage))
}

/// Get usage
///
/// Requests and tokens of the organization, by day, model and version. A request counts some moments after its end.
#[utoipa::path(
    get, path = "/v1/usage", tag = "usage", params(UsageQuery),
    responses(
        (status = 200, description = "Usage by group, the oldest first", body = UsageReport),
        (status = 400, description = "The time or the groups are wrong", body = ErrorBody),
    )
)]
async fn get_usage(
    State(state): State<ApiState>,
    caller: Caller,
    Query(query): Query<UsageQuery>,
) -> Result<axum::Json<UsageReport>, ApiError> {
    Ok(axum::Json(usage::report(&state, &caller.0, &query).await?))
}
