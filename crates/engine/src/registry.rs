//! Which adapters can be named in requests, and which of them have their tensors in memory.
//!
//! A name stays listed while its tensors are evicted; the next request that names it has them read back. Evicting is
//! giving up the registry's lease: the engine thread drops the tensors of leases that nobody else holds.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use crate::{
    adapter::{AdapterError, AdapterLease},
    clock::unix_seconds,
};

/// What an adapter's files were when it was first read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// Size of `adapter_model.safetensors`.
    pub weights_bytes: u64,
    /// sha256 of `adapter_model.safetensors`.
    pub weights_sha256: String,
    /// sha256 of `adapter_config.json`, which decides the scale.
    pub config_sha256: String,
}

/// A name and where its tensors come from.
#[derive(Debug)]
pub struct NamedAdapter {
    /// Name in requests.
    pub name: String,
    /// The folder, as it was given.
    pub path: PathBuf,
    /// Where the folder must lie; `None` is anywhere.
    pub root: Option<PathBuf>,
    /// What its files must still be when they are read back.
    pub fingerprint: Fingerprint,
    /// Unix seconds.
    pub loaded_at: i64,
    /// Held by the request that reads the tensors back, so that those beside it wait and share them.
    pub(crate) reading: tokio::sync::Mutex<()>,
}

impl NamedAdapter {
    /// An adapter that has just been read for the first time.
    #[must_use]
    pub fn new(name: &str, path: &Path, root: Option<PathBuf>, fingerprint: Fingerprint) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            path: path.to_owned(),
            root,
            fingerprint,
            loaded_at: unix_seconds(),
            reading: tokio::sync::Mutex::default(),
        })
    }
}

/// A name that can be used.
#[derive(Debug)]
struct Entry {
    adapter: Arc<NamedAdapter>,
    /// `None` while its tensors are evicted.
    lease: Option<Arc<AdapterLease>>,
    /// When it was last asked for, in turns of the registry's clock.
    used: u64,
}

/// What is under the lock.
#[derive(Debug, Default)]
struct Names {
    /// `None` while the adapter of that name is read for the first time.
    entries: BTreeMap<String, Option<Entry>>,
    turn: u64,
    loads: u64,
    evictions: u64,
}

impl Names {
    fn resident_bytes(&self) -> usize {
        let entries = self.entries.values().flatten();
        entries
            .filter_map(|entry| entry.lease.as_ref())
            .map(|lease| lease.bytes)
            .sum()
    }
}

/// What a name stands for now.
#[derive(Debug, Clone)]
pub enum Found {
    /// Tensors that stay for as long as the lease is held.
    Resident(Arc<AdapterLease>),
    /// Tensors that must be read back first.
    Evicted(Arc<NamedAdapter>),
}

/// Counts for the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Residency {
    /// Names with tensors in memory.
    pub resident: usize,
    /// Names without.
    pub evicted: usize,
    /// Bytes of the resident ones.
    pub bytes: usize,
    /// Most bytes, leased ones aside.
    pub budget: usize,
    /// Times that tensors were read.
    pub loads: u64,
    /// Times that tensors were evicted.
    pub evictions: u64,
}

/// The names in use.
#[derive(Debug)]
pub struct AdapterRegistry {
    base: String,
    limit: usize,
    budget: usize,
    names: Mutex<Names>,
}

impl AdapterRegistry {
    /// A registry without adapters, for the base model named `base`: at most `limit` names, and `budget` bytes of
    /// tensors that nobody runs on.
    #[must_use]
    pub fn new(base: &str, limit: usize, budget: usize) -> Self {
        Self {
            base: base.to_owned(),
            limit,
            budget,
            names: Mutex::default(),
        }
    }

    /// Most adapters at once.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Takes a name before its adapter is read, so that two loads of one name cannot both succeed.
    ///
    /// # Errors
    /// The name is taken, or there is no room.
    pub fn reserve(self: &Arc<Self>, name: &str) -> Result<Reservation, AdapterError> {
        let mut names = self.lock();
        if name == self.base {
            return Err(AdapterError::NameOfBase(name.to_owned()));
        }
        if names.entries.contains_key(name) {
            return Err(AdapterError::AlreadyLoaded(name.to_owned()));
        }
        if names.entries.len() >= self.limit {
            return Err(AdapterError::TooMany(self.limit));
        }
        names.entries.insert(name.to_owned(), None);
        drop(names);
        Ok(Reservation {
            registry: Arc::clone(self),
            name: name.to_owned(),
            published: false,
        })
    }

    /// What a name stands for, which makes it the most recently used.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Found> {
        let mut names = self.lock();
        names.turn += 1;
        let turn = names.turn;
        let entry = names.entries.get_mut(name)?.as_mut()?;
        entry.used = turn;
        Some(match &entry.lease {
            Some(lease) => Found::Resident(Arc::clone(lease)),
            None => Found::Evicted(Arc::clone(&entry.adapter)),
        })
    }

    /// The adapter of a name that can be used, whether or not it is resident.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<Arc<NamedAdapter>> {
        let names = self.lock();
        let entry = names.entries.get(name)?.as_ref()?;
        Some(Arc::clone(&entry.adapter))
    }

    /// Takes in tensors that were read back, unless the name has come to stand for another adapter or for none.
    pub fn restore(&self, adapter: &Arc<NamedAdapter>, lease: &Arc<AdapterLease>) {
        let mut names = self.lock();
        names.loads += 1;
        if let Some(Some(entry)) = names.entries.get_mut(&adapter.name)
            && Arc::ptr_eq(&entry.adapter, adapter)
        {
            entry.lease = Some(Arc::clone(lease));
        }
    }

    /// Evicts the least recently used adapters beyond the budget. For the engine thread, which holds one lease of each
    /// beside the registry's own: where there are only those two, nobody runs on it, and nobody can begin to while the
    /// registry is locked.
    pub fn evict(&self) {
        let mut names = self.lock();
        let mut bytes = names.resident_bytes();
        while bytes > self.budget {
            let idle = names.entries.values_mut().flatten();
            let idle = idle.filter(|entry| {
                entry
                    .lease
                    .as_ref()
                    .is_some_and(|lease| Arc::strong_count(lease) <= 2)
            });
            let Some(entry) = idle.min_by_key(|entry| entry.used) else {
                return;
            };
            let freed = entry.lease.take().map_or(0, |lease| lease.bytes);
            tracing::debug!(adapter = entry.adapter.name, bytes = freed, "adapter evicted");
            bytes -= freed;
            names.evictions += 1;
        }
    }

    /// Takes a name away.
    ///
    /// # Errors
    /// No adapter of that name is loaded.
    pub fn remove(&self, name: &str) -> Result<(), AdapterError> {
        let mut names = self.lock();
        if names.entries.get(name).is_some_and(Option::is_some) {
            names.entries.remove(name);
            return Ok(());
        }
        Err(AdapterError::NotLoaded(name.to_owned()))
    }

    /// All that can be used, by name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<NamedAdapter>> {
        let names = self.lock();
        let entries = names.entries.values().flatten();
        entries.map(|entry| Arc::clone(&entry.adapter)).collect()
    }

    /// Counts for the metrics.
    #[must_use]
    pub fn residency(&self) -> Residency {
        let names = self.lock();
        let usable = names.entries.values().flatten().count();
        let resident = names.entries.values().flatten();
        let resident = resident.filter(|entry| entry.lease.is_some()).count();
        Residency {
            resident,
            evicted: usable - resident,
            bytes: names.resident_bytes(),
            budget: self.budget,
            loads: names.loads,
            evictions: names.evictions,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Names> {
        self.names
            .lock()
            .expect("invariant: no holder of the lock panics")
    }
}

/// A name that is taken while its adapter is read; free again when dropped without [`Reservation::publish`].
#[derive(Debug)]
pub struct Reservation {
    registry: Arc<AdapterRegistry>,
    name: String,
    published: bool,
}

impl Reservation {
    /// Makes the name usable.
    pub fn publish(mut self, adapter: Arc<NamedAdapter>, lease: Arc<AdapterLease>) {
        self.published = true;
        let mut names = self.registry.lock();
        names.loads += 1;
        names.turn += 1;
        let entry = Entry {
            adapter,
            lease: Some(lease),
            used: names.turn,
        };
        names.entries.insert(self.name.clone(), Some(entry));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.published {
            self.registry.lock().entries.remove(&self.name);
        }
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
