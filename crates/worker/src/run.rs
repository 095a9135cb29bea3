//! One run: a claimed job from staging to its end.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tunesmith_blobs::Blobs;
use tunesmith_store::{
    Store, StoreError,
    checkpoints::Checkpoint,
    events::NewEvent,
    notifications::Notifications,
    queue::{self, ClaimedJob},
};
use tunesmith_types::{names::Sha256Digest, states::EventLevel};

use crate::{
    base_model_cache::BaseModelCache,
    failure::{Failure, chain},
    lease::{Lease, LeaseHandle},
    manifest::config_hash,
    persist::persist,
    publish::{self, Finished},
    scratch::{RunDirectory, Scratch},
    settings::WorkerSettings,
    stage::{StagedCheckpoint, base_model_details, stage_checkpoint, stage_data, stage_parent},
    supervise::{Start, TrainingEnd, log_event, train},
    trainer::Desk,
};

/// What all runs of a worker share.
pub(crate) struct WorkerContext {
    pub(crate) settings: WorkerSettings,
    pub(crate) store: Store,
    pub(crate) blobs: Blobs,
    pub(crate) cache: BaseModelCache,
    pub(crate) scratch: Scratch,
    pub(crate) notifications: Notifications,
    /// Set when the worker goes away.
    pub(crate) draining: CancellationToken,
}

impl WorkerContext {
    /// Records an event of the run.
    pub(crate) async fn note(&self, lease: &LeaseHandle, event: &NewEvent) {
        let retry = self.settings.timings.retry;
        let noted = persist(retry, || queue::record_event(&self.store, &lease.token, event)).await;
        if let Err(error) = lease.check(noted) {
            tracing::warn!(error = %chain(&error), code = event.code, "an event could not be recorded");
        }
    }
}

/// How a run ended, as the queue is told.
#[derive(Debug)]
enum RunEnd {
    /// The version is published; nothing is left to tell.
    Published,
    Failed(Failure),
    Cancelled,
    Released,
}

/// Has the job trained and tells the queue how it went. The moment the lease is lost everything stops, the trainer is
/// told to let go of the job, and nothing more is written. `claimed_at`: before the claim was sent.
pub(crate) async fn run_job(context: &WorkerContext, job: &ClaimedJob, desk: &Desk, claimed_at: Instant) {
    let lease = Lease::hold(
        context.store.clone(),
        context.settings.queue,
        context.settings.timings,
        job.token,
        claimed_at,
        context.notifications.subscribe(),
    );
    let work = async {
        let end = attempt(context, job, &lease, desk).await;
        settle(context, &lease.handle(), end).await;
    };
    tokio::select! {
        biased;
        () = work => {}
        () = lease.lost() => tracing::warn!(job = %job.token.job_id, "the run was given up"),
    }
}

async fn attempt(context: &WorkerContext, job: &ClaimedJob, lease: &Lease, desk: &Desk) -> RunEnd {
    let directory = match context.scratch.run_directory(job.run_id) {
        Ok(directory) => Arc::new(directory),
        Err(error) => return RunEnd::Failed(Failure::disk("make a run directory", &error)),
    };
    let staged = tokio::select! {
        () = lease.cancel_requested() => return RunEnd::Cancelled,
        () = context.draining.cancelled() => return RunEnd::Released,
        staged = stage(context, job, &directory) => staged,
    };
    let base = match staged.and_then(|()| base_model_details(&job.base_model)) {
        Ok(base) => base,
        Err(failure) => return RunEnd::Failed(failure),
    };
    let run = Run {
        context,
        job,
        lease,
        directory: &directory,
        config_hash: config_hash(job, base),
        desk,
    };
    run.train_and_publish().await
}

/// Everything but the checkpoints, whose order depends on how the training goes.
async fn stage(context: &WorkerContext, job: &ClaimedJob, directory: &RunDirectory) -> Result<(), Failure> {
    stage_data(&context.blobs, job, directory).await?;
    stage_parent(&context.blobs, job, directory).await
}

struct Run<'a> {
    context: &'a WorkerContext,
    job: &'a ClaimedJob,
    lease: &'a Lease,
    directory: &'a Arc<RunDirectory>,
    config_hash: Sha256Digest,
    desk: &'a Desk,
}

impl Run<'_> {
    /// Trains from the best checkpoint that can be used; where the trainer itself refuses one, from the one before.
    async fn train_and_publish(&self) -> RunEnd {
        let mut checkpoints = self.job.checkpoints.as_slice();
        loop {
            let resume = match self.next_checkpoint(&mut checkpoints).await {
                Ok(resume) => resume,
                Err(end) => return end,
            };
            let start = Start {
                context: self.context,
                job: self.job,
                lease: self.lease,
                directory: self.directory,
                config_hash: &self.config_hash,
                resume: resume.as_deref(),
                desk: self.desk,
            };
            if let Err(error) = self.directory.clear_outputs() {
                return RunEnd::Failed(Failure::disk("clear the run directory", &error));
            }
            match train(&start).await {
                TrainingEnd::Finished(finished) => return self.publish(&finished).await,
                TrainingEnd::Cancelled => return RunEnd::Cancelled,
                TrainingEnd::Drained => return RunEnd::Released,
                TrainingEnd::Failed(failure, log) => {
                    if !log.is_empty() {
                        let event = log_event(&failure, &log);
                        self.context.note(&self.lease.handle(), &event).await;
                    }
                    if resume.is_none() || !failure.blames_checkpoint() {
                        return RunEnd::Failed(failure);
                    }
                    tracing::warn!(job = %self.job.token.job_id, failure.message, "the trainer refused a checkpoint");
                }
            }
        }
    }

    /// Stages the next checkpoint that can be used; none means a fresh start.
    async fn next_checkpoint(&self, left: &mut &[Checkpoint]) -> Result<Option<std::path::PathBuf>, RunEnd> {
        while let Some((checkpoint, rest)) = left.split_first() {
            *left = rest;
            let staging = stage_checkpoint(
                &self.context.blobs,
                self.job,
                checkpoint,
                &self.config_hash,
                self.directory,
            );
            let staged = tokio::select! {
                () = self.lease.cancel_requested() => return Err(RunEnd::Cancelled),
                () = self.context.draining.cancelled() => return Err(RunEnd::Released),
                staged = staging => staged.map_err(RunEnd::Failed)?,
            };
            match staged {
                StagedCheckpoint::Ready(place) => return Ok(Some(place)),
                StagedCheckpoint::Unusable(reason) => self.note_unusable(checkpoint, &reason).await,
            }
        }
        if !self.job.checkpoints.is_empty() {
            let message = "no checkpoint can be used; training begins again at step 0";
            let event = NewEvent::new(EventLevel::Warn, "restarted", message);
            self.context.note(&self.lease.handle(), &event).await;
        }
        Ok(None)
    }

    async fn note_unusable(&self, checkpoint: &Checkpoint, reason: &str) {
        tracing::warn!(checkpoint = %checkpoint.id, reason, "a checkpoint cannot be used");
        let message = format!(
            "the checkpoint at step {} cannot be used: {reason}",
            checkpoint.step
        );
        let data = serde_json::json!({"checkpoint": checkpoint.id, "step": checkpoint.step});
        let event = NewEvent::new(EventLevel::Warn, "checkpoint_unusable", message).with(data);
        self.context.note(&self.lease.handle(), &event).await;
    }

    async fn publish(&self, finished: &Finished) -> RunEnd {
        let lease = self.lease.handle();
        let prepared = tokio::select! {
            biased;
            () = self.lease.cancel_requested() => return RunEnd::Cancelled,
            prepared = publish::prepare(self.context, self.job, &lease, self.directory, finished) => prepared,
        };
        let committed = match prepared {
            Ok(prepared) => publish::commit(self.context, &lease, &prepared).await,
            Err(failure) => Err(failure),
        };
        match committed {
            Ok(()) => RunEnd::Published,
            Err(failure) => RunEnd::Failed(failure),
        }
    }
}

/// Tells the queue, and waits for a database that is away.
async fn settle(context: &WorkerContext, lease: &LeaseHandle, end: RunEnd) {
    let (store, token, retry) = (&context.store, &lease.token, context.settings.timings.retry);
    let job = token.job_id;
    let told: Result<(), StoreError> = match end {
        RunEnd::Published => Ok(()),
        RunEnd::Cancelled => persist(retry, || queue::finish_cancel(store, token)).await,
        RunEnd::Released => persist(retry, || queue::release(store, token)).await.map(drop),
        RunEnd::Failed(failure) => {
            tracing::warn!(%job, code = failure.code, message = failure.message, "the run failed");
            let row = failure.to_row();
            let queue_settings = &context.settings.queue;
            persist(retry, || queue::fail(store, queue_settings, token, &row))
                .await
                .map(|outcome| {
                    tracing::info!(%job, ?outcome, "the queue knows");
                })
        }
    };
    if let Err(error) = lease.check(told) {
        tracing::warn!(%job, error = %chain(&error), "the end of the run could not be recorded");
    }
}
