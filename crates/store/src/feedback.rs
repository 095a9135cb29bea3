//! How people liked answers.

use tunesmith_types::ids::OrganizationId;
use uuid::Uuid;

use crate::{Store, StoreError};

/// Scores an answer of the organization, in place of an earlier score, and gives the version that answered.
///
/// # Errors
/// [`StoreError::NotFound`]: no such answer, or it is not recorded yet.
pub async fn score(
    store: &Store,
    organization: OrganizationId,
    request: Uuid,
    score: f64,
    comment: Option<&str>,
) -> Result<String, StoreError> {
    sqlx::query_scalar!(
        "with scored as (
             insert into inference_feedback (request_id, organization_id, score, comment)
             select q.id, q.organization_id, $3, $4 from inference_requests q
             where q.organization_id = $1 and q.id = $2 and q.mirrors is null
             on conflict (request_id) do update set score = $3, comment = $4, updated_at = clock_timestamp()
             returning request_id)
         select q.version from inference_requests q join scored s on s.request_id = q.id",
        organization.uuid(),
        request,
        score,
        comment,
    )
    .fetch_optional(store.pool())
    .await?
    .ok_or(StoreError::NotFound("answer"))
}
