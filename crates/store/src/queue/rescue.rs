//! Taking jobs from workers that went silent. A rescue is a compare-and-set on the lease that was seen to be over, so a
//! slow reaper never touches a job that has moved on.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgConnection;
use tunesmith_types::{
    ids::{JobId, OrganizationId},
    states::{EventLevel, RunOutcome},
};
use uuid::Uuid;

use super::{Counts, LeaseToken, POISON, QueueSettings, end_run, requeue, set_cancelled, set_failed};
use crate::{
    Store, StoreError,
    events::{self, NewEvent},
    jobs::JobError,
    notifications::{notify_job_queued, notify_job_updated},
    refresh_tokens::interval,
};

/// Leases that one query looks at.
const BATCH: i64 = 100;

/// A lease that has run out, as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpiredLease {
    /// The lease.
    pub token: LeaseToken,
    /// Who held it.
    pub worker: String,
    /// When it ran out.
    pub lease_until: DateTime<Utc>,
}

/// What a rescue came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RescueOutcome {
    /// Another worker may take the job.
    Requeued,
    /// It took too many workers down with it, and has failed.
    Poisoned,
    /// Somebody had asked to cancel it.
    Cancelled,
    /// The job has moved on; nothing was done.
    Overtaken,
}

/// Leases that ran out more than `takeover_grace` ago, the longest ago first, after `cursor`.
///
/// # Errors
/// Database errors only.
pub async fn expired(
    store: &Store,
    settings: &QueueSettings,
    cursor: Option<&ExpiredLease>,
) -> Result<Vec<ExpiredLease>, StoreError> {
    let rows = sqlx::query!(
        "select id, epoch, lease_id as \"lease_id!\", worker as \"worker!\", lease_until as \"lease_until!\" from jobs
         where state = 'running' and lease_until < now() - $1::interval
           and ($2::timestamptz is null or (lease_until, id) > ($2, $3))
         order by lease_until, id limit $4",
        interval(settings.takeover_grace),
        cursor.map(|lease| lease.lease_until),
        cursor.map(|lease| lease.token.job_id.uuid()),
        BATCH,
    )
    .fetch_all(store.pool())
    .await?;
    let leases = rows.into_iter().map(|row| ExpiredLease {
        token: LeaseToken {
            job_id: JobId::from_uuid(row.id),
            epoch: row.epoch,
            lease_id: row.lease_id,
        },
        worker: row.worker,
        lease_until: row.lease_until,
    });
    Ok(leases.collect())
}

/// Rescues every job whose worker went silent, and returns what was done. A job that cannot be rescued (the error is
/// logged) does not keep the others from it.
///
/// # Errors
/// The expired leases cannot be listed.
pub async fn reap(
    store: &Store,
    settings: &QueueSettings,
) -> Result<Vec<(ExpiredLease, RescueOutcome)>, StoreError> {
    let mut done = Vec::new();
    let mut cursor: Option<ExpiredLease> = None;
    loop {
        let leases = expired(store, settings, cursor.as_ref()).await?;
        let Some(last) = leases.last().cloned() else {
            return Ok(done);
        };
        for lease in leases {
            match rescue(store, settings, &lease).await {
                Ok(outcome) => done.push((lease, outcome)),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(job = %lease.token.job_id, error, "a job could not be rescued");
                }
            }
        }
        cursor = Some(last);
    }
}

struct LostJob {
    organization_id: Uuid,
    rescues: i32,
    cancel_requested: bool,
}

/// Takes one job from the worker that held this lease, if the lease is still the job's and still over.
///
/// # Errors
/// Database errors only.
pub async fn rescue(
    store: &Store,
    settings: &QueueSettings,
    lease: &ExpiredLease,
) -> Result<RescueOutcome, StoreError> {
    let mut transaction = store.pool().begin().await?;
    let Some(lost) = lock_lost(&mut transaction, settings, &lease.token).await? else {
        return Ok(RescueOutcome::Overtaken);
    };
    end_run(&mut transaction, &lease.token, RunOutcome::LeaseLost, None).await?;
    // A machine that goes down once is no job's fault. If it happens again, the job that did it must show itself.
    let counts = Counts {
        attempt: false,
        rescue: true,
        alone: lost.rescues > 0,
    };
    let poisoned =
        recent_rescues(&mut transaction, settings, lease.token.job_id).await? >= settings.poison_rescues;
    let (outcome, event) = if lost.cancel_requested {
        set_cancelled(&mut transaction, &lease.token, counts).await?;
        let message = "the job was cancelled; its worker had gone silent";
        (
            RescueOutcome::Cancelled,
            NewEvent::new(EventLevel::Warn, "cancelled", message),
        )
    } else if poisoned {
        let error = poison_error(settings);
        set_failed(&mut transaction, &lease.token, &error, counts).await?;
        (
            RescueOutcome::Poisoned,
            NewEvent::new(EventLevel::Error, "failed", error.message),
        )
    } else {
        // The first rescue is at once: machines do restart. A job that loses its worker again waits.
        let pause = if lost.rescues == 0 {
            Duration::ZERO
        } else {
            settings.back_off(lost.rescues)
        };
        requeue(&mut transaction, &lease.token, pause, counts).await?;
        notify_job_queued(&mut transaction, lease.token.job_id).await?;
        let message = "the worker went silent; the job goes on elsewhere from its last checkpoint";
        (
            RescueOutcome::Requeued,
            NewEvent::new(EventLevel::Warn, "rescued", message),
        )
    };
    let event = event.with(json!({"worker": lease.worker, "epoch": lease.token.epoch}));
    let organization = OrganizationId::from_uuid(lost.organization_id);
    events::append(&mut transaction, organization, lease.token.job_id, &event).await?;
    notify_job_updated(&mut transaction, lease.token.job_id).await?;
    transaction.commit().await?;
    Ok(outcome)
}

/// The compare of the compare-and-set: the row stays locked until the transaction ends.
async fn lock_lost(
    connection: &mut PgConnection,
    settings: &QueueSettings,
    token: &LeaseToken,
) -> Result<Option<LostJob>, StoreError> {
    let row = sqlx::query_as!(
        LostJob,
        "select organization_id, rescues, cancel_requested_at is not null as \"cancel_requested!\" from jobs
         where id = $1 and epoch = $2 and lease_id = $3 and state = 'running'
           and lease_until < clock_timestamp() - $4::interval
         for update",
        token.job_id.uuid(),
        token.epoch,
        token.lease_id,
        interval(settings.takeover_grace),
    )
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// How often the job lost its lease within the window, this time included.
async fn recent_rescues(
    connection: &mut PgConnection,
    settings: &QueueSettings,
    job: JobId,
) -> Result<i64, StoreError> {
    let count = sqlx::query_scalar!(
        "select count(*) as \"count!\" from runs
         where job_id = $1 and outcome = 'lease_lost' and ended_at > clock_timestamp() - $2::interval",
        job.uuid(),
        interval(settings.poison_window),
    )
    .fetch_one(connection)
    .await?;
    Ok(count)
}

fn poison_error(settings: &QueueSettings) -> JobError {
    JobError {
        code: POISON.to_owned(),
        message: format!(
            "The worker went silent {} times within {} hours while it ran this job, so it is not tried again. \
             The job may need more memory than a worker has: lower `batch_size`, `max_seq_len` or `rank`.",
            settings.poison_rescues,
            settings.poison_window.as_secs() / 3600,
        ),
    }
}
