//! Which adapters can be named in requests.
//!
//! The registry is the HTTP side's view: names and leases. The tensors live on the engine thread, which keeps those
//! of every lease that somebody still holds. Unloading takes the name away; a request that runs holds its lease and
//! ends as it began.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use crate::clock::unix_seconds;

/// A loaded adapter: held by the registry while its name can be used, and by every request on it.
#[derive(Debug)]
pub struct AdapterLease {
    /// Name in requests.
    pub name: String,
    /// The folder that it was read from, as it was given.
    pub path: PathBuf,
    /// Unix seconds.
    pub loaded_at: i64,
}

impl AdapterLease {
    /// A lease for an adapter that has just been read.
    #[must_use]
    pub fn new(name: &str, path: &Path) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            path: path.to_owned(),
            loaded_at: unix_seconds(),
        })
    }
}

/// Why an adapter is not loaded or unloaded.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// The name is in use.
    #[error("the lora adapter '{0}' has already been loaded")]
    AlreadyLoaded(String),
    /// The name is the base model's.
    #[error("the name '{0}' is the base model's")]
    NameOfBase(String),
    /// No adapter of that name.
    #[error("the lora adapter '{0}' cannot be found")]
    NotLoaded(String),
    /// No room.
    #[error("{0} adapters are loaded already")]
    TooMany(usize),
    /// The folder does not exist, or lies where adapters may not be read from.
    #[error("no adapter at {}", .0.display())]
    NoFolder(PathBuf),
    /// The folder is not an adapter of this base model.
    #[error("loading lora adapter '{name}' failed")]
    Invalid {
        /// The adapter.
        name: String,
        /// What is wrong with it.
        #[source]
        source: Box<tunesmith_model::ModelError>,
    },
    /// The engine thread is gone.
    #[error("the engine has stopped")]
    EngineStopped,
}

/// The names in use.
#[derive(Debug)]
pub struct AdapterRegistry {
    base: String,
    limit: usize,
    /// `None` while the adapter of that name is being read.
    names: Mutex<BTreeMap<String, Option<Arc<AdapterLease>>>>,
}

impl AdapterRegistry {
    /// A registry without adapters, for the base model named `base`.
    #[must_use]
    pub fn new(base: &str, limit: usize) -> Self {
        Self {
            base: base.to_owned(),
            limit,
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
        if names.contains_key(name) {
            return Err(AdapterError::AlreadyLoaded(name.to_owned()));
        }
        if names.len() >= self.limit {
            return Err(AdapterError::TooMany(self.limit));
        }
        names.insert(name.to_owned(), None);
        drop(names);
        Ok(Reservation {
            registry: Arc::clone(self),
            name: name.to_owned(),
            published: false,
        })
    }

    /// The lease of a name that can be used.
    #[must_use]
    pub fn lease(&self, name: &str) -> Option<Arc<AdapterLease>> {
        self.lock().get(name).cloned().flatten()
    }

    /// Takes a name away.
    ///
    /// # Errors
    /// No adapter of that name is loaded.
    pub fn remove(&self, name: &str) -> Result<(), AdapterError> {
        let mut names = self.lock();
        if names.get(name).is_some_and(Option::is_some) {
            names.remove(name);
            return Ok(());
        }
        Err(AdapterError::NotLoaded(name.to_owned()))
    }

    /// All that can be used, by name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<AdapterLease>> {
        self.lock().values().flatten().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Option<Arc<AdapterLease>>>> {
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
    pub fn publish(mut self, lease: Arc<AdapterLease>) {
        self.published = true;
        self.registry.lock().insert(self.name.clone(), Some(lease));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.published {
            self.registry.lock().remove(&self.name);
        }
    }
}

/// Files of an adapter's folder that are opened.
const FILES: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];

/// Finds the folder that a load names: it must exist and, where `root` is given, lie under it with the files that will
/// be opened, once all links are followed. A folder outside is answered as one that does not exist, which tells a
/// prober nothing.
///
/// # Errors
/// No such folder.
pub fn folder_under(root: Option<&Path>, path: &Path) -> Result<PathBuf, AdapterError> {
    let missing = || AdapterError::NoFolder(path.to_owned());
    let real = path.canonicalize().map_err(|_| missing())?;
    let allowed = match root.map(Path::canonicalize) {
        None => true,
        Some(Err(_)) => false,
        Some(Ok(root)) => {
            let inside = |path: &Path| path.canonicalize().is_ok_and(|path| path.starts_with(&root));
            let mut files = FILES.iter().map(|name| real.join(name));
            inside(&real) && files.all(|file| file.symlink_metadata().is_err() || inside(&file))
        }
    };
    if allowed && real.is_dir() {
        Ok(real)
    } else {
        Err(missing())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn registry(limit: usize) -> Arc<AdapterRegistry> {
        Arc::new(AdapterRegistry::new("base", limit))
    }

    fn load(registry: &Arc<AdapterRegistry>, name: &str) -> Arc<AdapterLease> {
        let lease = AdapterLease::new(name, Path::new("/adapters"));
        registry.reserve(name).unwrap().publish(Arc::clone(&lease));
        lease
    }

    #[test]
    fn a_name_is_taken_from_the_reservation_on() {
        let registry = registry(4);
        let reservation = registry.reserve("a").unwrap();
        assert!(matches!(
            registry.reserve("a"),
            Err(AdapterError::AlreadyLoaded(_))
        ));
        assert!(registry.lease("a").is_none());
        assert!(matches!(registry.remove("a"), Err(AdapterError::NotLoaded(_))));
        drop(reservation);
        load(&registry, "a");
        assert_eq!(registry.lease("a").unwrap().name, "a");
        assert!(matches!(
            registry.reserve("base"),
            Err(AdapterError::NameOfBase(_))
        ));
    }

    #[test]
    fn the_limit_counts_reservations() {
        let registry = registry(2);
        let _first = registry.reserve("a").unwrap();
        load(&registry, "b");
        assert!(matches!(registry.reserve("c"), Err(AdapterError::TooMany(2))));
        registry.remove("b").unwrap();
        load(&registry, "c");
        assert_eq!(registry.all().len(), 1);
    }

    #[test]
    fn a_lease_outlives_its_name() {
        let registry = registry(1);
        load(&registry, "a");
        let lease = registry.lease("a").unwrap();
        registry.remove("a").unwrap();
        assert!(registry.lease("a").is_none());
        assert_eq!(Arc::strong_count(&lease), 1);
    }

    #[test]
    fn folders_outside_the_root_do_not_exist() {
        let outside = tempfile::tempdir().unwrap();
        let root = tempfile::tempdir().unwrap();
        let inside = root.path().join("adapter");
        std::fs::create_dir(&inside).unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("link")).unwrap();
        let leaking = root.path().join("leaking");
        std::fs::create_dir(&leaking).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", leaking.join("adapter_config.json")).unwrap();
        assert!(folder_under(Some(root.path()), &inside).is_ok());
        assert!(folder_under(None, outside.path()).is_ok());
        for path in [
            outside.path().to_owned(),
            root.path().join("link"),
            leaking,
            inside.join("../.."),
            inside.join("none"),
        ] {
            assert!(
                folder_under(Some(root.path()), &path).is_err(),
                "{}",
                path.display()
            );
        }
    }
}
