//! The table of a trainer: who is being trained in it, and who must have left it by when.

use std::{collections::HashMap, sync::Arc};

use tokio::{sync::mpsc, time::Instant};
use tunesmith_store::queue::Blame;
use tunesmith_types::trainer::{JobSpec, StopReason, TrainerCommand, TrainerEvent};

use crate::{failure::Failure, scratch::RunDirectory, settings::WorkerTimings};

/// Events that wait for a run, one place being kept for the last word; while a run has so many, the child is not read.
const BACKLOG: usize = 1024;

/// What a run hears from its seat.
#[derive(Debug)]
pub(crate) enum SeatEvent {
    /// The base model is loaded and the child has been told of the job.
    Joined,
    /// The child said so.
    Event(TrainerEvent),
    /// The child gave up this job alone; the end of its log, where no other job's lines can be in it.
    Failed(Failure, String),
    /// The child is gone; likewise.
    Gone(Failure, String),
}

/// Why a job is to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    Cancel,
    Drain,
}

/// What runs ask of their trainer.
#[derive(Debug)]
pub(crate) enum Request {
    Join(Box<JobSpec>, Seated),
    Stop(String, Stop),
    /// The run is gone without its job having ended: its lease is lost.
    Leave(String),
    /// Nobody will join any more.
    Finish,
}

/// A job that was told to stop.
#[derive(Debug)]
struct Leaving {
    /// When the grace is over.
    by: Instant,
    /// Whether that is the end of it, also while the child is busy with others.
    strict: bool,
    /// Another job that has made a step since then. The child hears commands between steps, so with the next one it is
    /// plain that it does not obey.
    witness: Option<String>,
    disobeyed: bool,
}

impl Leaving {
    fn is_late(&self) -> bool {
        self.by <= Instant::now()
    }
}

/// One seat, from the table's side.
#[derive(Debug)]
pub(crate) struct Seated {
    events: mpsc::Sender<SeatEvent>,
    /// Kept until the child has let go of the job.
    _directory: Arc<RunDirectory>,
    /// Not told to the child yet, which is not ready.
    waiting: Option<Box<JobSpec>>,
    leaving: Option<Leaving>,
    /// Another job was in the child at the same time.
    company: bool,
    abandoned: bool,
}

impl Seated {
    /// A seat, and the other end of its events.
    pub(crate) fn new(directory: Arc<RunDirectory>) -> (Self, mpsc::Receiver<SeatEvent>) {
        let (events, receiver) = mpsc::channel(BACKLOG);
        let seated = Self {
            events,
            _directory: directory,
            waiting: None,
            leaving: None,
            company: false,
            abandoned: false,
        };
        (seated, receiver)
    }

    /// There is always a place for the last word; a run that is gone needs none.
    fn tell(&self, event: SeatEvent) {
        if let Err(mpsc::error::TrySendError::Full(event)) = self.events.try_send(event) {
            tracing::error!(?event, "an event of the trainer was lost");
        }
    }
}

/// All seats of a trainer.
#[derive(Debug)]
pub(crate) struct Seats {
    seats: HashMap<String, Seated>,
    timings: WorkerTimings,
    ready: bool,
}

impl Seats {
    pub(crate) fn new(timings: WorkerTimings) -> Self {
        Self {
            seats: HashMap::new(),
            timings,
            ready: false,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.seats.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// Whether every run can take another event.
    pub(crate) fn have_room(&self) -> bool {
        self.seats
            .values()
            .all(|seat| seat.abandoned || seat.events.capacity() > 1)
    }

    /// The child is ready: what it must hear first.
    pub(crate) fn open(&mut self) -> Vec<TrainerCommand> {
        self.ready = true;
        let mut commands = Vec::new();
        for seat in self.seats.values_mut() {
            if let Some(job) = seat.waiting.take() {
                seat.tell(SeatEvent::Joined);
                commands.push(TrainerCommand::Join { job });
            }
        }
        commands
    }

    pub(crate) fn join(&mut self, job: Box<JobSpec>, mut seat: Seated) -> Option<TrainerCommand> {
        seat.company = !self.seats.is_empty();
        for other in self.seats.values_mut() {
            other.company = true;
        }
        let id = job.id.clone();
        let command = if self.ready {
            seat.tell(SeatEvent::Joined);
            Some(TrainerCommand::Join { job })
        } else {
            seat.waiting = Some(job);
            None
        };
        self.seats.insert(id, seat);
        command
    }

    /// The child gets a grace to obey. A job that it has not heard of stops at once.
    pub(crate) fn stop(&mut self, id: String, stop: Stop) -> Option<TrainerCommand> {
        let seat = self.seats.get_mut(&id)?;
        if seat.waiting.is_some() {
            let stopped = TrainerEvent::Stopped {
                step: 0,
                reason: match stop {
                    Stop::Cancel => StopReason::Cancelled,
                    Stop::Drain => StopReason::Drained,
                },
                checkpoint: None,
            };
            seat.tell(SeatEvent::Event(stopped));
            self.seats.remove(&id);
            return None;
        }
        let job = Some(id);
        let (command, grace) = match stop {
            Stop::Cancel => (TrainerCommand::Cancel { job }, self.timings.cancel_grace),
            Stop::Drain => (TrainerCommand::Drain { job }, self.timings.drain_grace),
        };
        seat.leaving = Some(Leaving {
            by: Instant::now() + grace,
            strict: stop == Stop::Drain,
            witness: None,
            disobeyed: false,
        });
        Some(command)
    }

    /// As a cancel, for a run that hears nothing any more.
    pub(crate) fn leave(&mut self, id: String) -> Option<TrainerCommand> {
        if let Some(seat) = self.seats.get_mut(&id) {
            seat.abandoned = true;
        }
        self.stop(id, Stop::Cancel)
    }

    /// Whether there are seats, and all of them belong to runs that lost their lease.
    pub(crate) fn all_abandoned(&self) -> bool {
        !self.seats.is_empty() && self.seats.values().all(|seat| seat.abandoned)
    }

    /// When the child must be killed. For the sake of the others that is not before it has shown that it does not obey:
    /// a step, or an evaluation, may take longer than the grace.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let leaving = || self.seats.values().filter_map(|seat| seat.leaving.as_ref());
        let due = leaving().filter(|leaving| leaving.strict || leaving.disobeyed);
        let nobody_stays = leaving().count() == self.seats.len();
        let last = leaving().map(|leaving| leaving.by).max().filter(|_| nobody_stays);
        due.map(|leaving| leaving.by).chain(last).min()
    }

    /// A job has made a step; those who are late to leave should have left before.
    fn witness(&mut self, id: &str) {
        let here: Vec<String> = self.seats.keys().cloned().collect();
        for (other, seat) in &mut self.seats {
            let Some(leaving) = seat.leaving.as_mut().filter(|leaving| leaving.is_late()) else {
                continue;
            };
            if other == id {
                continue;
            }
            match &leaving.witness {
                Some(witness) if witness == id => leaving.disobeyed = true,
                Some(witness) if here.contains(witness) => {}
                _ => leaving.witness = Some(id.to_owned()),
            }
        }
    }

    /// Passes an event on. With the last one of a job, its seat is free. `log`: the end of the child's log.
    pub(crate) fn tell(&mut self, id: &str, event: TrainerEvent, log: impl FnOnce() -> String) {
        if matches!(event, TrainerEvent::Step(_)) {
            self.witness(id);
        }
        let Some(seat) = self.seats.get(id) else {
            tracing::debug!(id, ?event, "an event of a job that is not in the trainer");
            return;
        };
        let last = matches!(
            event,
            TrainerEvent::Finished { .. } | TrainerEvent::Stopped { .. } | TrainerEvent::Failed { .. }
        );
        seat.tell(match event {
            TrainerEvent::Failed { code, message } => {
                let failure = Failure::reported(code, message);
                if seat.company {
                    SeatEvent::Failed(failure.in_company(), String::new())
                } else {
                    SeatEvent::Failed(failure, log())
                }
            }
            event => SeatEvent::Event(event),
        });
        if last {
            self.seats.remove(id);
        }
    }

    /// The child is gone. Who was late to leave is to blame for that, else who was alone in it, else nobody knows who;
    /// a base model that cannot be loaded is each job's own trouble.
    pub(crate) fn gone(&mut self, failure: &Failure, log: &str) {
        let is_late = |seat: &Seated| seat.leaving.as_ref().is_some_and(Leaving::is_late);
        let some_are_late = self.seats.values().any(is_late);
        let alone = self.seats.len() == 1;
        for seat in std::mem::take(&mut self.seats).into_values() {
            let blame = match (some_are_late, is_late(&seat)) {
                (true, false) => Blame::Other,
                (false, _) if self.ready && !alone => Blame::Shared,
                _ => Blame::Own,
            };
            let log = if seat.company {
                String::new()
            } else {
                log.to_owned()
            };
            seat.tell(SeatEvent::Gone(failure.clone().blame(blame), log));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{path::Path, time::Duration};
    use tunesmith_types::trainer::TrainerStep;

    use crate::scratch::Scratch;

    const GRACE: Duration = Duration::from_millis(100);

    fn spec(id: &str) -> Box<JobSpec> {
        Box::new(JobSpec {
            id: id.to_owned(),
            data: "data.jsonl".into(),
            eval: None,
            out: "out".into(),
            init_adapter: None,
            resume: None,
            checkpoint_dir: None,
            keep_checkpoints: 3,
            steps_log: None,
            hyperparameters: tunesmith_types::hyperparameters::HyperparametersRequest::default(),
        })
    }

    fn table(folder: &Path, ids: &[&str]) -> (Seats, Vec<mpsc::Receiver<SeatEvent>>) {
        let scratch = Scratch::open(folder).unwrap();
        let mut seats = Seats::new(WorkerTimings {
            cancel_grace: GRACE,
            drain_grace: 4 * GRACE,
            ..WorkerTimings::default()
        });
        seats.open();
        let receivers = ids.iter().map(|id| {
            let directory = scratch.run_directory(tunesmith_types::ids::RunId::new()).unwrap();
            let (seat, events) = Seated::new(Arc::new(directory));
            assert!(seats.join(spec(id), seat).is_some());
            events
        });
        let receivers = receivers.collect();
        (seats, receivers)
    }

    fn step(seats: &mut Seats, id: &str) {
        let step = TrainerStep {
            step: 1,
            total_steps: 2,
            epoch: 0.5,
            loss: 1.0,
            lr: 0.1,
            grad_norm: 1.0,
            tokens: 1,
            supervised_tokens: 1,
            seconds: 1.0,
        };
        seats.tell(id, TrainerEvent::Step(step), String::new);
    }

    #[tokio::test]
    async fn a_busy_child_has_until_it_shows_that_it_does_not_obey() {
        let folder = tempfile::tempdir().unwrap();
        let (mut seats, _events) = table(folder.path(), &["stays", "also", "leaves"]);
        assert!(seats.stop("leaves".to_owned(), Stop::Cancel).is_some());
        step(&mut seats, "stays");
        step(&mut seats, "stays");
        assert_eq!(seats.deadline(), None, "it is within its grace");
        tokio::time::sleep(2 * GRACE).await;
        assert_eq!(seats.deadline(), None, "a long step");
        step(&mut seats, "stays");
        step(&mut seats, "also");
        step(&mut seats, "leaves");
        assert_eq!(seats.deadline(), None, "it may hear the command now");
        step(&mut seats, "stays");
        assert!(seats.deadline().unwrap() <= Instant::now());
    }

    #[tokio::test]
    async fn a_child_without_others_and_a_drain_are_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let (mut seats, mut events) = table(folder.path(), &["stays", "leaves"]);
        seats.stop("leaves".to_owned(), Stop::Drain);
        assert!(seats.deadline().is_some());
        seats.stop("leaves".to_owned(), Stop::Cancel);
        assert_eq!(seats.deadline(), None);
        tokio::time::sleep(2 * GRACE).await;
        seats.leave("stays".to_owned());
        let last = seats.deadline().unwrap();
        assert!(last > Instant::now(), "the grace of the one that came last");
        assert!(!seats.all_abandoned());
        seats.gone(&Failure::retryable("trainer_killed", "It was killed."), "log");
        assert!(matches!(events[1].recv().await, Some(SeatEvent::Joined)));
        let Some(SeatEvent::Gone(failure, log)) = events[1].recv().await else {
            panic!("the last word was lost");
        };
        assert_eq!(
            (failure.blame, log.as_str()),
            (Blame::Own, ""),
            "it alone is late"
        );
    }
}
