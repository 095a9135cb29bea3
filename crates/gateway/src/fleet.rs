//! Which replica has which version loaded right now, shared by the requests and the reconciler.
//!
//! The reconciler writes, requests read and wait. A request holds a [`Lease`] from its routing to its last byte, so
//! that an engine with work is not stopped and a version in use is not unloaded.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, watch};
use tunesmith_types::ids::BaseModelId;

use crate::settings::ReplicaSecret;

/// A place where a base model is served. A restart gives it a new generation, because it has then forgotten all.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ReplicaKey {
    pub(crate) url: String,
    pub(crate) generation: u64,
}

/// A replica that answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownReplica {
    pub(crate) key: ReplicaKey,
    /// The replica's own name for the base model.
    pub(crate) base_name: String,
    /// What it wants to see as bearer.
    pub(crate) api_key: Option<ReplicaSecret>,
    /// When it was last seen to be well.
    pub(crate) seen: Instant,
}

/// What is known of one replica.
#[derive(Debug, Clone)]
struct ReplicaState {
    known: KnownReplica,
    /// Names of adapters that were loaded and probed.
    ready: HashSet<String>,
    running: Running,
}

/// Requests that run on a replica, by the replica's name for their model.
type Running = Arc<Mutex<HashMap<String, usize>>>;

fn count(running: &Running) -> MutexGuard<'_, HashMap<String, usize>> {
    running
        .lock()
        .expect("invariant: no holder of a replica's counter panics")
}

impl ReplicaState {
    fn in_flight(&self) -> usize {
        count(&self.running).values().sum()
    }
}

#[derive(Debug, Default)]
struct BaseState {
    replicas: Vec<ReplicaState>,
    /// Counters of all replicas that are known or still have requests: one that was silent for a moment keeps its own.
    running: HashMap<ReplicaKey, Running>,
    /// When each adapter was last asked for.
    adapters_used: HashMap<String, Instant>,
    /// Addresses that broke a request off, and when. They get no others until they were seen again.
    doubts: HashMap<String, Instant>,
    last_used: Option<Instant>,
    /// Why there is no replica, where starting one failed.
    failure: Option<String>,
    waiting: usize,
}

/// Shared state of all replicas.
#[derive(Debug, Clone)]
pub(crate) struct Fleet {
    bases: Arc<Mutex<HashMap<BaseModelId, BaseState>>>,
    changes: Arc<watch::Sender<u64>>,
    wake: Arc<Notify>,
}

/// Why no replica was found in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unavailable {
    Starting,
    Failed(String),
}

/// A request's hold on a replica; dropping it ends the hold.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) url: String,
    /// The replica's name for the model that was asked for.
    pub(crate) internal: String,
    api_key: Option<ReplicaSecret>,
    running: Running,
}

impl Lease {
    /// Adds what the replica wants to see of its callers.
    pub(crate) fn authorize(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.api_key {
            Some(key) => request.bearer_auth(key.as_str()),
            None => request,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut running = count(&self.running);
        if let Some(requests) = running.get_mut(&self.internal) {
            *requests -= 1;
            if *requests == 0 {
                running.remove(&self.internal);
            }
        }
    }
}

impl Fleet {
    pub(crate) fn new(wake: Arc<Notify>) -> Self {
        Self {
            bases: Arc::default(),
            changes: Arc::new(watch::Sender::new(0)),
            wake,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BaseModelId, BaseState>> {
        self.bases
            .lock()
            .expect("invariant: no holder of the fleet's lock panics")
    }

    fn announce(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Has the reconciler look again.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Replaces what is known of a base model's replicas. `failure` says why there are none.
    pub(crate) fn set_replicas(&self, base: BaseModelId, known: &[KnownReplica], failure: Option<String>) {
        let mut bases = self.lock();
        let state = bases.entry(base).or_default();
        let mut replicas = Vec::with_capacity(known.len());
        for known in known {
            let before = state
                .replicas
                .iter()
                .find(|replica| replica.known.key == known.key);
            let ready = before.map(|replica| replica.ready.clone()).unwrap_or_default();
            let running = Arc::clone(state.running.entry(known.key.clone()).or_default());
            replicas.push(ReplicaState {
                known: known.clone(),
                ready,
                running,
            });
        }
        state
            .running
            .retain(|key, running| !count(running).is_empty() || known.iter().any(|known| known.key == *key));
        let is_well = |url: &String, doubted: &Instant| {
            known
                .iter()
                .any(|known| known.key.url == *url && known.seen > *doubted)
        };
        state.doubts.retain(|url, doubted| !is_well(url, doubted));
        state.replicas = replicas;
        state.failure = failure;
        drop(bases);
        self.announce();
    }

    /// Says that `key` answers for the adapter `name` (or does so no longer).
    pub(crate) fn set_ready(&self, base: BaseModelId, key: &ReplicaKey, name: &str, ready: bool) {
        if let Some(replica) = self
            .lock()
            .entry(base)
            .or_default()
            .replicas
            .iter_mut()
            .find(|replica| replica.known.key == *key)
        {
            if ready {
                replica.ready.insert(name.to_owned());
            } else {
                replica.ready.remove(name);
            }
        }
        self.announce();
    }

    /// Whether `key` is known to answer for `name`.
    pub(crate) fn is_ready(&self, base: BaseModelId, key: &ReplicaKey, name: &str) -> bool {
        let bases = self.lock();
        let replicas = bases
            .get(&base)
            .map(|state| state.replicas.as_slice())
            .unwrap_or_default();
        replicas
            .iter()
            .any(|replica| replica.known.key == *key && replica.ready.contains(name))
    }

    /// Requests that are running on, or waiting for, a base model.
    pub(crate) fn load(&self, base: BaseModelId) -> usize {
        let bases = self.lock();
        bases.get(&base).map_or(0, |state| {
            state.replicas.iter().map(ReplicaState::in_flight).sum::<usize>() + state.waiting
        })
    }

    /// Whether a request runs on `key` under the name `name`.
    pub(crate) fn is_in_use(&self, base: BaseModelId, key: &ReplicaKey, name: &str) -> bool {
        let bases = self.lock();
        let running = bases.get(&base).and_then(|state| state.running.get(key));
        running.is_some_and(|running| count(running).contains_key(name))
    }

    /// When each adapter of a base model was last asked for.
    pub(crate) fn adapters_used(&self, base: BaseModelId) -> HashMap<String, Instant> {
        let bases = self.lock();
        bases
            .get(&base)
            .map(|state| state.adapters_used.clone())
            .unwrap_or_default()
    }

    /// When each base model was last asked for.
    pub(crate) fn last_used(&self) -> HashMap<BaseModelId, Instant> {
        self.lock()
            .iter()
            .filter_map(|(base, state)| Some((*base, state.last_used?)))
            .collect()
    }

    /// A replica of `base` that has `adapter` (or any, for the base model itself), the least busy one. Where there
    /// is none, asks the reconciler for one and waits at most `patience`.
    pub(crate) async fn acquire(
        &self,
        base: BaseModelId,
        adapter: Option<&str>,
        patience: Duration,
    ) -> Result<Lease, Unavailable> {
        let mut changes = self.changes.subscribe();
        if let Some(lease) = self.try_acquire(base, adapter) {
            return Ok(lease);
        }
        let _waiting = Waiting::new(self, base);
        self.wake.notify_one();
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            if tokio::time::timeout_at(deadline, changes.changed())
                .await
                .is_err()
            {
                return Err(self.unavailable(base));
            }
            if let Some(lease) = self.try_acquire(base, adapter) {
                return Ok(lease);
            }
            if let failed @ Unavailable::Failed(_) = self.unavailable(base) {
                return Err(failed);
            }
        }
    }

    fn try_acquire(&self, base: BaseModelId, adapter: Option<&str>) -> Option<Lease> {
        let mut bases = self.lock();
        let state = bases.entry(base).or_default();
        state.last_used = Some(Instant::now());
        let able = state
            .replicas
            .iter()
            .filter(|replica| !state.doubts.contains_key(&replica.known.key.url))
            .filter(|replica| adapter.is_none_or(|name| replica.ready.contains(name)));
        let replica = able.min_by_key(|replica| replica.in_flight())?;
        let internal = adapter.unwrap_or(&replica.known.base_name).to_owned();
        *count(&replica.running).entry(internal.clone()).or_default() += 1;
        let lease = Lease {
            url: replica.known.key.url.clone(),
            internal,
            api_key: replica.known.api_key.clone(),
            running: Arc::clone(&replica.running),
        };
        if let Some(name) = adapter {
            state.adapters_used.insert(name.to_owned(), Instant::now());
        }
        Some(lease)
    }

    fn unavailable(&self, base: BaseModelId) -> Unavailable {
        let bases = self.lock();
        match bases.get(&base).and_then(|state| state.failure.clone()) {
            Some(reason) => Unavailable::Failed(reason),
            None => Unavailable::Starting,
        }
    }

    /// Addresses of a base model that are to be asked at once, and since when.
    pub(crate) fn doubts(&self, base: BaseModelId) -> HashMap<String, Instant> {
        let bases = self.lock();
        bases
            .get(&base)
            .map(|state| state.doubts.clone())
            .unwrap_or_default()
    }

    /// Tells the reconciler that a replica is not as it was thought to be: it lacks `adapter`, or, without one, did not
    /// answer. Then it is spared until it was seen again; one broken connection is no reason to bring all of its adapters
    /// anew, and what a restart has forgotten shows when it is looked at.
    pub(crate) fn doubt(&self, base: BaseModelId, url: &str, adapter: Option<&str>) {
        if let Some(state) = self.lock().get_mut(&base) {
            let at_url = |replica: &&mut ReplicaState| replica.known.key.url == url;
            match adapter {
                Some(name) => state.replicas.iter_mut().filter(at_url).for_each(|replica| {
                    replica.ready.remove(name);
                }),
                None => drop(state.doubts.insert(url.to_owned(), Instant::now())),
            }
        }
        self.wake.notify_one();
    }
}

/// Counts a waiting request while it lives.
struct Waiting<'a> {
    fleet: &'a Fleet,
    base: BaseModelId,
}

impl<'a> Waiting<'a> {
    fn new(fleet: &'a Fleet, base: BaseModelId) -> Self {
        fleet.lock().entry(base).or_default().waiting += 1;
        Self { fleet, base }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(state) = self.fleet.lock().get_mut(&self.base) {
            state.waiting -= 1;
        }
    }
}

#[cfg(test)]
mod tests;
