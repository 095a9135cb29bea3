//! The folder of the server: `cluster/` with the data, `password`, `server.log`, and `lock`.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rand::Rng;

use super::{EmbeddedError, NAME, identity::Identity, programs::Programs};

/// A server whose instance was killed shuts down by itself; this is the longest that it may take.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(30);
const ORPHAN_POLL: Duration = Duration::from_millis(50);
const LOG_TAIL_BYTES: u64 = 4096;

/// The folder, locked for this instance until dropped.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes the folder where it is not there, and locks it.
    pub(super) fn lock(path: &Path) -> Result<Self, EmbeddedError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| EmbeddedError::file("make", path, source))?;
        let path = fs::canonicalize(path).map_err(|source| EmbeddedError::file("find", path, source))?;
        let place = path.join("lock");
        let lock = private(OpenOptions::new().write(true).create(true).truncate(false))
            .open(&place)
            .map_err(|source| EmbeddedError::file("open", &place, source))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(EmbeddedError::InUse { directory: path }),
            Err(TryLockError::Error(source)) => Err(EmbeddedError::file("lock", &place, source)),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn cluster(&self) -> PathBuf {
        self.path.join("cluster")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.path.join("server.log")
    }

    pub(super) fn has_cluster(&self) -> bool {
        self.cluster().join("PG_VERSION").exists()
    }

    /// The version that made the data, where there are any.
    pub(super) fn cluster_major(&self) -> Result<Option<u32>, EmbeddedError> {
        if !self.has_cluster() {
            return Ok(None);
        }
        let place = self.cluster().join("PG_VERSION");
        let text =
            fs::read_to_string(&place).map_err(|source| EmbeddedError::file("read", &place, source))?;
        Ok(text.trim().parse().ok())
    }

    /// The server's password; made on the first call.
    pub(super) fn password(&self) -> Result<String, EmbeddedError> {
        let place = self.path.join("password");
        let failed = |source| EmbeddedError::file("write", &place, source);
        match fs::read_to_string(&place) {
            Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(EmbeddedError::file("read", &place, source)),
        }
        let bytes: [u8; 24] = rand::rng().random();
        let password: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let partial = self.path.join("password.partial");
        let mut file = private(OpenOptions::new().write(true).create(true).truncate(true))
            .open(&partial)
            .map_err(failed)?;
        file.write_all(password.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(failed)?;
        fs::rename(&partial, &place).map_err(failed)?;
        Ok(password)
    }

    /// Makes the folder and its files the identity's own.
    pub(super) fn give_to(&self, identity: &Identity) -> Result<(), EmbeddedError> {
        for name in ["cluster", "password"] {
            let place = self.path.join(name);
            if place.exists() {
                identity.take(&place)?;
            }
        }
        identity.take(&self.path)
    }

    /// Runs `initdb` beside the place of the data and renames the result into it: an interrupted one leaves nothing.
    pub(super) fn initialise(
        &self,
        programs: &Programs,
        identity: &Identity,
        sync: bool,
    ) -> Result<(), EmbeddedError> {
        let partial = self.path.join("cluster.partial");
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(|source| EmbeddedError::file("remove", &partial, source))?;
        }
        let program = programs.initdb();
        let mut command = identity.command(&program, true);
        command
            .arg("--pgdata")
            .arg(&partial)
            .arg("--pwfile")
            .arg(self.path.join("password"));
        command.args([
            "--username",
            NAME,
            "--auth",
            "scram-sha-256",
            "--encoding",
            "UTF8",
        ]);
        command.args(programs.locale_arguments());
        if !sync {
            command.arg("--no-sync");
        }
        let output = command
            .stdin(Stdio::null())
            .output()
            .map_err(|source| EmbeddedError::Run {
                program: program.display().to_string(),
                source,
            })?;
        if !output.status.success() {
            let output = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(EmbeddedError::Initialise { output });
        }
        let place = self.cluster();
        fs::rename(&partial, &place).map_err(|source| EmbeddedError::file("make", &place, source))
    }

    /// Waits for a server that an instance before us left behind when it was killed, and which is shutting down.
    /// A process id that belongs to another program by now, after a restart of the machine, is forgotten.
    pub(super) async fn await_orphan(&self) -> Result<(), EmbeddedError> {
        let place = self.cluster().join("postmaster.pid");
        let Some(pid) = read_pid(&place) else {
            return Ok(());
        };
        match working_folder(pid) {
            // It has ended (which PostgreSQL sees for itself), or this is no Linux.
            None => Ok(()),
            Some(folder) if folder == self.cluster() => self.outlive(pid).await,
            Some(_) => match fs::remove_file(&place) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    Err(EmbeddedError::file("remove", &place, source))
                }
                _ => Ok(()),
            },
        }
    }

    /// Waits until the server has ended; it removes its own file a moment before.
    async fn outlive(&self, pid: i32) -> Result<(), EmbeddedError> {
        tracing::info!(pid, "waiting for the postgres server of a killed instance to end");
        // The signal of its parent's death may have come before it listened.
        let _: nix::Result<()> = kill(Pid::from_raw(pid), Signal::SIGINT);
        let begun = Instant::now();
        while working_folder(pid).is_some_and(|folder| folder == self.cluster()) {
            if begun.elapsed() > ORPHAN_PATIENCE {
                return Err(EmbeddedError::Orphan {
                    directory: self.path.clone(),
                    pid,
                });
            }
            tokio::time::sleep(ORPHAN_POLL).await;
        }
        Ok(())
    }

    /// An empty log; the one before is kept beside it.
    pub(super) fn new_log(&self) -> Result<File, EmbeddedError> {
        let place = self.log();
        if place.exists() {
            let before = self.path.join("server.previous.log");
            fs::rename(&place, &before).map_err(|source| EmbeddedError::file("rename", &place, source))?;
        }
        private(OpenOptions::new().append(true).create(true))
            .open(&place)
            .map_err(|source| EmbeddedError::file("open", &place, source))
    }

    /// The end of the log, for an error message.
    pub(super) fn log_tail(&self) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(self.log())?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
        };
        read().unwrap_or_else(|error| format!("its log cannot be read: {error}"))
    }

    /// The port was taken, or processes of a killed server still hold its shared memory.
    pub(super) fn log_says_try_again(&self) -> bool {
        let log = self.log_tail();
        log.contains("Address already in use") || log.contains("is still in use")
    }
}

/// Only for us.
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options.mode(0o600)
}

/// The process id that a running server has left in its data folder.
fn read_pid(place: &Path) -> Option<i32> {
    fs::read_to_string(place)
        .ok()?
        .lines()
        .next()?
        .trim()
        .parse()
        .ok()
}

/// Where a process works; none where there is no such process.
fn working_folder(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/cwd")).ok()
}
