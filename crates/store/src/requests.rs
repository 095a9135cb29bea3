//! What was asked of models: written in batches by the gateway, read as usage, and as figures of a deployment's arms.

use chrono::{DateTime, Utc};
use tunesmith_types::{
    ids::{AdapterVersionId, BaseModelId, DeploymentId, OrganizationId},
    states::RequestStatus,
};
use uuid::Uuid;

use crate::{Store, StoreError};

/// One request to a model, after its end.
#[derive(Debug, Clone, PartialEq)]
pub struct MeteredRequest {
    /// The digits of the answer's id.
    pub id: Uuid,
    /// Whose.
    pub organization_id: OrganizationId,
    /// The public name that was asked for.
    pub model: String,
    /// What answered, without its adapter.
    pub base_model_id: BaseModelId,
    /// None where the base model itself was asked for.
    pub deployment_id: Option<DeploymentId>,
    /// Number of the revision that chose the version.
    pub revision_number: Option<i32>,
    /// None where the base model answered.
    pub adapter_version_id: Option<AdapterVersionId>,
    /// `<adapter>@<number>`, or `base`.
    pub version: String,
    /// `chat` or `completion`.
    pub endpoint: &'static str,
    /// Whether the answer came in pieces.
    pub streamed: bool,
    /// How it ended.
    pub status: RequestStatus,
    /// Code of the error.
    pub error_code: Option<String>,
    /// Tokens of the prompt, as far as known.
    pub prompt_tokens: Option<i64>,
    /// Tokens of the answer, as far as known.
    pub completion_tokens: Option<i64>,
    /// Tokens of the prompt that came out of a cache, as far as known.
    pub cached_tokens: Option<i64>,
    /// Time to the first token; none where nothing was streamed.
    pub first_token_ms: Option<f64>,
    /// Time to the end.
    pub duration_ms: f64,
    /// What became of a mirrored request; none for an ordinary one.
    pub mirror: Option<Mirror>,
    /// How long ago the request came.
    pub age_seconds: f64,
}

/// A mirrored request beside the one that it copies.
#[derive(Debug, Clone, PartialEq)]
pub struct Mirror {
    /// The digits of the id of the request that was answered.
    pub of: Uuid,
    /// Whether both answers are the same text.
    pub text_equal: Option<bool>,
    /// 0 (nothing in common) to 1 (the same words in the same order).
    pub similarity: Option<f64>,
}

/// For the gateway: writes a batch, whoever its requests are of. What was written before, by id, stays as it is.
/// Requests of an organization that is gone meanwhile are left out.
///
/// # Errors
/// Database errors only.
pub async fn record(store: &Store, batch: &[MeteredRequest]) -> Result<(), StoreError> {
    fn column<T>(batch: &[MeteredRequest], of: impl Fn(&MeteredRequest) -> T) -> Vec<T> {
        batch.iter().map(of).collect()
    }
    let mirror = |request: &MeteredRequest| request.mirror.clone();
    sqlx::query!(
        "insert into inference_requests (id, organization_id, model, base_model_id, deployment_id, revision_number,
             adapter_version_id, version, endpoint, streamed, status, error_code, prompt_tokens, completion_tokens,
             cached_tokens, first_token_ms, duration_ms, mirrors, text_equal, similarity, created_at)
         select q.id, q.organization_id, q.model, q.base_model_id, q.deployment_id, q.revision_number,
             q.adapter_version_id, q.version, q.endpoint, q.streamed, q.status, q.error_code, q.prompt_tokens,
             q.completion_tokens, q.cached_tokens, q.first_token_ms, q.duration_ms, q.mirrors, q.text_equal,
             q.similarity, clock_timestamp() - make_interval(secs => q.age)
         from unnest($1::uuid[], $2::uuid[], $3::text[], $4::uuid[], $5::uuid[], $6::integer[], $7::uuid[], $8::text[],
             $9::text[], $10::boolean[], $11::text[], $12::text[], $13::bigint[], $14::bigint[], $15::bigint[],
             $16::float8[], $17::float8[], $18::uuid[], $19::boolean[], $20::float8[], $21::float8[])
           as q (id, organization_id, model, base_model_id, deployment_id, revision_number, adapter_version_id, version,
             endpoint, streamed, status, error_code, prompt_tokens, completion_tokens, cached_tokens, first_token_ms,
             duration_ms, mirrors, text_equal, similarity, age)
         where exists (select 1 from organizations o where o.id = q.organization_id)
         on conflict (id) do nothing",
        &column(batch, |request| request.id),
        &column(batch, |request| request.organization_id.uuid()),
        &column(batch, |request| request.model.clone()),
        &column(batch, |request| request.base_model_id.uuid()),
        &column(batch, |request| request.deployment_id.map(DeploymentId::uuid)) as &[Option<Uuid>],
        &column(batch, |request| request.revision_number) as &[Option<i32>],
        &column(batch, |request| request.adapter_version_id.map(AdapterVersionId::uuid)) as &[Option<Uuid>],
        &column(batch, |request| request.version.clone()),
        &column(batch, |request| request.endpoint.to_owned()),
        &column(batch, |request| request.streamed),
        &column(batch, |request| request.status.as_str().to_owned()),
        &column(batch, |request| request.error_code.clone()) as &[Option<String>],
        &column(batch, |request| request.prompt_tokens) as &[Option<i64>],
        &column(batch, |request| request.completion_tokens) as &[Option<i64>],
        &column(batch, |request| request.cached_tokens) as &[Option<i64>],
        &column(batch, |request| request.first_token_ms) as &[Option<f64>],
        &column(batch, |request| request.duration_ms),
        &column(batch, |request| mirror(request).map(|mirror| mirror.of)) as &[Option<Uuid>],
        &column(batch, |request| mirror(request).and_then(|mirror| mirror.text_equal)) as &[Option<bool>],
        &column(batch, |request| mirror(request).and_then(|mirror| mirror.similarity)) as &[Option<f64>],
        &column(batch, |request| request.age_seconds),
    )
    .execute(store.pool())
    .await?;
    Ok(())
}

/// By what usage is summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UsageGroups {
    /// By day, in UTC.
    pub day: bool,
    /// By public model name.
    pub model: bool,
    /// By version.
    pub version: bool,
}

/// What an organization used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Midnight in UTC, where grouped by day.
    pub day: Option<DateTime<Utc>>,
    /// Public name, where grouped by model.
    pub model: Option<String>,
    /// `<adapter>@<number>` or `base`, where grouped by version.
    pub version: Option<String>,
    /// Requests, mirrored ones apart.
    pub requests: i64,
    /// Those that failed on our side.
    pub errors: i64,
    /// Those whose caller left.
    pub cancelled: i64,
    /// Tokens of prompts.
    pub prompt_tokens: i64,
    /// Those of them that came out of a cache.
    pub cached_tokens: i64,
    /// Tokens of answers.
    pub completion_tokens: i64,
    /// Mirrored requests.
    pub mirrored_requests: i64,
    /// Tokens of mirrored requests, prompts and answers.
    pub mirrored_tokens: i64,
}

/// What the organization used from `from` until before `until`, by the groups, the oldest first.
///
/// # Errors
/// Database errors only.
pub async fn usage(
    store: &Store,
    organization: OrganizationId,
    from: DateTime<Utc>,
    until: DateTime<Utc>,
    groups: UsageGroups,
) -> Result<Vec<Usage>, StoreError> {
    let rows = sqlx::query_as!(
        Usage,
        "select case when $4 then date_trunc('day', created_at, 'UTC') end as day,
                case when $5 then model end as model,
                case when $6 then version end as version,
                count(*) filter (where mirrors is null) as \"requests!\",
                count(*) filter (where mirrors is null and status = 'error') as \"errors!\",
                count(*) filter (where mirrors is null and status = 'cancelled') as \"cancelled!\",
                coalesce(sum(prompt_tokens) filter (where mirrors is null), 0)::bigint as \"prompt_tokens!\",
                coalesce(sum(cached_tokens) filter (where mirrors is null), 0)::bigint as \"cached_tokens!\",
                coalesce(sum(completion_tokens) filter (where mirrors is null), 0)::bigint as \"completion_tokens!\",
                count(*) filter (where mirrors is not null and status <> 'dropped') as \"mirrored_requests!\",
                coalesce(sum(coalesce(prompt_tokens, 0) + coalesce(completion_tokens, 0))
                    filter (where mirrors is not null), 0)::bigint as \"mirrored_tokens!\"
         from inference_requests
         where organization_id = $1 and created_at >= $2 and created_at < $3
         group by 1, 2, 3 order by 1, 2, 3 limit 10000",
        organization.uuid(),
        from,
        until,
        groups.day,
        groups.model,
        groups.version,
    )
    .fetch_all(store.pool())
    .await?;
    Ok(rows)
}
