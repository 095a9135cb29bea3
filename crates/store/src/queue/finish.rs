//! The ends of a run. Each is one transaction that holds the job's row, so a job gets exactly one.

use std::time::Duration;

use serde_json::json;
use sqlx::PgConnection;
use tunesmith_types::{
    ids::AdapterVersionId,
    states::{EventLevel, RunOutcome},
};

use super::{
    Counts, HeldJob, LeaseToken, QueueSettings, end_run, lock_held, requeue, set_cancelled, set_failed,
};
use crate::{
    Store, StoreError,
    adapters::NewAdapterVersion,
    events::{self, NewEvent},
    files::{StoredFile, to_json},
    jobs::JobError,
    notifications::{notify_job_queued, notify_job_updated},
    publication::{self, Publication},
};

/// What a finished run hands over.
#[derive(Debug, Clone)]
pub struct Completion {
    /// The version to be published.
    pub version: NewAdapterVersion,
    /// All metrics as one file, where it was made.
    pub metrics_file: Option<StoredFile>,
    /// Optimizer steps done.
    pub steps: i64,
}

/// The version that a job made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The row.
    pub version_id: AdapterVersionId,
    /// Its number.
    pub number: i32,
}

/// Publishes the adapter version and ends the job as succeeded, all or nothing. A cancel request that came too late has
/// no effect. After a lost answer, calling again gives [`StoreError::LeaseLost`]; the job then shows what happened.
///
/// # Errors
/// [`StoreError::LeaseLost`]: nothing is published.
pub async fn complete(
    store: &Store,
    token: &LeaseToken,
    completion: &Completion,
) -> Result<Published, StoreError> {
    let mut transaction = store.pool().begin().await?;
    let held = lock_held(&mut transaction, token).await?;
    let publication = Publication {
        organization: held.organization_id,
        job: Some(token.job_id),
        checkpoint_step: None,
        adapter: &held.adapter,
        base_model: held.base_model_id,
    };
    let (version_id, number) =
        publication::publish(&mut transaction, &publication, &completion.version).await?;
    sqlx::query!(
        "update jobs
         set state = 'succeeded', lease_id = null, lease_until = null, worker = null, finished_at = clock_timestamp(),
             adapter_version_id = $4, metrics_file = $5, step = $6
         where id = $1 and epoch = $2 and lease_id = $3 and state = 'running'",
        token.job_id.uuid(),
        token.epoch,
        token.lease_id,
        version_id.uuid(),
        completion.metrics_file.as_ref().map(to_json),
        completion.steps,
    )
    .execute(&mut *transaction)
    .await?;
    end_run(&mut transaction, token, RunOutcome::Succeeded, None).await?;
    let message = format!("the job has made {}@{number}", held.adapter);
    let event = NewEvent::new(EventLevel::Info, "succeeded", message)
        .with(json!({"adapter": held.adapter, "version": number, "adapter_version": version_id}));
    conclude(&mut transaction, token, &held, &event).await?;
    transaction.commit().await?;
    Ok(Published { version_id, number })
}

/// Why a run failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFailure {
    /// For the job's owner.
    pub error: JobError,
    /// Whether another attempt may go better.
    pub retryable: bool,
    /// Whose fault it was.
    pub blame: Blame,
}

/// Whose fault it was that a run failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The run's own. It uses up an attempt.
    Own,
    /// That of one of the jobs which the trainer trained together, and nobody knows which. The job is tried again, uses
    /// no attempt, and trains alone from now on; so the culprit shows itself, and the others lose only time.
    Shared,
    /// Another job's. This one is tried again and uses no attempt.
    Other,
}

/// What became of a job whose run failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailOutcome {
    /// It is tried again after this pause.
    Requeued(Duration),
    /// It has failed for good.
    Failed,
    /// Somebody had asked to cancel it, so it is not tried again.
    Cancelled,
}

/// Ends a run with an error: the job goes back to the queue, or fails. See [`Blame`] for what counts as an attempt.
///
/// # Errors
/// [`StoreError::LeaseLost`].
pub async fn fail(
    store: &Store,
    settings: &QueueSettings,
    token: &LeaseToken,
    failure: &RunFailure,
) -> Result<FailOutcome, StoreError> {
    let mut transaction = store.pool().begin().await?;
    let held = lock_held(&mut transaction, token).await?;
    let own = failure.blame == Blame::Own;
    let counts = Counts {
        attempt: own,
        rescue: false,
        alone: failure.blame == Blame::Shared,
    };
    let failures = held.attempts + i32::from(own);
    let again = !own || (failure.retryable && failures < held.max_attempts);
    let data = json!({"code": failure.error.code, "attempt": failures, "max_attempts": held.max_attempts});
    let (outcome, event) = if held.cancel_requested && (failure.retryable || !own) {
        set_cancelled(&mut transaction, token, counts).await?;
        let event = NewEvent::new(
            EventLevel::Warn,
            "cancelled",
            "the run failed after the job was to be cancelled",
        );
        (FailOutcome::Cancelled, event)
    } else if again {
        let pause = settings.back_off(failures.max(1));
        requeue(&mut transaction, token, pause, counts).await?;
        notify_job_queued(&mut transaction, token.job_id).await?;
        let message = format!("the run failed and is tried again: {}", failure.error.message);
        (
            FailOutcome::Requeued(pause),
            NewEvent::new(EventLevel::Warn, "retrying", message),
        )
    } else {
        set_failed(&mut transaction, token, &failure.error, counts).await?;
        (
            FailOutcome::Failed,
            NewEvent::new(EventLevel::Error, "failed", failure.error.message.clone()),
        )
    };
    end_run(&mut transaction, token, RunOutcome::Failed, Some(&failure.error)).await?;
    conclude(&mut transaction, token, &held, &event.with(data)).await?;
    transaction.commit().await?;
    Ok(outcome)
}

/// What became of a job that its worker gave back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReleaseOutcome {
    /// Another worker may take it at once.
    Requeued,
    /// Somebody had asked to cancel it.
    Cancelled,
}

/// Gives a job back because the worker goes away. No attempt is used.
///
/// # Errors
/// [`StoreError::LeaseLost`].
pub async fn release(store: &Store, token: &LeaseToken) -> Result<ReleaseOutcome, StoreError> {
    let mut transaction = store.pool().begin().await?;
    let held = lock_held(&mut transaction, token).await?;
    let (outcome, event) = if held.cancel_requested {
        set_cancelled(&mut transaction, token, Counts::default()).await?;
        end_run(&mut transaction, token, RunOutcome::Cancelled, None).await?;
        (
            ReleaseOutcome::Cancelled,
            NewEvent::new(EventLevel::Info, "cancelled", "the job was cancelled"),
        )
    } else {
        requeue(&mut transaction, token, Duration::ZERO, Counts::default()).await?;
        end_run(&mut transaction, token, RunOutcome::Released, None).await?;
        notify_job_queued(&mut transaction, token.job_id).await?;
        let message = "the worker goes away; the job goes on elsewhere from its last checkpoint";
        (
            ReleaseOutcome::Requeued,
            NewEvent::new(EventLevel::Info, "released", message),
        )
    };
    conclude(&mut transaction, token, &held, &event).await?;
    transaction.commit().await?;
    Ok(outcome)
}

/// Ends a job as cancelled, after its child has stopped.
///
/// # Errors
/// [`StoreError::LeaseLost`]; [`StoreError::Conflict`] `cancel_not_requested` where nobody asked.
pub async fn finish_cancel(store: &Store, token: &LeaseToken) -> Result<(), StoreError> {
    let mut transaction = store.pool().begin().await?;
    let held = lock_held(&mut transaction, token).await?;
    if !held.cancel_requested {
        return Err(StoreError::conflict(
            "cancel_not_requested",
            None,
            "Nobody asked to cancel this job.",
        ));
    }
    set_cancelled(&mut transaction, token, Counts::default()).await?;
    end_run(&mut transaction, token, RunOutcome::Cancelled, None).await?;
    let event = NewEvent::new(EventLevel::Info, "cancelled", "the job was cancelled");
    conclude(&mut transaction, token, &held, &event).await?;
    transaction.commit().await?;
    Ok(())
}

/// Notes how a run ended, and tells those who watch.
async fn conclude(
    connection: &mut PgConnection,
    token: &LeaseToken,
    held: &HeldJob,
    event: &NewEvent,
) -> Result<(), StoreError> {
    events::append(connection, held.organization_id, token.job_id, event).await?;
    notify_job_updated(connection, token.job_id).await
}
