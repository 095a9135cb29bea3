//! Taking a job, and keeping it.

use serde_json::{Value, json};
use sqlx::{PgConnection, Postgres, Transaction};
use tunesmith_types::{
    hyperparameters::Hyperparameters,
    ids::{AdapterVersionId, BaseModelId, DatasetId, JobId, OrganizationId, RunId},
    names::ResourceName,
    states::EventLevel,
};
use uuid::Uuid;

use super::{CHECKPOINTS_TO_RESUME, LeaseToken, QueueSettings};
use crate::{
    Store, StoreError,
    adapters::{self, AdapterVersion},
    base_models::{self, BaseModel},
    checkpoints::{self, Checkpoint},
    datasets::{self, Dataset},
    error::{stored, stored_json},
    events::{self, NewEvent},
    notifications::notify_job_updated,
    refresh_tokens::interval,
};

/// A job in the hands of a worker, with all that it needs to train it.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimedJob {
    /// Proof of holding it.
    pub token: LeaseToken,
    /// Whose.
    pub organization_id: OrganizationId,
    /// This attempt.
    pub run_id: RunId,
    /// The adapter whose next version it makes.
    pub adapter: ResourceName,
    /// Every value decided.
    pub hyperparameters: Hyperparameters,
    /// What it tunes.
    pub base_model: BaseModel,
    /// What it learns from.
    pub dataset: Dataset,
    /// The version whose adapter it begins with; none for a fresh one.
    pub parent: Option<AdapterVersion>,
    /// The best to resume from first, then two to fall back to; none for a fresh start.
    pub checkpoints: Vec<Checkpoint>,
    /// Runs before this one that ended with an error.
    pub attempts: i32,
    /// Runs before this one whose worker went silent.
    pub rescues: i32,
    /// Its trainer died once while it trained others too: this time it gets one for itself.
    pub alone: bool,
}

/// What the database says to a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RenewAnswer {
    /// Somebody asked to cancel the job: stop, then call [`finish_cancel`](super::finish_cancel).
    pub cancel_requested: bool,
}

/// A job that an open transaction has taken.
pub(super) struct ClaimRow {
    pub(super) id: Uuid,
    pub(super) organization_id: Uuid,
    pub(super) epoch: i64,
    pub(super) lease_id: Option<Uuid>,
    pub(super) adapter: String,
    pub(super) base_model_id: Uuid,
    pub(super) dataset_id: Uuid,
    pub(super) parent_version_id: Option<Uuid>,
    pub(super) hyperparameters: Value,
    pub(super) attempts: i32,
    pub(super) rescues: i32,
    pub(super) alone: bool,
}

/// Takes the job that has waited longest, if one is due. Two workers never get the same one.
///
/// # Errors
/// Database errors only.
pub async fn claim(
    store: &Store,
    settings: &QueueSettings,
    worker: &str,
) -> Result<Option<ClaimedJob>, StoreError> {
    let mut transaction = store.pool().begin().await?;
    match take_oldest(&mut transaction, settings, worker).await? {
        Some(row) => begin_run(store, transaction, row, worker).await.map(Some),
        None => Ok(None),
    }
}

/// Opens the run of a job that was just taken, and commits.
pub(super) async fn begin_run(
    store: &Store,
    mut transaction: Transaction<'_, Postgres>,
    row: ClaimRow,
    worker: &str,
) -> Result<ClaimedJob, StoreError> {
    let organization_id = OrganizationId::from_uuid(row.organization_id);
    let token = LeaseToken {
        job_id: JobId::from_uuid(row.id),
        epoch: row.epoch,
        lease_id: row
            .lease_id
            .expect("invariant: the claim has just drawn a lease_id"),
    };
    let run_id = open_run(&mut transaction, organization_id, &token, worker).await?;
    let checkpoints = checkpoints::newest(
        &mut transaction,
        organization_id,
        token.job_id,
        CHECKPOINTS_TO_RESUME,
    )
    .await?;
    let event = NewEvent::new(EventLevel::Info, "started", "a worker has taken the job")
        .with(json!({"worker": worker, "run": run_id, "epoch": token.epoch}));
    events::append(&mut transaction, organization_id, token.job_id, &event).await?;
    notify_job_updated(&mut transaction, token.job_id).await?;
    transaction.commit().await?;
    let parent = match row.parent_version_id.map(AdapterVersionId::from_uuid) {
        Some(parent) => Some(adapters::version(store, organization_id, parent).await?),
        None => None,
    };
    Ok(ClaimedJob {
        token,
        organization_id,
        run_id,
        adapter: stored("jobs.adapter", &row.adapter)?,
        hyperparameters: stored_json("jobs.hyperparameters", row.hyperparameters)?,
        base_model: base_models::get_any(store, BaseModelId::from_uuid(row.base_model_id)).await?,
        dataset: datasets::get(store, organization_id, DatasetId::from_uuid(row.dataset_id)).await?,
        parent,
        checkpoints,
        attempts: row.attempts,
        rescues: row.rescues,
        alone: row.alone,
    })
}

/// `now()` in the condition lets the index on `run_at` find the job; the lease counts from `clock_timestamp()`.
async fn take_oldest(
    connection: &mut PgConnection,
    settings: &QueueSettings,
    worker: &str,
) -> Result<Option<ClaimRow>, StoreError> {
    let row = sqlx::query_as!(
        ClaimRow,
        "update jobs
         set state = 'running', epoch = epoch + 1, lease_id = gen_random_uuid(), worker = $1,
             lease_until = clock_timestamp() + $2::interval, last_progress_at = clock_timestamp(),
             started_at = coalesce(started_at, clock_timestamp())
         where id = (
             select id from jobs where state = 'queued' and run_at <= now()
             order by run_at, id for update skip locked limit 1
         )
         returning id, organization_id, epoch, lease_id, adapter, base_model_id, dataset_id, parent_version_id,
                   hyperparameters, attempts, rescues, alone",
        worker,
        interval(settings.ttl),
    )
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

async fn open_run(
    connection: &mut PgConnection,
    organization: OrganizationId,
    token: &LeaseToken,
    worker: &str,
) -> Result<RunId, StoreError> {
    let run = RunId::new();
    sqlx::query!(
        "insert into runs (id, organization_id, job_id, epoch, lease_id, worker) values ($1, $2, $3, $4, $5, $6)",
        run.uuid(),
        organization.uuid(),
        token.job_id.uuid(),
        token.epoch,
        token.lease_id,
        worker,
    )
    .execute(connection)
    .await?;
    Ok(run)
}

/// Keeps the job for another `ttl` from now. A caller counts its own time from before the call.
///
/// # Errors
/// [`StoreError::LeaseLost`]: it came too late, or the job is another worker's.
pub async fn renew(
    store: &Store,
    settings: &QueueSettings,
    token: &LeaseToken,
) -> Result<RenewAnswer, StoreError> {
    let cancel_requested = sqlx::query_scalar!(
        "update jobs set lease_until = clock_timestamp() + $4::interval
         where id = $1 and epoch = $2 and lease_id = $3 and state = 'running' and lease_until > clock_timestamp()
         returning cancel_requested_at is not null as \"cancel_requested!\"",
        token.job_id.uuid(),
        token.epoch,
        token.lease_id,
        interval(settings.ttl),
    )
    .fetch_optional(store.pool())
    .await?
    .ok_or(StoreError::LeaseLost)?;
    Ok(RenewAnswer { cancel_requested })
}
