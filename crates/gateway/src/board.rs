//! What is known of one base model's replicas, shared by the rounds of the reconciler and the tasks that they start.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use tokio::{sync::Semaphore, task::JoinSet};
use tunesmith_store::replicas::ReplicaKind;

use crate::{
    fleet::ReplicaKey,
    lora_metrics::ReplicaMetrics,
    replica::{ModelCard, ReplicaError},
    slots::Slots,
    source::ReplicaPlace,
};

/// Questions in a row that a replica may leave unanswered before it counts as gone: one may just be busy.
const MOST_SILENCES: u32 = 2;

/// What a replica said of itself.
#[derive(Debug, Clone)]
pub(crate) struct Observation {
    pub(crate) base_name: String,
    pub(crate) cards: HashMap<String, ModelCard>,
    /// None where it does not tell.
    pub(crate) metrics: Option<ReplicaMetrics>,
    /// Differs after a restart, where it tells.
    pub(crate) started: Option<String>,
    /// When it was asked.
    pub(crate) taken: Instant,
}

/// A replica that answers.
#[derive(Debug, Clone)]
pub(crate) struct Present {
    pub(crate) place: ReplicaPlace,
    /// Address and generation; a restart makes a new one.
    pub(crate) key: ReplicaKey,
    pub(crate) seen: Arc<Observation>,
    /// Loads take turns.
    pub(crate) turn: Arc<Semaphore>,
}

impl Present {
    /// Most adapters that it holds, where known. Our engine says so itself; what vLLM says is another number.
    pub(crate) fn most_adapters(&self) -> Option<usize> {
        let given = self
            .place
            .max_adapters
            .and_then(|most| usize::try_from(most).ok());
        let told = self.seen.metrics.as_ref().and_then(|metrics| metrics.max_lora);
        given.or_else(|| told.filter(|_| self.place.kind == ReplicaKind::Engine))
    }
}

#[derive(Debug)]
struct Watched {
    place: ReplicaPlace,
    restarts: u64,
    asking: bool,
    asked: Option<Instant>,
    silences: u32,
    /// When it was last well, or when it was first heard of.
    well: Instant,
    seen: Option<Arc<Observation>>,
    started: Option<String>,
    turn: Arc<Semaphore>,
}

impl Watched {
    fn new(place: ReplicaPlace) -> Self {
        Self {
            place,
            restarts: 0,
            asking: false,
            asked: None,
            silences: 0,
            well: Instant::now(),
            seen: None,
            started: None,
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    fn key(&self) -> ReplicaKey {
        let ReplicaKey { url, generation } = self.place.key.clone();
        ReplicaKey {
            url,
            generation: generation + self.restarts,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    watched: HashMap<ReplicaKey, Watched>,
    slots: Slots,
}

/// The replicas of one base model.
#[derive(Debug, Default)]
pub(crate) struct Board {
    state: Mutex<State>,
    tasks: Mutex<JoinSet<()>>,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("invariant: no holder of a board's lock panics")
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks
            .lock()
            .expect("invariant: no holder of a board's tasks panics")
    }

    /// Runs `task` beside everything else, until it ends or the board is closed.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks();
        while let Some(ended) = tasks.try_join_next() {
            if let Err(error) = ended {
                tracing::error!(%error, "a task of the reconciler failed");
            }
        }
        tasks.spawn(task);
    }

    /// Ends all tasks.
    pub(crate) async fn close(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks());
        tasks.shutdown().await;
    }

    /// Works on the adapters.
    pub(crate) fn slots<T>(&self, work: impl FnOnce(&mut Slots) -> T) -> T {
        work(&mut self.lock().slots)
    }

    /// These are the replicas now; what is known of others is forgotten.
    pub(crate) fn set_places(&self, places: &[ReplicaPlace]) {
        let mut state = self.lock();
        state
            .watched
            .retain(|key, _| places.iter().any(|place| place.key == *key));
        for place in places {
            let watched = state
                .watched
                .entry(place.key.clone())
                .or_insert_with(|| Watched::new(place.clone()));
            watched.place = place.clone();
        }
        let State { watched, slots } = &mut *state;
        slots.retain_replicas(|key| watched.values().any(|watched| watched.key() == *key));
    }

    /// Whether `place` is to be asked now; if so, it counts as being asked.
    pub(crate) fn begin_question(&self, place: &ReplicaKey, every: Duration) -> bool {
        let mut state = self.lock();
        let Some(watched) = state.watched.get_mut(place) else {
            return false;
        };
        // A little less than the pause of the rounds, so that a round that comes on time asks.
        let due = watched
            .asked
            .is_none_or(|asked| asked.elapsed() >= every * 9 / 10);
        if watched.asking || !due {
            return false;
        }
        (watched.asking, watched.asked) = (true, Some(Instant::now()));
        true
    }

    /// Notes what `place` answered.
    pub(crate) fn end_question(&self, place: &ReplicaKey, answer: Result<Observation, ReplicaError>) {
        let mut state = self.lock();
        let Some(watched) = state.watched.get_mut(place) else {
            return;
        };
        watched.asking = false;
        match answer {
            Ok(seen) => {
                let restarted =
                    matches!((&watched.started, &seen.started), (Some(old), Some(new)) if old != new);
                if restarted {
                    tracing::warn!(url = %place.url, "a replica has started anew and forgotten its adapters");
                    watched.restarts += 1;
                }
                watched.started = seen.started.clone();
                (watched.silences, watched.well) = (0, Instant::now());
                watched.seen = Some(Arc::new(seen));
            }
            Err(error) => {
                watched.silences += 1;
                let source = &error as &dyn std::error::Error;
                tracing::warn!(url = %place.url, silences = watched.silences, error = source, "replica does not answer");
                if !error.is_silence() || watched.silences >= MOST_SILENCES {
                    watched.seen = None;
                }
            }
        }
    }

    /// The replicas that answer.
    pub(crate) fn present(&self) -> Vec<Present> {
        let state = self.lock();
        let mut present: Vec<Present> = state
            .watched
            .values()
            .filter_map(|watched| {
                Some(Present {
                    place: watched.place.clone(),
                    key: watched.key(),
                    seen: watched.seen.clone()?,
                    turn: Arc::clone(&watched.turn),
                })
            })
            .collect();
        present.sort_by(|a, b| a.key.url.cmp(&b.key.url));
        present
    }

    /// Whether a replica is missing that was well, or was added, less than `patience` ago.
    pub(crate) fn is_anybody_missed(&self, patience: Duration) -> bool {
        let state = self.lock();
        state
            .watched
            .values()
            .any(|watched| watched.seen.is_none() && watched.well.elapsed() < patience)
    }

    /// Whether every replica was heard at least once since it was last silent.
    pub(crate) fn is_complete(&self) -> bool {
        self.lock().watched.values().all(|watched| watched.seen.is_some())
    }

    /// Whether no replica was asked yet.
    pub(crate) fn is_unasked(&self) -> bool {
        self.lock()
            .watched
            .values()
            .all(|watched| watched.seen.is_none() && watched.silences == 0)
    }
}
