//! The job queue: claim, renew, write, end, rescue.
//!
//! A job is claimed in one short transaction and worked on outside of it, under a lease. The lease is the pair
//! (epoch, lease_id), a fencing token: every write of a run names it, and the statement that writes checks it. Once the
//! lease has run out or another worker holds the job, every write gives [`StoreError::LeaseLost`] and has no effect.
//! Running is at-least-once; what a run leaves behind (adapter version, final state, events) is exactly-once.
//! Only the database's clock decides.
//!
//! ```text
//! queued --claim--> running --complete--> succeeded
//!   ^                 |  |-----fail-----> failed        (or back to queued, later, while attempts are left)
//!   |                 |  |-finish_cancel-> cancelled
//!   |----release------|  |-----reap-----> queued, failed ("poison") or cancelled
//! ```

mod claim;
mod finish;
mod gang;
mod rescue;
mod write;

use std::time::Duration;

use sqlx::PgConnection;
use tunesmith_types::{
    ids::{JobId, OrganizationId},
    states::RunOutcome,
};
use uuid::Uuid;

pub use claim::{ClaimedJob, RenewAnswer, claim, renew};
pub use finish::{
    Blame, Completion, FailOutcome, Published, ReleaseOutcome, RunFailure, complete, fail, finish_cancel,
    release,
};
pub use gang::{Opening, claim_to_join, rank};
pub use rescue::{ExpiredLease, RescueOutcome, expired, reap, rescue};
pub use write::{NewCheckpoint, RunStart, record_checkpoint, record_event, record_metrics, record_start};

use crate::{StoreError, files::to_json, jobs::JobError, refresh_tokens::interval};

/// Code of the error of a job that took too many workers down with it.
pub const POISON: &str = "poison";

/// Checkpoints that a claim hands over: the newest, and two to fall back to where it is damaged.
const CHECKPOINTS_TO_RESUME: u16 = 3;

/// The times of the lease protocol. A worker must renew several times within `ttl`, and stop its child well before
/// `ttl` after the last renewal that was answered; `takeover_grace` then separates it from the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueSettings {
    /// A lease that is not renewed for this long is lost.
    pub ttl: Duration,
    /// After this time more, the job is given to another worker.
    pub takeover_grace: Duration,
    /// Pause before the second attempt; it doubles with each one.
    pub retry_base: Duration,
    /// Longest pause before an attempt.
    pub retry_most: Duration,
    /// A job that loses this many leases within `poison_window` fails.
    pub poison_rescues: i64,
    /// See `poison_rescues`.
    pub poison_window: Duration,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(60),
            takeover_grace: Duration::from_secs(10),
            retry_base: Duration::from_secs(10),
            retry_most: Duration::from_secs(600),
            poison_rescues: 3,
            poison_window: Duration::from_secs(72 * 3600),
        }
    }
}

impl QueueSettings {
    /// The pause before the next attempt, where `failures` have gone before (at least one): exponential, and between
    /// half of it and all of it at random, so that jobs that failed together do not come back together.
    fn back_off(&self, failures: i32) -> Duration {
        let doublings = u32::try_from(failures - 1).unwrap_or(0).min(20);
        let pause = self
            .retry_base
            .saturating_mul(1 << doublings)
            .min(self.retry_most);
        pause.mul_f64(rand::random_range(0.5..=1.0))
    }
}

/// Proof of holding a job. It is lost by not renewing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseToken {
    /// Which job.
    pub job_id: JobId,
    /// Counts the leases of the job.
    pub epoch: i64,
    /// Drawn at random with each claim.
    pub lease_id: Uuid,
}

/// What the row lock of a held job shows.
struct HeldJob {
    organization_id: OrganizationId,
    adapter: String,
    base_model_id: Uuid,
    attempts: i32,
    max_attempts: i32,
    cancel_requested: bool,
}

/// Locks the job's row for the rest of the transaction, if the token still holds it.
async fn lock_held(connection: &mut PgConnection, token: &LeaseToken) -> Result<HeldJob, StoreError> {
    let row = sqlx::query!(
        "select organization_id, adapter, base_model_id, attempts, max_attempts,
                cancel_requested_at is not null as \"cancel_requested!\"
         from jobs
         where id = $1 and epoch = $2 and lease_id = $3 and state = 'running' and lease_until > clock_timestamp()
         for update",
        token.job_id.uuid(),
        token.epoch,
        token.lease_id,
    )
    .fetch_optional(connection)
    .await?
    .ok_or(StoreError::LeaseLost)?;
    Ok(HeldJob {
        organization_id: OrganizationId::from_uuid(row.organization_id),
        adapter: row.adapter,
        base_model_id: row.base_model_id,
        attempts: row.attempts,
        max_attempts: row.max_attempts,
        cancel_requested: row.cancel_requested,
    })
}

/// Ends the open run of the lease.
async fn end_run(
    connection: &mut PgConnection,
    token: &LeaseToken,
    outcome: RunOutcome,
    error: Option<&JobError>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update runs set ended_at = clock_timestamp(), outcome = $4::text::run_outcome, error = $5
         where job_id = $1 and epoch = $2 and lease_id = $3 and ended_at is null",
        token.job_id.uuid(),
        token.epoch,
        token.lease_id,
        outcome.as_str(),
        error.map(to_json),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Puts a locked running job back into the queue.
async fn requeue(
    connection: &mut PgConnection,
    token: &LeaseToken,
    pause: Duration,
    counts: Counts,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update jobs
         set state = 'queued', lease_id = null, lease_until = null, worker = null,
             run_at = clock_timestamp() + $4::interval, attempts = attempts + $5, rescues = rescues + $6,
             alone = alone or $7
         where id = $1 and epoch = $2 and lease_id = $3 and state = 'running'",
        token.job_id.uuid(),
        token.epoch,
        token.lease_id,
        interval(pause),
        i32::from(counts.attempt),
        i32::from(counts.rescue),
        counts.alone,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// What the end of a run adds to the job's counters.
#[derive(Clone, Copy, Default)]
struct Counts {
    attempt: bool,
    rescue: bool,
    /// The job trains alone from now on.
    alone: bool,
}

/// Moves a locked running job to `failed`.
async fn set_failed(
    connection: &mut PgConnection,
    token: &LeaseToken,
    error: &JobError,
    counts: Counts,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update jobs
         set state = 'failed', lease_id = null, lease_until = null, worker = null, finished_at = clock_timestamp(),
             error = $4, attempts = attempts + $5, rescues = rescues + $6
         where id = $1 and epoch = $2 and lease_id = $3 and state = 'running'",
        token.job_id.uuid(),
        token.epoch,
        token.lease_id,
        to_json(error),
        i32::from(counts.attempt),
        i32::from(counts.rescue),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Moves a locked running job, whose cancelling was asked for, to `cancelled`.
async fn set_cancelled(
    connection: &mut PgConnection,
    token: &LeaseToken,
    counts: Counts,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update jobs
         set state = 'cancelled', lease_id = null, lease_until = null, worker = null,
             finished_at = clock_timestamp(), attempts = attempts + $4, rescues = rescues + $5
         where id = $1 and epoch = $2 and lease_id = $3 and state = 'running'",
        token.job_id.uuid(),
        token.epoch,
        token.lease_id,
        i32::from(counts.attempt),
        i32::from(counts.rescue),
    )
    .execute(connection)
    .await?;
    Ok(())
}
