//! Watching one job in its trainer, from its first event to its last.

use std::{path::Path, sync::Arc};

use serde_json::json;
use tunesmith_store::{
    events::NewEvent,
    metrics::NewMetric,
    queue::{self, ClaimedJob, RunStart},
};
use tunesmith_types::{names::Sha256Digest, states::EventLevel, trainer::TrainerEvent};

use crate::{
    checkpoint_upload::{CheckpointUploader, UploadContext},
    failure::{Failure, chain},
    lease::{Lease, LeaseHandle},
    metrics_writer::MetricsWriter,
    persist::persist,
    publish::Finished,
    run::WorkerContext,
    scratch::RunDirectory,
    seats::{SeatEvent, Stop},
    trainer::{Desk, Seat},
    watchdog::{Watchdog, until},
};

/// Warnings of one run that become events.
const MOST_WARNINGS: u32 = 20;

/// How the training of a job ended.
#[derive(Debug)]
pub(crate) enum TrainingEnd {
    /// The trainer says that the output is whole.
    Finished(Finished),
    /// Stopped because the job is to be cancelled.
    Cancelled,
    /// Stopped because the worker goes away.
    Drained,
    /// With an error; the end of the trainer's log.
    Failed(Failure, String),
}

/// What a training is started with.
pub(crate) struct Start<'a> {
    pub(crate) context: &'a WorkerContext,
    pub(crate) job: &'a ClaimedJob,
    pub(crate) lease: &'a Lease,
    pub(crate) directory: &'a Arc<RunDirectory>,
    pub(crate) config_hash: &'a Sha256Digest,
    pub(crate) resume: Option<&'a Path>,
    pub(crate) desk: &'a Desk,
}

/// Has the trainer train the job and stays with it until it has let go of it, the metrics are written and the
/// checkpoints uploaded.
pub(crate) async fn train(start: &Start<'_>) -> TrainingEnd {
    let settings = &start.context.settings;
    let lease = start.lease.handle();
    let uploads = UploadContext {
        store: start.context.store.clone(),
        blobs: start.context.blobs.clone(),
        lease: lease.clone(),
        config_hash: start.config_hash.clone(),
        retry: settings.timings.retry,
    };
    let mut supervisor = Supervisor {
        start,
        seat: start.desk.join(start.job, start.directory, start.resume),
        metrics: MetricsWriter::start(start.context.store.clone(), lease.clone(), &settings.timings),
        uploader: CheckpointUploader::start(uploads),
        lease,
        watchdog: None,
        stopping: None,
        ending: None,
        last_checkpoint: None,
        warnings: 0,
    };
    supervisor.watch().await;
    supervisor.conclude().await
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StopCause {
    Cancel,
    Drain,
    NoProgress,
}

#[derive(Debug)]
enum Ending {
    Finished(Finished),
    Stopped,
    Failed(Failure, String),
    /// The whole trainer is gone.
    Gone(Failure, String),
}

struct Supervisor<'a> {
    start: &'a Start<'a>,
    seat: Seat,
    metrics: MetricsWriter,
    uploader: CheckpointUploader,
    lease: LeaseHandle,
    /// None while the base model is staged and loaded, which takes what it takes.
    watchdog: Option<Watchdog>,
    /// Why the job was told to stop.
    stopping: Option<StopCause>,
    ending: Option<Ending>,
    last_checkpoint: Option<u64>,
    warnings: u32,
}

impl Supervisor<'_> {
    /// Until the job's last event, or the trainer's end.
    async fn watch(&mut self) {
        while self.ending.is_none() {
            let cause = self.stopping;
            // The whole trainer is watched too, and less patiently.
            let turns = u32::try_from(self.seat.jobs()).unwrap_or(u32::MAX).max(1);
            let silence = self
                .watchdog
                .as_ref()
                .map(|watchdog| watchdog.deadline(turns.saturating_add(1)));
            tokio::select! {
                event = self.seat.next() => match event {
                    SeatEvent::Joined => {
                        self.watchdog = Some(Watchdog::new(&self.start.context.settings.timings));
                    }
                    SeatEvent::Event(event) => self.event(event).await,
                    SeatEvent::Failed(failure, log) => self.ending = Some(Ending::Failed(failure, log)),
                    SeatEvent::Gone(failure, log) => self.ending = Some(Ending::Gone(failure, log)),
                },
                () = self.start.lease.cancel_requested(), if cause != Some(StopCause::Cancel) => {
                    self.stop(StopCause::Cancel);
                }
                () = self.start.context.draining.cancelled(), if cause.is_none() => self.stop(StopCause::Drain),
                () = until(silence), if cause.is_none() => self.stop(StopCause::NoProgress),
            }
        }
    }

    fn progress(&mut self) {
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.progress();
        }
    }

    fn stop(&mut self, cause: StopCause) {
        tracing::info!(job = %self.lease.token.job_id, ?cause, "telling the trainer to stop the job");
        self.stopping = Some(cause);
        self.seat.stop(match cause {
            StopCause::Cancel | StopCause::NoProgress => Stop::Cancel,
            StopCause::Drain => Stop::Drain,
        });
    }

    async fn event(&mut self, event: TrainerEvent) {
        match event {
            TrainerEvent::Started { .. } => self.started(&event).await,
            TrainerEvent::Step(step) => {
                if let Some(watchdog) = &mut self.watchdog {
                    watchdog.step(step.seconds);
                }
                self.metrics.push(NewMetric::from(&step));
            }
            TrainerEvent::Evaluation {
                step,
                loss,
                token_accuracy,
                ..
            } => {
                self.progress();
                self.metrics
                    .push(NewMetric::evaluation(step, loss, token_accuracy));
            }
            TrainerEvent::Checkpoint { step, path } => self.checkpoint(step, &path),
            TrainerEvent::Warning { message } => self.warning(message).await,
            TrainerEvent::Finished {
                steps,
                path,
                delivered_step,
                stopped_early,
            } => {
                let folder = path.into();
                self.ending = Some(Ending::Finished(Finished {
                    steps,
                    folder,
                    delivered_step,
                    stopped_early,
                }));
            }
            TrainerEvent::Stopped { step, checkpoint, .. } => {
                // A job that was stopped before it began names what it was to begin from.
                let new = checkpoint.filter(|path| self.start.resume != Some(Path::new(path)));
                if let Some(path) = new {
                    self.checkpoint(step, &path);
                }
                self.ending = Some(Ending::Stopped);
            }
            // Of the trainer as a whole, or told by the seat in another way.
            TrainerEvent::Ready { .. } | TrainerEvent::Failed { .. } => {}
        }
    }

    async fn started(&mut self, event: &TrainerEvent) {
        self.progress();
        let TrainerEvent::Started {
            total_steps,
            resumed_from_step,
            device,
            dtype,
            ..
        } = event
        else {
            return;
        };
        let message = match resumed_from_step {
            0 => format!("training begins: {total_steps} steps"),
            step => format!("training goes on from step {step} of {total_steps}"),
        };
        let data = serde_json::to_value(event).unwrap_or_default();
        let start = RunStart {
            total_steps: i64::try_from(*total_steps).unwrap_or(i64::MAX),
            resumed_from_step: i64::try_from(*resumed_from_step).unwrap_or(i64::MAX),
            device,
            dtype,
            event: &NewEvent::new(EventLevel::Info, "training", message).with(data),
        };
        let (context, token) = (self.start.context, self.lease.token);
        let retry = context.settings.timings.retry;
        let recorded = persist(retry, || queue::record_start(&context.store, &token, &start)).await;
        if let Err(error) = self.lease.check(recorded) {
            tracing::warn!(error = %chain(&error), "the start of training could not be recorded");
        }
    }

    /// A drain names its checkpoint again in the last event.
    fn checkpoint(&mut self, step: u64, path: &str) {
        self.progress();
        if self.last_checkpoint == Some(step) {
            return;
        }
        match self.uploader.take(self.start.directory, step, Path::new(path)) {
            Ok(()) => self.last_checkpoint = Some(step),
            Err(error) => tracing::warn!(step, %error, "a checkpoint cannot be taken from the trainer"),
        }
    }

    async fn warning(&mut self, message: String) {
        self.warnings += 1;
        if self.warnings <= MOST_WARNINGS {
            let message = self.start.directory.hide_in(&message);
            let event = NewEvent::new(EventLevel::Warn, "trainer_warning", message);
            self.start.context.note(&self.lease, &event).await;
        }
    }

    /// Waits for what the job has left to be safe.
    async fn conclude(self) -> TrainingEnd {
        self.metrics.finish().await;
        if self.stopping != Some(StopCause::Cancel) {
            self.uploader
                .finish(self.start.context.settings.timings.upload_grace)
                .await;
        }
        let hidden = |failure: Failure| Failure {
            message: self.start.directory.hide_in(&failure.message),
            ..failure
        };
        let hide = |log: String| self.start.directory.hide_in(&log);
        let ending = self
            .ending
            .expect("invariant: a job that is watched no more has ended");
        match (ending, self.stopping) {
            (Ending::Finished(finished), _) => TrainingEnd::Finished(finished),
            (_, Some(StopCause::Cancel)) => TrainingEnd::Cancelled,
            (Ending::Failed(failure, log), _) => TrainingEnd::Failed(hidden(failure), hide(log)),
            (_, Some(StopCause::Drain)) => TrainingEnd::Drained,
            (_, Some(StopCause::NoProgress)) => {
                let patience = self.watchdog.as_ref().map(Watchdog::patience);
                TrainingEnd::Failed(Failure::no_progress(patience.unwrap_or_default()), String::new())
            }
            (Ending::Gone(failure, log), None) => TrainingEnd::Failed(hidden(failure), hide(log)),
            (Ending::Stopped, None) => TrainingEnd::Failed(
                Failure::protocol("it stopped a job without being told to"),
                String::new(),
            ),
        }
    }
}

/// The end of a trainer's log, for the job's events.
pub(crate) fn log_event(failure: &Failure, log: &str) -> NewEvent {
    NewEvent::new(EventLevel::Error, "trainer_log", "the end of the trainer's log")
        .with(json!({"code": failure.code, "log": log}))
}
