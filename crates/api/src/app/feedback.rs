//! Scores for answers.

use std::time::Duration;

use tunesmith_store::{StoreError, feedback};
use tunesmith_types::api::feedback as body;
use tunesmith_types::principal::Principal;
use uuid::Uuid;

use crate::error::{ApiError, OrNotFound};
use crate::state::ApiState;

/// What people call it.
const KIND: &str = "completion";
/// Requests are written down some moments after their answers; a quick score waits for that.
const TRIES: u32 = 12;
const PAUSE: Duration = Duration::from_millis(125);
const LONGEST_COMMENT: usize = 4_000;

/// Takes a score down, in place of an earlier one.
///
/// # Errors
/// The organization got no such answer, or the score is out of bounds.
pub async fn score(
    state: &ApiState,
    caller: &Principal,
    request: &body::FeedbackRequest,
) -> Result<body::Feedback, ApiError> {
    if !(-1.0..=1.0).contains(&request.score) {
        let message = format!("`score` must lie between -1 and 1; it is {}.", request.score);
        return Err(ApiError::parameter("score", message));
    }
    let comment = request.comment.as_deref();
    if comment.is_some_and(|text| text.chars().count() > LONGEST_COMMENT || text.contains('\0')) {
        let message =
            format!("`comment` may have at most {LONGEST_COMMENT} characters, none of them a zero.");
        return Err(ApiError::parameter("comment", message));
    }
    let id = parse_id(&request.id).ok_or_else(|| ApiError::unknown(KIND, "id", &request.id))?;
    let mut tries = TRIES;
    let version = loop {
        tries -= 1;
        let scored = feedback::score(&state.store, caller.organization_id, id, request.score, comment).await;
        match scored {
            Err(StoreError::NotFound(_)) if tries > 0 && is_young(id) => tokio::time::sleep(PAUSE).await,
            other => break other.or_unknown(KIND, "id", &request.id)?,
        }
    };
    Ok(body::Feedback {
        id: request.id.clone(),
        object: "feedback".to_owned(),
        score: request.score,
        comment: request.comment.clone(),
        version,
    })
}

/// The digits of `chatcmpl-…` or `cmpl-…`.
fn parse_id(text: &str) -> Option<Uuid> {
    let digits = text.strip_prefix("chatcmpl-").or(text.strip_prefix("cmpl-"))?;
    (digits.len() == 32).then(|| Uuid::try_parse(digits).ok())?
}

/// Whether the answer may be so new that it is not written down yet. Its id begins with its time.
fn is_young(id: Uuid) -> bool {
    let Some(made) = id.get_timestamp() else {
        return false;
    };
    let (seconds, _) = made.to_unix();
    // An answer may take long; its record comes at its end.
    chrono::Utc::now()
        .timestamp()
        .abs_diff(i64::try_from(seconds).unwrap_or(0))
        < 3600
}
