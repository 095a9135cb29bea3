//! Watching one child from its start to its end.

use std::path::Path;

use serde_json::json;
use tokio::time::Instant;
use tunesmith_store::{
    events::NewEvent,
    metrics::NewMetric,
    queue::{self, ClaimedJob, RunStart},
};
use tunesmith_types::{
    names::Sha256Digest,
    states::EventLevel,
    trainer::{TrainerCommand, TrainerEvent},
};

use crate::{
    arguments::train_arguments,
    checkpoint_upload::{CheckpointUploader, UploadContext},
    child::{Output, TrainerChild},
    failure::{Failure, chain},
    lease::{Lease, LeaseHandle},
    metrics_writer::MetricsWriter,
    persist::persist,
    publish::Finished,
    run::WorkerContext,
    scratch::RunDirectory,
    watchdog::Watchdog,
};

/// Warnings of one run that become events.
const MOST_WARNINGS: u32 = 20;

/// How a child ended.
#[derive(Debug)]
pub(crate) enum ChildEnd {
    /// It says that its output is whole.
    Finished(Finished),
    /// Stopped, or killed, because the job is to be cancelled.
    Cancelled,
    /// Stopped, or killed, because the worker goes away.
    Drained,
    /// With an error; the end of its log.
    Failed(Failure, String),
}

/// What a child is started with.
pub(crate) struct Start<'a> {
    pub(crate) context: &'a WorkerContext,
    pub(crate) job: &'a ClaimedJob,
    pub(crate) lease: &'a Lease,
    pub(crate) directory: &'a RunDirectory,
    pub(crate) config_hash: &'a Sha256Digest,
    pub(crate) resume: Option<&'a Path>,
    pub(crate) device: &'a str,
}

/// Starts the trainer and stays with it until it is gone, its metrics are written and its checkpoints uploaded.
pub(crate) async fn train(start: &Start<'_>) -> ChildEnd {
    let settings = &start.context.settings;
    let arguments = train_arguments(
        start.directory,
        start.job,
        start.resume,
        start.device,
        settings.trainer.threads,
    );
    let child = match TrainerChild::spawn(&settings.trainer.program, arguments, start.directory.root()) {
        Ok(child) => child,
        Err(error) => {
            tracing::error!(program = %settings.trainer.program.display(), %error, "the trainer cannot be started");
            return ChildEnd::Failed(Failure::not_started(&error), String::new());
        }
    };
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
        child,
        metrics: MetricsWriter::start(start.context.store.clone(), lease.clone(), &settings.timings),
        uploader: CheckpointUploader::start(uploads),
        lease,
        watchdog: Watchdog::new(&settings.timings),
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
}

#[derive(Debug)]
enum Ending {
    Finished(Finished),
    Stopped,
    Failed(Failure),
}

struct Supervisor<'a> {
    start: &'a Start<'a>,
    child: TrainerChild,
    metrics: MetricsWriter,
    uploader: CheckpointUploader,
    lease: LeaseHandle,
    watchdog: Watchdog,
    /// Why the child was told to stop, and when it is killed if it does not.
    stopping: Option<(StopCause, Instant)>,
    ending: Option<Ending>,
    last_checkpoint: Option<u64>,
    warnings: u32,
}

impl Supervisor<'_> {
    /// Until the child has said its last word, closed its output, or been killed.
    async fn watch(&mut self) {
        while self.ending.is_none() {
            let cause = self.stopping.map(|(cause, _)| cause);
            let deadline = self
                .stopping
                .map_or_else(|| self.watchdog.deadline(), |(_, deadline)| deadline);
            tokio::select! {
                output = self.child.next() => match output {
                    Output::Event(event) => self.event(event).await,
                    Output::Violation(what) => {
                        self.ending = Some(Ending::Failed(Failure::protocol(what)));
                        self.child.kill();
                    }
                    Output::End => return,
                },
                () = self.start.lease.cancel_requested(), if cause != Some(StopCause::Cancel) => {
                    self.stop(StopCause::Cancel).await;
                }
                () = self.start.context.draining.cancelled(), if cause.is_none() => {
                    self.stop(StopCause::Drain).await;
                }
                () = tokio::time::sleep_until(deadline) => return self.overdue(),
            }
        }
    }

    async fn stop(&mut self, cause: StopCause) {
        let timings = &self.start.context.settings.timings;
        let (command, grace) = match cause {
            StopCause::Cancel => (TrainerCommand::Cancel, timings.cancel_grace),
            StopCause::Drain => (TrainerCommand::Drain, timings.drain_grace),
        };
        tracing::info!(job = %self.lease.token.job_id, ?command, "telling the trainer to stop");
        self.stopping = Some((cause, Instant::now() + grace));
        // A child that does not read blocks a write only when the pipe is full of commands, which two never do.
        self.child.command(command).await;
    }

    /// Nothing came in time.
    fn overdue(&mut self) {
        tracing::warn!(job = %self.lease.token.job_id, stopping = ?self.stopping, "the trainer is overdue; killing it");
        if self.stopping.is_none() {
            self.ending = Some(Ending::Failed(Failure::no_progress(self.watchdog.patience())));
        }
        self.child.kill();
    }

    async fn event(&mut self, event: TrainerEvent) {
        match event {
            TrainerEvent::Started { .. } => self.started(&event).await,
            TrainerEvent::Step(step) => {
                self.watchdog.step(step.seconds);
                self.metrics.push(NewMetric::from(&step));
            }
            TrainerEvent::Evaluation {
                step,
                loss,
                token_accuracy,
                ..
            } => {
                self.watchdog.progress();
                self.metrics
                    .push(NewMetric::evaluation(step, loss, token_accuracy));
            }
            TrainerEvent::Checkpoint { step, path } => self.checkpoint(step, &path),
            TrainerEvent::Warning { message } => self.warning(message).await,
            TrainerEvent::Finished { steps, path } => {
                let folder = path.into();
                self.ending = Some(Ending::Finished(Finished { steps, folder }));
            }
            TrainerEvent::Stopped { step, checkpoint, .. } => {
                if let Some(path) = checkpoint {
                    self.checkpoint(step, &path);
                }
                self.ending = Some(Ending::Stopped);
            }
            TrainerEvent::Failed { code, message } => {
                let message = self.start.directory.hide_in(&message);
                self.ending = Some(Ending::Failed(Failure::reported(code, message)));
            }
        }
    }

    async fn started(&mut self, event: &TrainerEvent) {
        self.watchdog.progress();
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
        self.watchdog.progress();
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

    /// Waits for the child to be gone and for what it left to be safe.
    async fn conclude(mut self) -> ChildEnd {
        let timings = &self.start.context.settings.timings;
        let status = self.child.wait(timings.exit_grace).await;
        let log = self.start.directory.hide_in(&self.child.log_tail().await);
        self.metrics.finish().await;
        let cause = self.stopping.map(|(cause, _)| cause);
        if cause != Some(StopCause::Cancel) {
            self.uploader.finish(timings.upload_grace).await;
        }
        match (self.ending, cause) {
            (Some(Ending::Finished(finished)), _) => ChildEnd::Finished(finished),
            (_, Some(StopCause::Cancel)) => ChildEnd::Cancelled,
            (Some(Ending::Failed(failure)), _) => ChildEnd::Failed(failure, log),
            (_, Some(StopCause::Drain)) => ChildEnd::Drained,
            (Some(Ending::Stopped), None) => {
                ChildEnd::Failed(Failure::protocol("it stopped without being told to"), log)
            }
            (None, None) => match status {
                Ok(status) => ChildEnd::Failed(Failure::exited(status), log),
                Err(error) => ChildEnd::Failed(Failure::disk("wait for the trainer", &error), log),
            },
        }
    }
}

/// The end of a child's log, for the job's events.
pub(crate) fn log_event(failure: &Failure, log: &str) -> NewEvent {
    NewEvent::new(EventLevel::Error, "trainer_log", "the end of the trainer's log")
        .with(json!({"code": failure.code, "log": log}))
}
