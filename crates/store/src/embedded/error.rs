//! Why the private server does not run.

use std::{
    io,
    path::{Path, PathBuf},
};

/// One variant a step.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// Another instance holds the folder.
    #[error("another instance of tunesmith is running on {}", directory.display())]
    InUse {
        /// The folder.
        directory: PathBuf,
    },
    /// A server that a killed instance left behind does not end.
    #[error("a postgres server (process {pid}) still runs on {}; end it, then start again", directory.display())]
    Orphan {
        /// The folder.
        directory: PathBuf,
        /// Process id.
        pid: i32,
    },
    /// No PostgreSQL on this machine.
    #[error(
        "no postgresql was found{}; run `make setup`, install one (15 or newer), or name the folder of its programs in TUNESMITH_POSTGRES_BIN",
        wanted.map_or_else(String::new, |major| format!(" of version {major}, which made the data"))
    )]
    NoPrograms {
        /// The version that is needed, where there are data already.
        wanted: Option<u32>,
    },
    /// A file or folder could not be handled.
    #[error("could not {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A program could not be started.
    #[error("could not run {program}")]
    Run {
        /// Its name.
        program: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// `initdb` failed.
    #[error("initdb failed: {output}")]
    Initialise {
        /// What it said.
        output: String,
    },
    /// No free port on 127.0.0.1.
    #[error("could not find a free port")]
    Port(#[source] io::Error),
    /// The server ended, or never answered.
    #[error("postgres did not start: {log}")]
    DidNotStart {
        /// End of its log.
        log: String,
    },
    /// The server ran on after it was told to end.
    #[error("postgres (process {pid}) did not stop")]
    DidNotStop {
        /// Process id.
        pid: u32,
    },
    /// The server answered with an error.
    #[error("the embedded database does not let us in")]
    Database(#[source] sqlx::Error),
}

impl EmbeddedError {
    pub(super) fn file(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::File {
            action,
            path: path.to_owned(),
            source,
        }
    }
}
