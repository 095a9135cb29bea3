//! The attempts of a job, each on one worker under one lease.

use chrono::{DateTime, Utc};
use tunesmith_types::{
    ids::{JobId, OrganizationId, RunId},
    states::RunOutcome,
};

use crate::{
    Store, StoreError,
    error::{stored, stored_json_option},
    jobs::JobError,
};

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Id.
    pub id: RunId,
    /// Counts the leases of the job.
    pub epoch: i64,
    /// Who ran it.
    pub worker: String,
    /// `cpu` or `cuda:0`, once the trainer has said so.
    pub device: Option<String>,
    /// `float32` or `bfloat16`, once the trainer has said so.
    pub dtype: Option<String>,
    /// Step of the checkpoint that it began from.
    pub resumed_from_step: Option<i64>,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// How it ended.
    pub outcome: Option<RunOutcome>,
    /// Why it failed.
    pub error: Option<JobError>,
}

/// The runs of a job, the first one first; none where the job is another organization's.
///
/// # Errors
/// Database errors only.
pub async fn list(store: &Store, organization: OrganizationId, job: JobId) -> Result<Vec<Run>, StoreError> {
    let rows = sqlx::query!(
        "select id, epoch, worker, device, dtype, resumed_from_step, started_at, ended_at,
                outcome::text as outcome, error
         from runs where organization_id = $1 and job_id = $2 order by epoch, started_at",
        organization.uuid(),
        job.uuid(),
    )
    .fetch_all(store.pool())
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Run {
                id: RunId::from_uuid(row.id),
                epoch: row.epoch,
                worker: row.worker,
                device: row.device,
                dtype: row.dtype,
                resumed_from_step: row.resumed_from_step,
                started_at: row.started_at,
                ended_at: row.ended_at,
                outcome: row
                    .outcome
                    .map(|text| stored("runs.outcome", &text))
                    .transpose()?,
                error: stored_json_option("runs.error", row.error)?,
            })
        })
        .collect()
}
