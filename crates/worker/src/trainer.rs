//! A trainer, from the runs' side: a base model that is loaded in a child process, where jobs take seats.

use std::{
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::{
    sync::mpsc::{self, UnboundedSender},
    task::JoinHandle,
};
use tunesmith_store::{
    base_models::BaseModel,
    queue::{Blame, ClaimedJob},
};
use tunesmith_types::{hyperparameters::TrainingDtype, ids::BaseModelId, trainer::TrainerEvent};

use crate::{
    failure::Failure,
    process::{Process, live},
    run::WorkerContext,
    scratch::RunDirectory,
    seats::{Request, SeatEvent, Seated, Stop},
    spec::job_spec,
};

/// What the trainer's own task lets others see.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// Jobs in it.
    pub(crate) seats: AtomicUsize,
    /// The number format that the device gets, known once the base model is loaded.
    pub(crate) resolved: OnceLock<TrainingDtype>,
    /// Why it is gone.
    pub(crate) death: OnceLock<Failure>,
}

impl Standing {
    /// For a job that comes when the trainer is gone. One that was never ready would have failed this job too.
    fn too_late(&self) -> Failure {
        let message = "The trainer ended before the job could join it.";
        let gone = Failure::retryable("trainer_gone", message);
        if self.resolved.get().is_some() {
            return gone.blame(Blame::Other);
        }
        self.death.get().cloned().unwrap_or(gone)
    }
}

/// A trainer; its process is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Trainer {
    base_model: BaseModelId,
    dtype: TrainingDtype,
    desk: Desk,
    task: JoinHandle<()>,
}

impl Trainer {
    /// Begins to stage and load the job's base model, once the trainer `before` is gone. What goes wrong is told to
    /// those who take seats.
    pub(crate) fn start(
        context: &Arc<WorkerContext>,
        job: &ClaimedJob,
        device: &str,
        before: Option<Self>,
    ) -> Self {
        let (requests, received) = mpsc::unbounded_channel();
        let standing = Arc::new(Standing::default());
        let process = Process {
            context: Arc::clone(context),
            base_model: job.base_model.clone(),
            dtype: job.hyperparameters.dtype,
            device: device.to_owned(),
            standing: Arc::clone(&standing),
        };
        let task = tokio::spawn(async move {
            if let Some(before) = before {
                before.finish().await;
            }
            live(process, received).await;
        });
        let BaseModel { id, .. } = job.base_model;
        Self {
            base_model: id,
            dtype: job.hyperparameters.dtype,
            desk: Desk {
                requests,
                standing,
                joined: Arc::default(),
            },
            task,
        }
    }

    pub(crate) fn desk(&self) -> Desk {
        self.desk.clone()
    }

    pub(crate) const fn base_model(&self) -> BaseModelId {
        self.base_model
    }

    pub(crate) fn is_alive(&self) -> bool {
        !self.desk.requests.is_closed()
    }

    /// Number formats, as jobs ask for them, that come to the one which is loaded.
    pub(crate) fn dtypes(&self) -> Vec<TrainingDtype> {
        let resolved = self.desk.standing.resolved.get().copied();
        let also = resolved.filter(|resolved| *resolved != self.dtype);
        [self.dtype].into_iter().chain(also).collect()
    }

    /// Whether the job can be trained in it.
    pub(crate) fn serves(&self, job: &ClaimedJob) -> bool {
        self.is_alive()
            && self.base_model == job.base_model.id
            && self.dtypes().contains(&job.hyperparameters.dtype)
    }

    /// Ends a trainer without jobs; returns when the process is gone.
    pub(crate) async fn finish(mut self) {
        // Where it is gone already, nobody hears this.
        let _ = self.desk.requests.send(Request::Finish);
        if let Err(error) = (&mut self.task).await {
            tracing::error!(%error, "the trainer's task panicked");
        }
    }
}

impl Drop for Trainer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where runs ask for seats.
#[derive(Debug, Clone)]
pub(crate) struct Desk {
    requests: UnboundedSender<Request>,
    standing: Arc<Standing>,
    joined: Arc<AtomicU64>,
}

impl Desk {
    /// Has the job trained, from the checkpoint `resume` where one is given.
    pub(crate) fn join(
        &self,
        job: &ClaimedJob,
        directory: &Arc<RunDirectory>,
        resume: Option<&Path>,
    ) -> Seat {
        let number = self.joined.fetch_add(1, Ordering::Relaxed);
        // A run that falls back to an older checkpoint joins again.
        let id = format!("{}.{number}", job.token.job_id);
        let spec = job_spec(id.clone(), directory, job, resume);
        let (seated, events) = Seated::new(Arc::clone(directory));
        // Where the trainer is gone, the seat says so.
        let _ = self.requests.send(Request::Join(Box::new(spec), seated));
        Seat {
            id,
            events,
            desk: self.clone(),
            ended: false,
        }
    }
}

/// A job's place in the trainer. Dropped before the job's last event, the job is cancelled there.
#[derive(Debug)]
pub(crate) struct Seat {
    id: String,
    events: mpsc::Receiver<SeatEvent>,
    desk: Desk,
    ended: bool,
}

impl Seat {
    /// The next event. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> SeatEvent {
        let event = self
            .events
            .recv()
            .await
            .unwrap_or_else(|| SeatEvent::Gone(self.desk.standing.too_late(), String::new()));
        self.ended = match &event {
            SeatEvent::Joined => false,
            SeatEvent::Event(event) => matches!(
                event,
                TrainerEvent::Finished { .. } | TrainerEvent::Stopped { .. }
            ),
            SeatEvent::Failed(..) | SeatEvent::Gone(..) => true,
        };
        event
    }

    /// Has the job stopped; if the trainer does not obey in time it is killed, and the seat says so.
    pub(crate) fn stop(&self, stop: Stop) {
        let _ = self.desk.requests.send(Request::Stop(self.id.clone(), stop));
    }

    /// Jobs in the trainer, which take turns.
    pub(crate) fn jobs(&self) -> usize {
        self.desk.standing.seats.load(Ordering::Relaxed)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.desk.requests.send(Request::Leave(self.id.clone()));
        }
    }
}
