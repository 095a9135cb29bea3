//! What an organization used.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Of which time, and by what it is summed up.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UsageQuery {
    /// Beginning, in unix seconds (default: 30 days before the end).
    pub from: Option<i64>,
    /// End, in unix seconds, not included (default: now).
    pub to: Option<i64>,
    /// Any of `day`, `model` and `version`, with commas between (default: `day,model,version`).
    pub group_by: Option<String>,
}

/// Usage by group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UsageReport {
    /// Always `usage`.
    #[schema(example = "usage")]
    pub object: String,
    /// Beginning.
    pub from: i64,
    /// End, not included.
    pub to: i64,
    /// One entry a group, the oldest first; at most 10,000.
    pub data: Vec<UsageGroup>,
}

/// Usage of one group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UsageGroup {
    /// The day, at midnight in UTC; null where not grouped by day.
    pub day: Option<i64>,
    /// Name that was asked for; null where not grouped by model.
    pub model: Option<String>,
    /// `name@number` or `base`; null where not grouped by version.
    pub version: Option<String>,
    /// Requests, mirrored ones apart.
    pub requests: i64,
    /// Those that failed on our side.
    pub errors: i64,
    /// Those whose caller left before the end.
    pub cancelled: i64,
    /// Tokens of prompts.
    pub prompt_tokens: i64,
    /// Those of them that came out of a cache.
    pub cached_tokens: i64,
    /// Tokens of answers.
    pub completion_tokens: i64,
    /// Requests that were mirrored to a shadow.
    pub mirrored_requests: i64,
    /// Their tokens, of prompts and answers.
    pub mirrored_tokens: i64,
}
