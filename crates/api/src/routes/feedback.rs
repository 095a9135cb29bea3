//! Feedback.

use axum::extract::State;
use tunesmith_types::api::feedback::{Feedback, FeedbackRequest};
use tunesmith_types::error::ErrorBody;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::feedback;
use crate::error::ApiError;
use crate::extract::Json;
use crate::middleware::authenticate::Caller;
use crate::state::ApiState;

/// The operations.
pub(crate) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(create_feedback))
}

/// Score an answer
///
/// Takes down how good an answer was, by the `id` of the completion. Whoever may ask may score; the last score counts.
#[utoipa::path(
    post, path = "/v1/feedback", tag = "inference", request_body = FeedbackRequest,
    responses(
        (status = 200, description = "The score, with the version that it is for", body = Feedback),
        (status = 400, description = "The score is out of bounds", body = ErrorBody),
        (status = 404, description = "Your organization got no such answer", body = ErrorBody),
    )
)]
async fn create_feedback(
    State(state): State<ApiState>,
    caller: Caller,
    Json(request): Json<FeedbackRequest>,
) -> Result<axum::Json<Feedback>, ApiError> {
    Ok(axum::Json(feedback::score(&state, &caller.0, &request).await?))
}
