//! Figures of a deployment's arms: what was asked of each version, and how it did.

use tunesmith_types::{
    ids::{AdapterVersionId, DeploymentId, OrganizationId},
    statistics::{Sample, Share},
};
use uuid::Uuid;

use crate::{Store, StoreError};

/// Which requests count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scope<'a> {
    /// Those of the last so many seconds.
    Seconds(f64),
    /// Those that these revisions routed, by number.
    Revisions(&'a [i32]),
}

/// How one version did.
#[derive(Debug, Clone, PartialEq)]
pub struct ArmFigures {
    /// The version; none is the base model.
    pub adapter_version_id: Option<AdapterVersionId>,
    /// `<adapter>@<number>`, or `base`.
    pub version: String,
    /// Requests, rejected ones apart.
    pub requests: i64,
    /// Those that failed on our side.
    pub errors: i64,
    /// Those whose caller left.
    pub cancelled: i64,
    /// Requests that were refused: wrong ones, and those for which there was no room.
    pub rejected: i64,
    /// Tokens of prompts.
    pub prompt_tokens: i64,
    /// Tokens of answers.
    pub completion_tokens: i64,
    /// Milliseconds to the first token, of streamed answers.
    pub first_token_ms: Spread,
    /// Milliseconds to the end, of whole answers.
    pub whole_answer_ms: Spread,
    /// Milliseconds a token after the first, of streamed answers.
    pub token_ms: Spread,
    /// Scores from -1 to 1.
    pub feedback: Sample,
}

/// A sample with percentiles.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Count, mean and variance.
    pub sample: Sample,
    /// Median.
    pub p50: Option<f64>,
    /// 95th percentile.
    pub p95: Option<f64>,
}

impl ArmFigures {
    /// Failed requests of all.
    #[must_use]
    pub fn failed(&self) -> Share {
        Share {
            hits: unsigned(self.errors),
            total: unsigned(self.requests),
        }
    }
}

fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or_default()
}

fn sample(count: i64, mean: Option<f64>, variance: Option<f64>) -> Sample {
    Sample {
        count: unsigned(count),
        mean: mean.unwrap_or_default(),
        variance: variance.unwrap_or_default(),
    }
}

fn spread(count: i64, mean: Option<f64>, variance: Option<f64>, percentiles: Option<Vec<f64>>) -> Spread {
    let percentiles = percentiles.unwrap_or_default();
    Spread {
        sample: sample(count, mean, variance),
        p50: percentiles.first().copied(),
        p95: percentiles.get(1).copied(),
    }
}

struct ArmRow {
    adapter_version_id: Option<Uuid>,
    version: String,
    requests: i64,
    errors: i64,
    cancelled: i64,
    rejected: i64,
    prompt_tokens: i64,
    completion_tokens: i64,
    first_count: i64,
    first_mean: Option<f64>,
    first_variance: Option<f64>,
    first_percentiles: Option<Vec<f64>>,
    whole_count: i64,
    whole_mean: Option<f64>,
    whole_variance: Option<f64>,
    whole_percentiles: Option<Vec<f64>>,
    token_count: i64,
    token_mean: Option<f64>,
    token_variance: Option<f64>,
    token_percentiles: Option<Vec<f64>>,
    feedback_count: i64,
    feedback_mean: Option<f64>,
    feedback_variance: Option<f64>,
}

impl From<ArmRow> for ArmFigures {
    fn from(row: ArmRow) -> Self {
        Self {
            adapter_version_id: row.adapter_version_id.map(AdapterVersionId::from_uuid),
            version: row.version,
            requests: row.requests,
            errors: row.errors,
            cancelled: row.cancelled,
            rejected: row.rejected,
            prompt_tokens: row.prompt_tokens,
            completion_tokens: row.completion_tokens,
            first_token_ms: spread(
                row.first_count,
                row.first_mean,
                row.first_variance,
                row.first_percentiles,
            ),
            whole_answer_ms: spread(
                row.whole_count,
                row.whole_mean,
                row.whole_variance,
                row.whole_percentiles,
            ),
            token_ms: spread(
                row.token_count,
                row.token_mean,
                row.token_variance,
                row.token_percentiles,
            ),
            feedback: sample(row.feedback_count, row.feedback_mean, row.feedback_variance),
        }
    }
}

/// Figures of the versions that were asked, by version.
///
/// # Errors
/// Database errors only.
pub async fn arms(
    store: &Store,
    organization: OrganizationId,
    deployment: DeploymentId,
    scope: Scope<'_>,
) -> Result<Vec<ArmFigures>, StoreError> {
    let (seconds, revisions) = match scope {
        Scope::Seconds(seconds) => (Some(seconds), None),
        Scope::Revisions(numbers) => (None, Some(numbers)),
    };
    let rows = sqlx::query_as!(
        ArmRow,
        "with asked as (
             select q.*, f.score,
                    case when q.streamed and q.status = 'ok' then q.first_token_ms end as first_ms,
                    case when not q.streamed and q.status = 'ok' then q.duration_ms end as whole_ms,
                    case when q.streamed and q.status = 'ok' and q.completion_tokens > 1
                         then (q.duration_ms - q.first_token_ms) / (q.completion_tokens - 1) end as token_ms
             from inference_requests q left join inference_feedback f on f.request_id = q.id
             where q.organization_id = $1 and q.deployment_id = $2 and q.mirrors is null
               and ($3::float8 is null or q.created_at >= clock_timestamp() - make_interval(secs => $3))
               and ($4::integer[] is null or q.revision_number = any($4)))
         select adapter_version_id, min(version) as \"version!\",
                count(*) filter (where status <> 'rejected') as \"requests!\",
                count(*) filter (where status = 'error') as \"errors!\",
                count(*) filter (where status = 'cancelled') as \"cancelled!\",
                count(*) filter (where status = 'rejected') as \"rejected!\",
                coalesce(sum(prompt_tokens), 0)::bigint as \"prompt_tokens!\",
                coalesce(sum(completion_tokens), 0)::bigint as \"completion_tokens!\",
                count(first_ms) as \"first_count!\", avg(first_ms) as first_mean, var_samp(first_ms) as first_variance,
                percentile_cont(array[0.5, 0.95]) within group (order by first_ms) as first_percentiles,
                count(whole_ms) as \"whole_count!\", avg(whole_ms) as whole_mean, var_samp(whole_ms) as whole_variance,
                percentile_cont(array[0.5, 0.95]) within group (order by whole_ms) as whole_percentiles,
                count(token_ms) as \"token_count!\", avg(token_ms) as token_mean, var_samp(token_ms) as token_variance,
                percentile_cont(array[0.5, 0.95]) within group (order by token_ms) as token_percentiles,
                count(score) as \"feedback_count!\", avg(score) as feedback_mean, var_samp(score) as feedback_variance
         from asked group by adapter_version_id order by min(version), adapter_version_id",
        organization.uuid(),
        deployment.uuid(),
        seconds,
        revisions,
    )
    .fetch_all(store.pool())
    .await?;
    Ok(rows.into_iter().map(ArmFigures::from).collect())
}

/// How a mirrored version did beside the answers that callers got.
#[derive(Debug, Clone, PartialEq)]
pub struct MirrorFigures {
    /// The version that was mirrored to.
    pub adapter_version_id: Option<AdapterVersionId>,
    /// `<adapter>@<number>`.
    pub version: String,
    /// Requests that were mirrored.
    pub requests: i64,
    /// Those that failed.
    pub errors: i64,
    /// Requests for which there was no room.
    pub dropped: i64,
    /// Comparisons of two texts.
    pub compared: i64,
    /// Those where both were the same.
    pub equal: i64,
    /// Mean similarity of the texts, 0 to 1.
    pub mean_similarity: Option<f64>,
    /// Tokens of answers.
    pub completion_tokens: i64,
    /// Median of the time to the end.
    pub p50_ms: Option<f64>,
    /// 95th percentile of it.
    pub p95_ms: Option<f64>,
}

struct MirrorRow {
    adapter_version_id: Option<Uuid>,
    version: String,
    requests: i64,
    errors: i64,
    dropped: i64,
    compared: i64,
    equal: i64,
    mean_similarity: Option<f64>,
    completion_tokens: i64,
    percentiles: Option<Vec<f64>>,
}

/// Figures of mirrored requests of the last so many seconds, by version.
///
/// # Errors
/// Database errors only.
pub async fn mirrors(
    store: &Store,
    organization: OrganizationId,
    deployment: DeploymentId,
    seconds: f64,
) -> Result<Vec<MirrorFigures>, StoreError> {
    let rows = sqlx::query_as!(
        MirrorRow,
        "select adapter_version_id, min(version) as \"version!\",
                count(*) filter (where status <> 'dropped') as \"requests!\",
                count(*) filter (where status = 'error') as \"errors!\",
                count(*) filter (where status = 'dropped') as \"dropped!\",
                count(text_equal) as \"compared!\", count(*) filter (where text_equal) as \"equal!\",
                avg(similarity) as mean_similarity,
                coalesce(sum(completion_tokens), 0)::bigint as \"completion_tokens!\",
                percentile_cont(array[0.5, 0.95]) within group (order by duration_ms)
                    filter (where status = 'ok') as percentiles
         from inference_requests
         where organization_id = $1 and deployment_id = $2 and mirrors is not null
           and created_at >= clock_timestamp() - make_interval(secs => $3)
         group by adapter_version_id order by min(version)",
        organization.uuid(),
        deployment.uuid(),
        seconds,
    )
    .fetch_all(store.pool())
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let percentiles = row.percentiles.unwrap_or_default();
            MirrorFigures {
                adapter_version_id: row.adapter_version_id.map(AdapterVersionId::from_uuid),
                version: row.version,
                requests: row.requests,
                errors: row.errors,
                dropped: row.dropped,
                compared: row.compared,
                equal: row.equal,
                mean_similarity: row.mean_similarity,
                completion_tokens: row.completion_tokens,
                p50_ms: percentiles.first().copied(),
                p95_ms: percentiles.get(1).copied(),
            }
        })
        .collect())
}
