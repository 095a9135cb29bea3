//! How people liked answers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A score for an answer.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FeedbackRequest {
    /// The `id` of the completion (`chatcmpl-…` or `cmpl-…`).
    #[schema(example = "chatcmpl-0198c0ffee0070008000000000000001")]
    pub id: String,
    /// From -1 (bad) over 0 (neither) to 1 (good). A later score replaces an earlier one.
    pub score: f64,
    /// Why, in at most 4,000 characters.
    pub comment: Option<String>,
}

/// A score that was taken down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Feedback {
    /// The `id` of the completion.
    pub id: String,
    /// Always `feedback`.
    #[schema(example = "feedback")]
    pub object: String,
    /// From -1 to 1.
    pub score: f64,
    /// Why.
    pub comment: Option<String>,
    /// `name@number` of the adapter version that answered, or `base`.
    #[schema(example = "support@7")]
    pub version: String,
}
