//! Taking jobs that are trained together with others: a gang, on one base model in one trainer.

use std::time::Duration;

use sqlx::PgConnection;
use tunesmith_types::{
    hyperparameters::{Hyperparameters, TrainingDtype},
    ids::{BaseModelId, OrganizationId},
};
use uuid::Uuid;

use super::{
    QueueSettings,
    claim::{ClaimRow, ClaimedJob, begin_run},
};
use crate::{Store, StoreError, refresh_tokens::interval};

/// Who may join a gang.
#[derive(Debug, Clone, Copy)]
pub struct Opening<'a> {
    /// The base model that the gang's trainer has loaded.
    pub base_model: BaseModelId,
    /// Number formats that come to the trainer's, as jobs ask for them.
    pub dtypes: &'a [TrainingDtype],
    /// The organization of each job that is in the gang already: an organization comes as often as it has jobs.
    pub organizations: &'a [OrganizationId],
    /// The greatest [`rank`] that the memory still has room for.
    pub room: u32,
    /// None lets a job join whoever else waits. Otherwise none joins that would overtake a job which this gang cannot
    /// take and which has waited for this long: so the gang comes to its end, and the other one to its turn.
    pub patience: Option<Duration>,
}

/// The measure of a job's memory: the greatest LoRA rank of its modules. Weights, gradients and AdamW's moments of an
/// adapter take at most `16 * rank * (inputs + outputs)` bytes, summed over the modules of the base model, so on one
/// base model the sum of the ranks bounds what jobs take together.
#[must_use]
pub fn rank(hyperparameters: &Hyperparameters) -> u32 {
    let patterns = hyperparameters.rank_pattern.values();
    let ranks = patterns.copied().chain([hyperparameters.rank]);
    ranks.map(|rank| rank.get()).max().unwrap_or_default()
}

/// Takes a job that may join a gang, if there is one: of the organizations with the fewest jobs in it, the one that has
/// waited longest. A job that must train alone never joins.
///
/// # Errors
/// Database errors only.
pub async fn claim_to_join(
    store: &Store,
    settings: &QueueSettings,
    worker: &str,
    opening: &Opening<'_>,
) -> Result<Option<ClaimedJob>, StoreError> {
    let mut transaction = store.pool().begin().await?;
    match take_joining(&mut transaction, settings, worker, opening).await? {
        Some(row) => begin_run(store, transaction, row, worker).await.map(Some),
        None => Ok(None),
    }
}

/// Without patience nobody counts as kept waiting.
async fn take_joining(
    connection: &mut PgConnection,
    settings: &QueueSettings,
    worker: &str,
    opening: &Opening<'_>,
) -> Result<Option<ClaimRow>, StoreError> {
    let dtypes: Vec<String> = opening.dtypes.iter().copied().map(stored_dtype).collect();
    let organizations: Vec<Uuid> = opening.organizations.iter().map(|id| id.uuid()).collect();
    let row = sqlx::query_as!(
        ClaimRow,
        "with kept_waiting as materialized (
             select run_at, id from jobs
             where state = 'queued' and run_at <= now() - $7::interval
               and (base_model_id <> $3 or alone or hyperparameters ->> 'dtype' <> all($4))
             order by run_at, id limit 1
         )
         update jobs
         set state = 'running', epoch = epoch + 1, lease_id = gen_random_uuid(), worker = $1,
             lease_until = clock_timestamp() + $2::interval, last_progress_at = clock_timestamp(),
             started_at = coalesce(started_at, clock_timestamp())
         where id = (
             select id from jobs as candidate
             where state = 'queued' and run_at <= now() and base_model_id = $3 and not alone
               and hyperparameters ->> 'dtype' = any($4)
               and (hyperparameters ->> 'rank')::integer <= $6
               and not exists (
                   select from jsonb_each_text(coalesce(hyperparameters -> 'rank_pattern', '{}')) as ranks
                   where ranks.value::integer > $6
               )
               and not exists (
                   select from kept_waiting
                   where (kept_waiting.run_at, kept_waiting.id) < (candidate.run_at, candidate.id)
               )
             order by (select count(*) from unnest($5::uuid[]) as member where member = candidate.organization_id),
                      run_at, id
             for update skip locked limit 1
         )
         returning id, organization_id, epoch, lease_id, adapter, base_model_id, dataset_id, parent_version_id,
                   hyperparameters, attempts, rescues, alone",
        worker,
        interval(settings.ttl),
        opening.base_model.uuid(),
        &dtypes,
        &organizations,
        i32::try_from(opening.room).unwrap_or(i32::MAX),
        opening.patience.map(interval),
    )
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// As it stands in `jobs.hyperparameters`.
fn stored_dtype(dtype: TrainingDtype) -> String {
    match dtype {
        TrainingDtype::Auto => "auto",
        TrainingDtype::Float32 => "float32",
        TrainingDtype::Bfloat16 => "bfloat16",
    }
    .to_owned()
}
