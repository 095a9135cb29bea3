//! Adapters on their way in and out of memory: first loads, reading back what was evicted, unloads. Files are read
//! beside the engine thread, which only takes in the tensors.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::oneshot;
use tunesmith_model::{Adapter, ModelError, digest::file_digest};
use tunesmith_torch_ext::compute_alone;

use super::{Command, Engine};
use crate::{
    adapter::{AdapterError, AdapterLease, CONFIG, WEIGHTS, folder_under},
    registry::{Fingerprint, Found, NamedAdapter},
};

impl Engine {
    /// Loads a PEFT folder under `name`: read and checked beside the running requests, usable when this returns. The
    /// path comes from a request, so it must lie under the adapter root, if there is one.
    ///
    /// # Errors
    /// The name is taken, there is no room, or the folder is not an adapter of this base model.
    pub async fn load_adapter(&self, name: &str, path: &Path) -> Result<(), AdapterError> {
        self.load(name, path, self.settings.adapter_root.clone()).await
    }

    /// As [`Self::load_adapter`], for a path from the command line, which may lie anywhere.
    ///
    /// # Errors
    /// As [`Self::load_adapter`].
    pub async fn load_trusted_adapter(&self, name: &str, path: &Path) -> Result<(), AdapterError> {
        self.load(name, path, None).await
    }

    async fn load(&self, name: &str, path: &Path, root: Option<PathBuf>) -> Result<(), AdapterError> {
        let reservation = self.adapters.reserve(name)?;
        let (adapter, fingerprint) = self.read_adapter(name, path, root.as_deref()).await?;
        let lease = self.keep(name, adapter).await?;
        let named = NamedAdapter::new(name, path, root, fingerprint);
        reservation.publish(named, lease);
        self.collect();
        tracing::info!(adapter = name, path = %path.display(), "adapter loaded");
        Ok(())
    }

    /// A lease of the adapter of that name, whose tensors are read back if they were evicted. Requests that ask for
    /// them at the same time wait for one reading.
    ///
    /// # Errors
    /// There is no such adapter, or its files have changed or cannot be read any more.
    pub async fn lease(&self, name: &str) -> Result<Arc<AdapterLease>, AdapterError> {
        loop {
            let evicted = match self.adapters.find(name) {
                None => return Err(AdapterError::NotLoaded(name.to_owned())),
                Some(Found::Resident(lease)) => return Ok(lease),
                Some(Found::Evicted(adapter)) => adapter,
            };
            let _turn = evicted.reading.lock().await;
            match self.adapters.find(name) {
                // Nobody read it while this request waited for its turn.
                Some(Found::Evicted(adapter)) if Arc::ptr_eq(&adapter, &evicted) => {
                    return self.read_back(&evicted).await;
                }
                _ => {}
            }
        }
    }

    async fn read_back(&self, named: &Arc<NamedAdapter>) -> Result<Arc<AdapterLease>, AdapterError> {
        let name = &named.name;
        let read = self.read_adapter(name, &named.path, named.root.as_deref()).await;
        let (adapter, fingerprint) = read.map_err(|source| match source {
            AdapterError::EngineStopped => source,
            source => AdapterError::Unreadable {
                name: name.clone(),
                source: Box::new(source),
            },
        })?;
        if fingerprint != named.fingerprint {
            return Err(AdapterError::Changed(name.clone()));
        }
        let lease = self.keep(name, adapter).await?;
        self.adapters.restore(named, &lease);
        tracing::debug!(adapter = name, "adapter read back");
        Ok(lease)
    }

    /// Hands tensors to the engine thread, which keeps them for as long as somebody holds the lease.
    async fn keep(&self, name: &str, adapter: Adapter) -> Result<Arc<AdapterLease>, AdapterError> {
        let values = usize::try_from(adapter.size()).unwrap_or(usize::MAX);
        let lease = AdapterLease::new(
            name,
            values.saturating_mul(self.settings.kind.elt_size_in_bytes()),
        );
        let (kept, confirmed) = oneshot::channel();
        let command = Command::Keep(Arc::clone(&lease), Box::new(adapter), kept);
        self.commands
            .send(command)
            .await
            .map_err(|_| AdapterError::EngineStopped)?;
        confirmed.await.map_err(|_| AdapterError::EngineStopped)?;
        Ok(lease)
    }

    async fn read_adapter(
        &self,
        name: &str,
        path: &Path,
        root: Option<&Path>,
    ) -> Result<(Adapter, Fingerprint), AdapterError> {
        let (path, config) = (path.to_owned(), self.config.clone());
        let root = root.map(Path::to_owned);
        let (device, kind) = (self.settings.device, self.settings.kind);
        let read = move || {
            compute_alone();
            let folder = folder_under(root.as_deref(), &path)?;
            let adapter = || Adapter::load_frozen(&folder, &config, device, kind);
            Ok(with_fingerprint(&folder, adapter))
        };
        let outcome = tokio::task::spawn_blocking(read)
            .await
            .map_err(|_| AdapterError::EngineStopped)?;
        outcome?.map_err(|source| AdapterError::Invalid {
            name: name.to_owned(),
            source: Box::new(source),
        })
    }

    /// Takes an adapter's name away. Requests that run on it end as they began.
    ///
    /// # Errors
    /// No adapter of that name is loaded.
    pub fn unload_adapter(&self, name: &str) -> Result<(), AdapterError> {
        self.adapters.remove(name)?;
        self.collect();
        tracing::info!(adapter = name, "adapter unloaded");
        Ok(())
    }

    /// Has the thread drop what nobody needs. Full or closed: it does so after its next step, or has nothing left.
    fn collect(&self) {
        let _ = self.commands.try_send(Command::Collect);
    }
}

/// Reads an adapter and, on another core, its digests.
fn with_fingerprint(
    folder: &Path,
    read: impl FnOnce() -> Result<Adapter, ModelError>,
) -> Result<(Adapter, Fingerprint), ModelError> {
    std::thread::scope(|scope| {
        let digests = scope.spawn(|| fingerprint(folder));
        let adapter = read()?;
        let fingerprint = digests
            .join()
            .expect("invariant: reading a file does not panic")?;
        Ok((adapter, fingerprint))
    })
}

fn fingerprint(folder: &Path) -> Result<Fingerprint, ModelError> {
    let weights = folder.join(WEIGHTS);
    let metadata = weights.metadata().map_err(|source| ModelError::Io {
        path: weights.clone(),
        source,
    })?;
    Ok(Fingerprint {
        weights_bytes: metadata.len(),
        weights_sha256: file_digest(&weights)?,
        config_sha256: file_digest(&folder.join(CONFIG))?,
    })
}
