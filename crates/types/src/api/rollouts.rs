//! Splits, canaries, shadows, rollbacks, and how the versions of a deployment do beside each other.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::deployments::Route;
use crate::{ids::CanaryId, rollouts::CanaryGates, states::CanaryState};

/// A share for a version.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteRequest {
    /// Name of the adapter; null or absent for the base model alone.
    #[schema(example = "support")]
    pub adapter: Option<String>,
    /// Version of the adapter (default: its newest).
    pub version: Option<i32>,
    /// Alias of the version, in place of its number; when it moves, the deployment follows.
    #[schema(example = "champion")]
    pub alias: Option<String>,
    /// Whole percents of the requests, at least 1.
    pub weight: i64,
}

/// Shares for several versions.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SplitRequest {
    /// The shares; the weights sum to 100.
    pub routes: Vec<RouteRequest>,
    /// Number of the newest revision as the caller knows it; where another came between, nothing changes.
    pub expected_revision: Option<i32>,
    /// Why, for the history.
    pub reason: Option<String>,
}

/// A roll-out by steps.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CanaryRequest {
    /// Name of the adapter.
    #[schema(example = "support")]
    pub adapter: String,
    /// Version of the adapter (default: its newest).
    pub version: Option<i32>,
    /// Alias of the version, in place of its number; the canary keeps the version that it names now.
    pub alias: Option<String>,
    /// Percent of the requests by step, rising to 100 (default: 5, 25, 50, 100).
    pub steps: Option<Vec<i64>>,
    /// Length of a step (default: 600).
    pub step_seconds: Option<i64>,
    /// What must hold before the next step.
    pub gates: Option<CanaryGates>,
    /// Number of the newest revision as the caller knows it; where another came between, nothing changes.
    pub expected_revision: Option<i32>,
    /// Why, for the history.
    pub reason: Option<String>,
}

/// How a canary stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Canary {
    /// Id.
    pub id: CanaryId,
    /// Always `canary`.
    #[schema(example = "canary")]
    pub object: String,
    /// State.
    pub status: CanaryState,
    /// `name@number` of the version that is tried.
    pub candidate: String,
    /// Where requests go without it.
    pub stable_routes: Vec<Route>,
    /// Percent of the requests by step.
    pub steps: Vec<i32>,
    /// Place of the present or last step, from 1.
    pub step: usize,
    /// Length of a step.
    pub step_seconds: i32,
    /// What must hold before the next step.
    pub gates: CanaryGates,
    /// Why it ended, or what it waits for.
    pub reason: Option<String>,
    /// Numbers of its revisions, one a step.
    pub revisions: Vec<i32>,
    /// When it began.
    pub created_at: i64,
    /// When it ended.
    pub ended_at: Option<i64>,
}

/// A version that is to get copies of requests.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ShadowRequest {
    /// Name of the adapter.
    #[schema(example = "support")]
    pub adapter: String,
    /// Version of the adapter (default: its newest).
    pub version: Option<i32>,
    /// Alias of the version, in place of its number; the shadow keeps the version that it names now.
    pub alias: Option<String>,
    /// Percent of the requests (default: 100).
    pub percent: Option<i64>,
}

/// A version that gets copies of requests; its answers are compared and thrown away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Shadow {
    /// Always `shadow`.
    #[schema(example = "shadow")]
    pub object: String,
    /// `name@number` of the version.
    pub version: String,
    /// Percent of the requests.
    pub percent: i32,
    /// Since when.
    pub created_at: i64,
}

/// Back to what answered before.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// Number of the revision whose routes are to answer again (default: those without the canary that runs, else the
    /// last that answered before the present one and sent requests elsewhere).
    pub to_revision: Option<i32>,
    /// Number of the newest revision as the caller knows it; where another came between, nothing changes.
    pub expected_revision: Option<i32>,
    /// Why, for the history.
    pub reason: Option<String>,
}

/// Of which time.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StatsQuery {
    /// How far back, like `15m`, `24h` or `7d` (default: `24h`, at most `90d`).
    pub window: Option<String>,
}

/// How the versions of a deployment did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentStats {
    /// Always `deployment_stats`.
    #[schema(example = "deployment_stats")]
    pub object: String,
    /// Name of the deployment.
    pub deployment: String,
    /// How far back, in seconds.
    pub window_seconds: i64,
    /// One entry a version that was asked.
    pub arms: Vec<Arm>,
    /// Each other arm less the one with the largest share of the active revision.
    pub differences: Vec<ArmDifference>,
    /// Versions that got copies of requests.
    pub shadows: Vec<ShadowStats>,
}

/// How one version did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Arm {
    /// `name@number`, or `base`.
    #[schema(example = "support@7")]
    pub version: String,
    /// Its share of the active revision, in percent.
    pub weight: i32,
    /// Requests, rejected ones apart.
    pub requests: i64,
    /// Those that failed on our side.
    pub errors: i64,
    /// Failed requests of all.
    pub error_rate: Option<f64>,
    /// Requests whose caller left.
    pub cancelled: i64,
    /// Requests that were refused.
    pub rejected: i64,
    /// Tokens of prompts.
    pub prompt_tokens: i64,
    /// Tokens of answers.
    pub completion_tokens: i64,
    /// Milliseconds to the first token of streamed answers.
    pub time_to_first_token_ms: Quantiles,
    /// Milliseconds to the end of whole answers.
    pub time_to_answer_ms: Quantiles,
    /// Milliseconds a token after the first of streamed answers.
    pub time_per_token_ms: Quantiles,
    /// Scores that were given.
    pub feedback_count: u64,
    /// Their mean, from -1 to 1.
    pub feedback_mean: Option<f64>,
}

/// Percentiles of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Quantiles {
    /// Values.
    pub count: u64,
    /// Mean.
    pub mean: Option<f64>,
    /// Median.
    pub p50: Option<f64>,
    /// 95th percentile.
    pub p95: Option<f64>,
}

/// One arm less another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ArmDifference {
    /// The arm.
    pub version: String,
    /// Less this one.
    pub baseline: String,
    /// Of the error rates (Newcombe's interval).
    pub error_rate: Option<Difference>,
    /// Of the mean times to the first token, in milliseconds (Welch's interval).
    pub time_to_first_token_ms: Option<Difference>,
    /// Of the mean times to whole answers, in milliseconds (Welch's interval).
    pub time_to_answer_ms: Option<Difference>,
    /// Of the mean times a token, in milliseconds (Welch's interval).
    pub time_per_token_ms: Option<Difference>,
    /// Of the mean scores (Welch's interval).
    pub feedback: Option<Difference>,
}

/// A difference with its 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    /// The difference.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Whether 0 lies outside.
    pub significant: bool,
}

/// How a shadow did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ShadowStats {
    /// `name@number`.
    pub version: String,
    /// Requests that were mirrored.
    pub requests: i64,
    /// Those that failed.
    pub errors: i64,
    /// Requests that were not mirrored for lack of room.
    pub dropped: i64,
    /// Answers whose text was compared with the one that the caller got.
    pub compared: i64,
    /// Those with the same text.
    pub equal: i64,
    /// Mean similarity, from 0 to 1 (the same words in the same order).
    pub mean_similarity: Option<f64>,
    /// Tokens of answers.
    pub completion_tokens: i64,
    /// Median of the time to the end, in milliseconds.
    pub p50_ms: Option<f64>,
    /// 95th percentile of it.
    pub p95_ms: Option<f64>,
}
