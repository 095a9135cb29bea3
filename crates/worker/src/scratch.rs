//! The worker's own folder: one directory a run and one a trainer, removed when they end.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tunesmith_types::ids::RunId;

const REMOVE_ATTEMPTS: u32 = 20;
const REMOVE_PAUSE: Duration = Duration::from_millis(50);

/// The folder, held by a lock for as long as the worker runs.
#[derive(Debug)]
pub(crate) struct Scratch {
    runs: PathBuf,
    trainers: PathBuf,
    _lock: File,
}

/// The folder cannot be used.
#[derive(Debug)]
pub(crate) enum ScratchError {
    /// Another worker uses it.
    InUse,
    Io(io::Error),
}

impl Scratch {
    /// Takes the folder, and removes what runs of a worker that died have left.
    pub(crate) fn open(folder: &Path) -> Result<Self, ScratchError> {
        fs::create_dir_all(folder).map_err(ScratchError::Io)?;
        let lock = File::create(folder.join("lock")).map_err(ScratchError::Io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ScratchError::InUse),
            Err(TryLockError::Error(error)) => return Err(ScratchError::Io(error)),
        }
        Ok(Self {
            runs: emptied(folder.join("runs")).map_err(ScratchError::Io)?,
            trainers: emptied(folder.join("trainers")).map_err(ScratchError::Io)?,
            _lock: lock,
        })
    }

    /// A new directory for a trainer.
    pub(crate) fn trainer_directory(&self) -> io::Result<TrainerDirectory> {
        let name = uuid::Uuid::new_v4().simple().to_string();
        let directory = TrainerDirectory {
            root: self.trainers.join(name),
        };
        fs::create_dir(&directory.root)?;
        Ok(directory)
    }

    /// A new directory for an export. Removed when dropped.
    pub(crate) fn export_directory(&self) -> io::Result<tempfile::TempDir> {
        tempfile::Builder::new().prefix("export-").tempdir_in(&self.runs)
    }

    /// A new run directory.
    pub(crate) fn run_directory(&self, run: RunId) -> io::Result<RunDirectory> {
        let directory = RunDirectory {
            root: self.runs.join(run.to_string()),
        };
        fs::create_dir(&directory.root)?;
        fs::create_dir(directory.uploads())?;
        Ok(directory)
    }
}

fn emptied(folder: PathBuf) -> io::Result<PathBuf> {
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    folder.canonicalize()
}

/// `text` without the place of a directory, which is nothing to users of the platform.
fn hide(root: &Path, text: &str) -> String {
    let root = root.to_string_lossy();
    text.replace(&format!("{root}/"), "").replace(&*root, ".")
}

/// What a trainer reads whichever job it trains. Removed when dropped.
#[derive(Debug)]
pub(crate) struct TrainerDirectory {
    root: PathBuf,
}

impl TrainerDirectory {
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// `text` without the place of this directory.
    pub(crate) fn hide_in(&self, text: &str) -> String {
        hide(&self.root, text)
    }

    pub(crate) fn base(&self) -> PathBuf {
        self.root.join("base")
    }

    pub(crate) fn spec(&self) -> PathBuf {
        self.root.join("gang.json")
    }
}

impl Drop for TrainerDirectory {
    fn drop(&mut self) {
        remove_soon(std::mem::take(&mut self.root));
    }
}

/// What the trainer may read and write for one job. Removed when dropped.
#[derive(Debug)]
pub(crate) struct RunDirectory {
    root: PathBuf,
}

impl RunDirectory {
    /// `text` without the place of this directory.
    pub(crate) fn hide_in(&self, text: &str) -> String {
        hide(&self.root, text)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.root.join("data.jsonl")
    }

    /// The adapter that the training begins with.
    pub(crate) fn parent(&self) -> PathBuf {
        self.root.join("parent")
    }

    pub(crate) fn out(&self) -> PathBuf {
        self.root.join("out")
    }

    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    pub(crate) fn steps_log(&self) -> PathBuf {
        self.root.join("steps.jsonl")
    }

    pub(crate) fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    pub(crate) fn resume(&self, step: i64) -> PathBuf {
        self.root.join("resume").join(format!("step-{step:08}"))
    }

    /// Checkpoints that wait to be uploaded, out of the trainer's reach.
    pub(crate) fn uploads(&self) -> PathBuf {
        self.root.join("uploads")
    }

    /// Removes what the trainer has written, before the job joins it again.
    pub(crate) fn clear_outputs(&self) -> io::Result<()> {
        for folder in [self.out(), self.checkpoints()] {
            if folder.exists() {
                fs::remove_dir_all(folder)?;
            }
        }
        fs::create_dir(self.checkpoints())
    }

    /// A folder that the child named, if it truly lies within the run directory.
    pub(crate) fn inside(&self, path: &Path) -> io::Result<PathBuf> {
        let path = self.root.join(path).canonicalize()?;
        if path.starts_with(&self.root) {
            Ok(path)
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the path is outside of the run directory",
            ))
        }
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        remove_soon(std::mem::take(&mut self.root));
    }
}

fn remove_soon(root: PathBuf) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(move || remove(&root))),
        Err(_) => remove(&root),
    }
}

/// Removes a directory in which a child that was just killed may still write for a moment.
fn remove(root: &Path) {
    let mut last = Ok(());
    for _ in 0..REMOVE_ATTEMPTS {
        last = fs::remove_dir_all(root);
        match &last {
            Err(error) if error.kind() != io::ErrorKind::NotFound => std::thread::sleep(REMOVE_PAUSE),
            _ => return,
        }
    }
    if let Err(error) = last {
        tracing::warn!(path = %root.display(), %error, "a directory could not be removed");
    }
}
