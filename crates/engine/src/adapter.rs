//! Leases of adapters, where adapters may be read from, and what can be wrong with them.
//!
//! The tensors live on the engine thread, which keeps those of every lease that somebody still holds. Unloading takes
//! the name away; a request that runs holds its lease and ends as it began.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Tensors in memory: held by the registry while they are resident, and by every request on them.
#[derive(Debug)]
pub struct AdapterLease {
    /// Name in requests.
    pub name: String,
    /// What the tensors take.
    pub bytes: usize,
}

impl AdapterLease {
    /// A lease of tensors that have just been read.
    #[must_use]
    pub fn new(name: &str, bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            bytes,
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
    /// The files are not those that were loaded under the name, so they are not read back.
    #[error("the files of the lora adapter '{0}' have changed since it was loaded")]
    Changed(String),
    /// It was evicted and cannot be read back.
    #[error("the lora adapter '{name}' cannot be read back")]
    Unreadable {
        /// The adapter.
        name: String,
        /// Why not.
        #[source]
        source: Box<AdapterError>,
    },
    /// The engine thread is gone.
    #[error("the engine has stopped")]
    EngineStopped,
}

/// The file that says an adapter's shape and scale.
pub(crate) const CONFIG: &str = "adapter_config.json";
/// The file of its tensors.
pub(crate) const WEIGHTS: &str = "adapter_model.safetensors";
/// Files of an adapter's folder that are opened.
const FILES: [&str; 2] = [CONFIG, WEIGHTS];

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
