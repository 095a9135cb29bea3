//! Saved states of a job. They are written by [`queue::record_checkpoint`](crate::queue::record_checkpoint).

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use tunesmith_types::ids::{CheckpointId, JobId, OrganizationId};
use uuid::Uuid;

use crate::{Store, StoreError, error::stored_json, files::StoredFile};

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
