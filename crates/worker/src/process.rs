//! The task that owns a trainer's process: it passes events to the seats and commands to the child, and ends the child
//! when it must.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::sync::mpsc::UnboundedReceiver;
use tunesmith_store::base_models::BaseModel;
use tunesmith_types::{
    hyperparameters::TrainingDtype,
    trainer::{TrainerCommand, TrainerEvent, TrainerLine},
};

use crate::{
    child::{Output, TrainerChild},
    failure::Failure,
    run::WorkerContext,
    scratch::TrainerDirectory,
    seats::{Request, Seats},
    spec::gang_spec,
    stage::base_model_details,
    trainer::Standing,
    watchdog::{Watchdog, until},
};

/// How often a run that is behind with its events is looked at again.
const BACKLOG_PAUSE: Duration = Duration::from_millis(20);

/// What a process is started with.
pub(crate) struct Process {
    pub(crate) context: Arc<WorkerContext>,
    pub(crate) base_model: BaseModel,
    pub(crate) dtype: TrainingDtype,
    pub(crate) device: String,
    pub(crate) standing: Arc<Standing>,
}

/// From staging the base model to the end of the child. Returns early where everybody has lost interest.
pub(crate) async fn live(process: Process, mut requests: UnboundedReceiver<Request>) {
    let mut seats = Seats::new(process.context.settings.timings);
    let started = {
        let starting = process.start();
        tokio::pin!(starting);
        loop {
            tokio::select! {
                started = &mut starting => break started,
                request = requests.recv() => match request {
                    // Nothing is sent to a child that is not there yet.
                    Some(Request::Join(job, seat)) => drop(seats.join(job, seat)),
                    Some(Request::Stop(id, stop)) => drop(seats.stop(id, stop)),
                    Some(Request::Leave(id)) => drop(seats.leave(id)),
                    Some(Request::Finish) | None => return,
                },
            }
            process.standing.seats.store(seats.len(), Ordering::Relaxed);
        }
    };
    match started {
        Ok((directory, child)) => {
            let keeper = Keeper {
                watchdog: Watchdog::new(&process.context.settings.timings),
                process: &process,
                directory,
                child,
                seats,
                requests,
            };
            keeper.keep().await;
        }
        Err(failure) => {
            let _ = process.standing.death.set(failure.clone());
            requests.close();
            while let Ok(Request::Join(job, seat)) = requests.try_recv() {
                drop(seats.join(job, seat));
            }
            seats.gone(&failure, "");
        }
    }
}

impl Process {
    async fn start(&self) -> Result<(TrainerDirectory, TrainerChild), Failure> {
        let context = &self.context;
        let settings = &context.settings;
        let disk = |error| Failure::disk("make the trainer's directory", &error);
        let directory = context.scratch.trainer_directory().map_err(disk)?;
        let base = base_model_details(&self.base_model)?;
        context
            .cache
            .stage(&context.blobs, &base.files, &directory.base())
            .await?;
        let spec = gang_spec(
            &directory,
            &self.base_model.name,
            self.dtype,
            &self.device,
            settings.trainer.threads,
        );
        let text = serde_json::to_vec(&spec).expect("invariant: a specification serialises");
        std::fs::write(directory.spec(), text).map_err(disk)?;
        let arguments = vec!["gang".into(), "--supervised".into(), directory.spec().into()];
        let program: &Path = &settings.trainer.program;
        let child = TrainerChild::spawn(program, arguments, directory.root()).map_err(|error| {
            tracing::error!(program = %program.display(), %error, "the trainer cannot be started");
            Failure::not_started(&error)
        })?;
        tracing::info!(base_model = %self.base_model.name, device = self.device, pid = child.id(), "a trainer is started");
        Ok((directory, child))
    }
}

/// Holds a child that runs.
struct Keeper<'a> {
    process: &'a Process,
    directory: TrainerDirectory,
    child: TrainerChild,
    seats: Seats,
    requests: UnboundedReceiver<Request>,
    watchdog: Watchdog,
}

/// Why the child ends.
enum End {
    /// It was idle and has been told to.
    Finish,
    /// It has closed its output, or said that it gives up.
    Leaves(Option<Failure>),
    /// It must.
    Kill(Failure),
}

impl Keeper<'_> {
    async fn keep(mut self) {
        let end = loop {
            self.process
                .standing
                .seats
                .store(self.seats.len(), Ordering::Relaxed);
            if let Some(end) = self.next().await {
                break end;
            }
        };
        self.conclude(end).await;
    }

    /// Waits for one thing and does what follows from it.
    async fn next(&mut self) -> Option<End> {
        let room = self.seats.have_room();
        // An idle child may be silent for as long as it likes, once it is ready.
        let watched = !self.seats.is_empty() || self.process.standing.resolved.get().is_none();
        let silence = self.watchdog.deadline(1);
        tokio::select! {
            biased;
            request = self.requests.recv() => self.request(request),
            () = until(self.seats.deadline()) => {
                tracing::warn!(pid = self.child.id(), "the trainer does not obey");
                Some(End::Kill(Failure::retryable("trainer_killed", "The trainer did not stop a job in time.")))
            }
            output = self.child.next(), if room => match output {
                Output::Line(line) => self.line(line),
                Output::Violation(what) => Some(End::Kill(Failure::protocol(what))),
                Output::End => Some(End::Leaves(None)),
            },
            () = tokio::time::sleep(BACKLOG_PAUSE), if !room => {
                self.watchdog.progress();
                None
            }
            () = tokio::time::sleep_until(silence), if watched => {
                Some(End::Kill(Failure::no_progress(self.watchdog.patience())))
            }
        }
    }

    fn request(&mut self, request: Option<Request>) -> Option<End> {
        let command = match request {
            None | Some(Request::Finish) => return Some(End::Finish),
            Some(Request::Join(job, seat)) => {
                if self.seats.is_empty() {
                    self.child.forget_log();
                }
                self.watchdog.progress();
                self.seats.join(job, seat)
            }
            Some(Request::Stop(id, stop)) => self.seats.stop(id, stop),
            Some(Request::Leave(id)) => self.seats.leave(id),
        };
        if let Some(command) = command {
            self.child.command(command);
        }
        // Nobody is left whose lease would be harmed.
        self.seats
            .all_abandoned()
            .then(|| End::Kill(Failure::retryable("trainer_killed", "All leases are lost.")))
    }

    fn line(&mut self, line: TrainerLine) -> Option<End> {
        let TrainerLine { job, mut event } = line;
        if let TrainerEvent::Failed { message, .. } | TrainerEvent::Warning { message } = &mut event {
            *message = self.directory.hide_in(message);
        }
        match (job, event) {
            (Some(id), event) => {
                match &event {
                    TrainerEvent::Step(step) => self.watchdog.step(step.seconds),
                    TrainerEvent::Warning { .. } => {}
                    _ => self.watchdog.progress(),
                }
                self.seats.tell(&id, event, || self.child.log_so_far());
                None
            }
            (
                None,
                TrainerEvent::Ready {
                    device,
                    dtype,
                    seconds,
                },
            ) => {
                self.ready(&device, &dtype, seconds);
                None
            }
            (None, TrainerEvent::Failed { code, message }) => {
                tracing::warn!(code, message, "the trainer gives up");
                Some(End::Leaves(Some(Failure::reported(code, message))))
            }
            (None, event) => {
                tracing::warn!(?event, "the trainer says something about nobody");
                None
            }
        }
    }

    fn ready(&mut self, device: &str, dtype: &str, seconds: f64) {
        tracing::info!(
            pid = self.child.id(),
            device,
            dtype,
            seconds,
            "the trainer is ready"
        );
        self.watchdog.progress();
        let resolved = match dtype {
            "bfloat16" => TrainingDtype::Bfloat16,
            "float32" => TrainingDtype::Float32,
            _ => self.process.dtype,
        };
        // A child that says it twice is ready all the same.
        let _ = self.process.standing.resolved.set(resolved);
        for command in self.seats.open() {
            self.child.command(command);
        }
    }

    async fn conclude(mut self, end: End) {
        // From now on nobody takes a seat; who has just asked for one learns that it is gone.
        self.requests.close();
        let cause = match end {
            End::Finish => {
                self.child.command(TrainerCommand::Finish);
                None
            }
            End::Leaves(cause) => cause,
            End::Kill(failure) => {
                tracing::warn!(pid = self.child.id(), failure.message, "killing the trainer");
                self.child.kill();
                Some(failure)
            }
        };
        let status = self
            .child
            .wait(self.process.context.settings.timings.exit_grace)
            .await;
        tracing::info!(pid = self.child.id(), ?status, "a trainer has ended");
        let failure = cause.unwrap_or_else(|| match status {
            Ok(status) => Failure::exited(status),
            Err(error) => Failure::disk("wait for the trainer", &error),
        });
        let log = self.directory.hide_in(&self.child.log_tail().await);
        if !log.is_empty() && !self.seats.is_empty() {
            tracing::warn!(log, "the end of the trainer's log");
        }
        // Before the queue of requests is dropped, by which late comers learn of it.
        let _ = self.process.standing.death.set(failure.clone());
        self.seats.gone(&failure, &log);
    }
}
