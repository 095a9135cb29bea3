//! Checkpoints on their way to the object store, while training goes on.
//!
//! One is uploaded at a time. Where the store is slower than the trainer, only the newest waits: an older one that was
//! not begun is dropped, so training never waits for the network and the disk never fills. The files come first, the
//! row last.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::json;
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tunesmith_blobs::{
    BlobError, BlobKey, Blobs,
    keys::{CHECKPOINT_EXTRAS, CHECKPOINT_FILES, RunPlace},
};
use tunesmith_store::{
    Store,
    events::NewEvent,
    files::StoredFile,
    queue::{self, NewCheckpoint},
};
use tunesmith_types::{names::Sha256Digest, states::EventLevel};

use crate::{failure::chain, lease::LeaseHandle, persist::persist, scratch::RunDirectory};

/// Tries of one checkpoint, each with the client's own retries, while no newer one waits.
const ATTEMPTS: u32 = 3;

/// What the task needs.
pub(crate) struct UploadContext {
    pub(crate) store: Store,
    pub(crate) blobs: Blobs,
    pub(crate) lease: LeaseHandle,
    pub(crate) config_hash: Sha256Digest,
    pub(crate) retry: Duration,
}

/// Takes checkpoints from the trainer; a task of its own uploads them.
#[derive(Debug)]
pub(crate) struct CheckpointUploader {
    waiting: Arc<Waiting>,
    finishing: CancellationToken,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Waiting {
    newest: Mutex<Option<LinkedCheckpoint>>,
    arrived: Notify,
}

impl Waiting {
    fn replace(&self, checkpoint: Option<LinkedCheckpoint>) -> Option<LinkedCheckpoint> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *newest, checkpoint)
    }

    fn is_empty(&self) -> bool {
        self.newest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none()
    }
}

impl CheckpointUploader {
    pub(crate) fn start(context: UploadContext) -> Self {
        let waiting = Arc::new(Waiting::default());
        let finishing = CancellationToken::new();
        let task = tokio::spawn(upload_all(context, Arc::clone(&waiting), finishing.clone()));
        Self {
            waiting,
            finishing,
            task,
        }
    }

    /// Takes the checkpoint at `path`. Its files are linked to a place of ours first, so that the trainer may remove
    /// its own old checkpoints meanwhile.
    pub(crate) fn take(&self, directory: &RunDirectory, step: u64, path: &Path) -> io::Result<()> {
        let linked = LinkedCheckpoint::link(directory, step, path)?;
        if let Some(overtaken) = self.waiting.replace(Some(linked)) {
            tracing::info!(
                step = overtaken.step,
                "a checkpoint was overtaken by a newer one before its upload began"
            );
        }
        self.waiting.arrived.notify_one();
        Ok(())
    }

    /// Uploads what is left, but gives up after `grace`.
    pub(crate) async fn finish(mut self, grace: Duration) {
        self.finishing.cancel();
        match tokio::time::timeout(grace, &mut self.task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the checkpoint upload panicked"),
            Err(_) => tracing::warn!("the last checkpoint was not uploaded in time"),
        }
    }
}

impl Drop for CheckpointUploader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A checkpoint of which nobody else removes files. Removed when dropped.
#[derive(Debug)]
struct LinkedCheckpoint {
    step: u64,
    folder: PathBuf,
    /// Names of its files.
    names: Vec<&'static str>,
}

impl LinkedCheckpoint {
    fn link(directory: &RunDirectory, step: u64, path: &Path) -> io::Result<Self> {
        let source = directory.inside(path)?;
        let folder = directory
            .uploads()
            .join(uuid::Uuid::new_v4().simple().to_string());
        fs::create_dir(&folder)?;
        let extras = CHECKPOINT_EXTRAS
            .into_iter()
            .filter(|name| fs::symlink_metadata(source.join(name)).is_ok());
        let linked = Self {
            step,
            folder,
            names: CHECKPOINT_FILES.into_iter().chain(extras).collect(),
        };
        for name in &linked.names {
            let file = source.join(name);
            if !fs::symlink_metadata(&file)?.is_file() {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{name} is not a file"),
                ));
            }
            fs::hard_link(file, linked.folder.join(name))?;
        }
        Ok(linked)
    }
}

impl Drop for LinkedCheckpoint {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::debug!(%error, "a linked checkpoint could not be removed");
        }
    }
}

async fn upload_all(context: UploadContext, waiting: Arc<Waiting>, finishing: CancellationToken) {
    loop {
        if let Some(checkpoint) = waiting.replace(None) {
            context.upload(&checkpoint, &waiting).await;
            continue;
        }
        if finishing.is_cancelled() {
            return;
        }
        tokio::select! {
            () = waiting.arrived.notified() => {}
            () = finishing.cancelled() => {}
        }
    }
}

impl UploadContext {
    async fn upload(&self, checkpoint: &LinkedCheckpoint, waiting: &Waiting) {
        let step = checkpoint.step;
        let mut pause = self.retry;
        for attempt in 1..=ATTEMPTS {
            match self.upload_files(checkpoint).await {
                Ok(files) => return self.record(step, files).await,
                Err(error) => {
                    tracing::warn!(step, attempt, error = %chain(&error), "a checkpoint could not be uploaded");
                }
            }
            if !waiting.is_empty() {
                break;
            }
            tokio::time::sleep(pause).await;
            pause *= 4;
        }
        let message = format!("the checkpoint at step {step} could not be saved; training goes on");
        self.note(
            NewEvent::new(EventLevel::Warn, "checkpoint_not_saved", message).with(json!({"step": step})),
        )
        .await;
    }

    async fn upload_files(&self, checkpoint: &LinkedCheckpoint) -> Result<Vec<StoredFile>, BlobError> {
        let mut files = Vec::with_capacity(checkpoint.names.len());
        for name in &checkpoint.names {
            let key = BlobKey::checkpoint_file(run_place(&self.lease), checkpoint.step, name)?;
            let stored = self.blobs.put_file(&key, &checkpoint.folder.join(name)).await?;
            files.push(StoredFile {
                name: (*name).to_owned(),
                key: key.to_string(),
                sha256: stored.sha256.to_string(),
                bytes: stored.bytes,
            });
        }
        Ok(files)
    }

    async fn record(&self, step: u64, files: Vec<StoredFile>) {
        let checkpoint = NewCheckpoint {
            step: i64::try_from(step).unwrap_or(i64::MAX),
            files,
            config_hash: self.config_hash.to_string(),
        };
        let recorded = persist(self.retry, || {
            queue::record_checkpoint(&self.store, &self.lease.token, &checkpoint)
        })
        .await;
        match self.lease.check(recorded) {
            Ok(_) => tracing::info!(step, "a checkpoint is saved"),
            Err(error) => tracing::warn!(step, error = %chain(&error), "a checkpoint could not be recorded"),
        }
    }

    async fn note(&self, event: NewEvent) {
        let noted = persist(self.retry, || {
            queue::record_event(&self.store, &self.lease.token, &event)
        })
        .await;
        if let Err(error) = self.lease.check(noted) {
            tracing::warn!(error = %chain(&error), "an event could not be recorded");
        }
    }
}

/// Where the run's blobs lie.
pub(crate) fn run_place(lease: &LeaseHandle) -> RunPlace {
    RunPlace {
        job: lease.token.job_id,
        epoch: lease.token.epoch,
        lease: lease.token.lease_id,
    }
}
