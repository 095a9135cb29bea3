//! A private PostgreSQL for `tunesmith up` and for the tests: real programs, on loopback, with a random password.
//!
//! It lives as long as its [`EmbeddedPostgres`]: it ends in order when that is stopped, and also when the process is
//! killed, because the kernel then sends it the signal for a fast shutdown. Its data survive both, and a kill of the
//! server itself: the next start recovers them from the write-ahead log.

mod error;
mod folder;
mod identity;
mod process;
mod programs;

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{Connection, Executor, PgConnection, postgres::PgConnectOptions};

pub use self::error::EmbeddedError;
use self::{folder::Folder, identity::Identity, process::ServerProcess, programs::Programs};

/// The superuser, and the database that is ours.
const NAME: &str = "tunesmith";
/// Recovery after a crash may take its time.
const LONGEST_START: Duration = Duration::from_secs(300);
const LONGEST_STOP: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
/// Somebody else may take the port between our finding it and the server's using it, and what a killed server left
/// behind needs a moment to end.
const TRIES: usize = 50;
const PAUSE_BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// How to run it.
#[derive(Debug, Clone)]
pub struct EmbeddedSettings {
    /// Folder for the data, the password, the log and the lock; made where it is not there.
    pub directory: PathBuf,
    /// Whether commits reach the disk before they are acknowledged. Off only for data that nobody keeps.
    pub fsync: bool,
}

impl EmbeddedSettings {
    /// Data that are kept.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            fsync: true,
        }
    }
}

/// A running server.
#[derive(Debug)]
pub struct EmbeddedPostgres {
    process: ServerProcess,
    port: u16,
    password: String,
    // Held until the server has ended.
    folder: Folder,
}

impl EmbeddedPostgres {
    /// Starts the server and waits until it answers. The first start makes the data folder.
    ///
    /// # Errors
    /// [`EmbeddedError::InUse`] where another instance runs on the folder; [`EmbeddedError::NoPrograms`] where there
    /// is no PostgreSQL; others say which step failed.
    pub async fn start(settings: &EmbeddedSettings) -> Result<Self, EmbeddedError> {
        Self::start_as(settings, None, Path::new(identity::SHARED_FOLDER)).await
    }

    async fn start_as(
        settings: &EmbeddedSettings,
        identity: Option<Identity>,
        shared: &Path,
    ) -> Result<Self, EmbeddedError> {
        let folder = Folder::lock(&settings.directory)?;
        folder.await_orphan().await?;
        let programs = Programs::find(folder.cluster_major()?)?;
        let identity = match identity {
            Some(identity) => identity,
            None => Identity::choose(&programs, folder.path())?,
        };
        let programs = identity.readable(programs, shared)?;
        let password = folder.password()?;
        folder.give_to(&identity)?;
        if !folder.has_cluster() {
            folder.initialise(&programs, &identity, settings.fsync)?;
        }
        for _ in 0..TRIES {
            let port = free_port()?;
            let process = start_server(settings, &folder, &programs, &identity, port)?;
            if await_ready(&process, port, &password).await? {
                let server = Self {
                    process,
                    port,
                    password,
                    folder,
                };
                server.make_database().await?;
                tracing::info!(port, pid = server.process.pid(), "embedded postgres is ready");
                return Ok(server);
            }
            if !folder.log_says_try_again() {
                break;
            }
            tokio::time::sleep(PAUSE_BETWEEN_TRIES).await;
        }
        Err(EmbeddedError::DidNotStart {
            log: folder.log_tail(),
        })
    }

    /// `postgres://…` of our database.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of(NAME)
    }

    /// `postgres://…` of the database `postgres`, from which others can be made and dropped.
    #[must_use]
    pub fn maintenance_url(&self) -> String {
        self.url_of("postgres")
    }

    fn url_of(&self, database: &str) -> String {
        format!(
            "postgres://{NAME}:{}@127.0.0.1:{}/{database}",
            self.password, self.port
        )
    }

    /// Process id of the server.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where its data are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.folder.path()
    }

    /// Waits until the server has ended, which without [`Self::stop`] it should not.
    pub async fn ended(&self) -> String {
        self.process.ended().await
    }

    /// Ends the server in order, and waits until it has.
    ///
    /// # Errors
    /// [`EmbeddedError::DidNotStop`].
    pub async fn stop(self) -> Result<(), EmbeddedError> {
        self.process.interrupt();
        match tokio::time::timeout(LONGEST_STOP, self.process.ended()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(EmbeddedError::DidNotStop {
                pid: self.process.pid(),
            }),
        }
    }

    async fn make_database(&self) -> Result<(), EmbeddedError> {
        let options = connect_options(self.port, &self.password, "postgres");
        let mut connection = PgConnection::connect_with(&options)
            .await
            .map_err(EmbeddedError::Database)?;
        let there: Option<(i32,)> = sqlx::query_as("select 1 from pg_database where datname = 'tunesmith'")
            .fetch_optional(&mut connection)
            .await
            .map_err(EmbeddedError::Database)?;
        if there.is_none() {
            connection
                .execute("create database tunesmith")
                .await
                .map_err(EmbeddedError::Database)?;
        }
        connection.close().await.map_err(EmbeddedError::Database)
    }
}

impl Drop for EmbeddedPostgres {
    /// Without [`Self::stop`], the server is told to end and is not waited for.
    fn drop(&mut self) {
        self.process.interrupt();
    }
}

fn free_port() -> Result<u16, EmbeddedError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(EmbeddedError::Port)?;
    Ok(listener.local_addr().map_err(EmbeddedError::Port)?.port())
}

fn connect_options(port: u16, password: &str, database: &str) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(port)
        .username(NAME)
        .password(password)
        .database(database)
}

fn start_server(
    settings: &EmbeddedSettings,
    folder: &Folder,
    programs: &Programs,
    identity: &Identity,
    port: u16,
) -> Result<ServerProcess, EmbeddedError> {
    let mut command = identity.command(&programs.postgres(), true);
    command
        .arg("-D")
        .arg(folder.cluster())
        .arg("-p")
        .arg(port.to_string());
    for setting in [
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "max_connections=200",
    ] {
        command.arg("-c").arg(setting);
    }
    if !settings.fsync {
        for setting in ["fsync=off", "synchronous_commit=off", "full_page_writes=off"] {
            command.arg("-c").arg(setting);
        }
    }
    let log = folder.new_log()?;
    let copy = log
        .try_clone()
        .map_err(|source| EmbeddedError::file("open", &folder.log(), source))?;
    command
        .stdin(std::process::Stdio::null())
        .stdout(copy)
        .stderr(log);
    ServerProcess::spawn(command)
}

/// Waits for an answer to a real login. False: the server ended.
async fn await_ready(process: &ServerProcess, port: u16, password: &str) -> Result<bool, EmbeddedError> {
    let options = connect_options(port, password, "postgres");
    let answers = async {
        loop {
            match PgConnection::connect_with(&options).await {
                Ok(connection) => return connection.close().await,
                Err(error) if refuses_us(&error) => return Err(error),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    };
    tokio::select! {
        answered = tokio::time::timeout(LONGEST_START, answers) => match answered {
            Ok(Ok(())) => Ok(true),
            Ok(Err(error)) => Err(EmbeddedError::Database(error)),
            Err(_) => Ok(false),
        },
        _ = process.ended() => Ok(false),
    }
}

/// A wrong password will not get better; not being ready yet will.
fn refuses_us(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|error| error.code())
        .is_some_and(|code| code.starts_with("28"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    /// Every way of running it that this machine allows, where only one would be chosen by itself.
    #[tokio::test]
    async fn starts_under_every_identity() {
        let shared = tempfile::tempdir().unwrap();
        fs::set_permissions(shared.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for identity in Identity::possible() {
            let directory = tempfile::tempdir().unwrap();
            let settings = EmbeddedSettings {
                directory: directory.path().join("postgres"),
                fsync: false,
            };
            for _ in 0..2 {
                let identity = Some(identity.clone());
                let server = EmbeddedPostgres::start_as(&settings, identity, shared.path())
                    .await
                    .unwrap();
                let mut connection = PgConnection::connect(&server.url()).await.unwrap();
                connection
                    .execute("create table if not exists kept (number integer)")
                    .await
                    .unwrap();
                connection.close().await.unwrap();
                server.stop().await.unwrap();
            }
        }
    }
}
