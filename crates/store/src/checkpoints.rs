//! Saved states of a job. They are written by [`queue::record_checkpoint`](crate::queue::record_checkpoint).

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use tunesmith_types::{
    ids::{AdapterVersionId, CheckpointId, JobId, OrganizationId},
    names::ResourceName,
};
use uuid::Uuid;

use crate::{
    Store, StoreError,
    error::stored_json,
    files::StoredFile,
    publication::{self, NewAdapterVersion, Publication},
};

/// A saved state from which a run can resume exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Id.
    pub id: CheckpointId,
    /// Of which job.
    pub job_id: JobId,
    /// Epoch of the lease under which it was written.
    pub epoch: i64,
    /// Optimizer steps done.
    pub step: i64,
    /// Its files.
    pub files: Vec<StoredFile>,
    /// Of the configuration that a resuming run must have too.
    pub config_hash: String,
    /// When it was written.
    pub created_at: DateTime<Utc>,
}

struct CheckpointRow {
    id: Uuid,
    job_id: Uuid,
    epoch: i64,
    step: i64,
    files: Value,
    config_hash: String,
    created_at: DateTime<Utc>,
}

impl TryFrom<CheckpointRow> for Checkpoint {
    type Error = StoreError;

    fn try_from(row: CheckpointRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: CheckpointId::from_uuid(row.id),
            job_id: JobId::from_uuid(row.job_id),
            epoch: row.epoch,
            step: row.step,
            files: stored_json("checkpoints.files", row.files)?,
            config_hash: row.config_hash,
            created_at: row.created_at,
        })
    }
}

/// The checkpoints of a job, the one to resume from first: the newest lease's, and of these the furthest.
/// A later run has begun from the best that it found, so its own are better than those before.
///
/// # Errors
/// Database errors only.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    job: JobId,
    limit: u16,
) -> Result<Vec<Checkpoint>, StoreError> {
    let mut connection = store.pool().acquire().await?;
    newest(&mut connection, organization, job, limit).await
}

/// As [`list`], in the caller's transaction.
pub(crate) async fn newest(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
    limit: u16,
) -> Result<Vec<Checkpoint>, StoreError> {
    let rows = sqlx::query_as!(
        CheckpointRow,
        "select id, job_id, epoch, step, files, config_hash, created_at from checkpoints
         where organization_id = $1 and job_id = $2 order by epoch desc, step desc limit $3",
        organization.uuid(),
        job.uuid(),
        i64::from(limit),
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(Checkpoint::try_from).collect()
}

/// The checkpoint of a job after `step` optimizer steps; where several runs wrote one, that of the newest lease.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn find(
    store: &Store,
    organization: OrganizationId,
    job: JobId,
    step: i64,
) -> Result<Checkpoint, StoreError> {
    let row = sqlx::query_as!(
        CheckpointRow,
        "select id, job_id, epoch, step, files, config_hash, created_at from checkpoints
         where organization_id = $1 and job_id = $2 and step = $3 order by epoch desc limit 1",
        organization.uuid(),
        job.uuid(),
        step,
    )
    .fetch_optional(store.pool())
    .await?;
    row.ok_or(StoreError::NotFound("checkpoint"))?.try_into()
}

/// The version that was made from a checkpoint, deleted or not; none where it has not been published.
///
/// # Errors
/// Database errors only.
pub async fn published(
    store: &Store,
    organization: OrganizationId,
    job: JobId,
    step: i64,
) -> Result<Option<AdapterVersionId>, StoreError> {
    let mut connection = store.pool().acquire().await?;
    published_in(&mut connection, organization, job, step).await
}

async fn published_in(
    connection: &mut PgConnection,
    organization: OrganizationId,
    job: JobId,
    step: i64,
) -> Result<Option<AdapterVersionId>, StoreError> {
    let version = sqlx::query_scalar!(
        "select id from adapter_versions where organization_id = $1 and job_id = $2 and checkpoint_step = $3",
        organization.uuid(),
        job.uuid(),
        step,
    )
    .fetch_optional(connection)
    .await?;
    Ok(version.map(AdapterVersionId::from_uuid))
}

/// Makes the next version of the adapter from a checkpoint. A checkpoint is published once: later calls give the
/// version of the first, whatever adapter they name.
///
/// # Errors
/// [`StoreError::NotFound`] where there is no such job.
pub async fn publish(
    store: &Store,
    organization: OrganizationId,
    checkpoint: &Checkpoint,
    adapter: &ResourceName,
    new: &NewAdapterVersion,
) -> Result<AdapterVersionId, StoreError> {
    let (job, step) = (checkpoint.job_id, checkpoint.step);
    let mut transaction = store.pool().begin().await?;
    // Two calls at once: the second waits here and finds the version of the first.
    let base_model = sqlx::query_scalar!(
        "select base_model_id from jobs where organization_id = $1 and id = $2 for no key update",
        organization.uuid(),
        job.uuid(),
    )
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or(StoreError::NotFound("training job"))?;
    if let Some(version) = published_in(&mut transaction, organization, job, step).await? {
        return Ok(version);
    }
    let publication = Publication {
        organization,
        job: Some(job),
        checkpoint_step: Some(step),
        adapter: adapter.as_str(),
        base_model,
    };
    let (version, _) = publication::publish(&mut transaction, &publication, new).await?;
    transaction.commit().await?;
    Ok(version)
}
