//! The server's process, started by a thread of its own.
//!
//! The kernel sends the parent-death signal when the *thread* that started a process ends, so the thread that starts the
//! server does nothing else and lives as long as the server does.

use std::{process::Command, thread};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::sync::watch;

use super::EmbeddedError;

/// A process that somebody waits for.
#[derive(Debug)]
pub(super) struct ServerProcess {
    pid: u32,
    /// How it ended, once it has.
    ended: watch::Receiver<Option<String>>,
}

impl ServerProcess {
    pub(super) fn spawn(mut command: Command) -> Result<Self, EmbeddedError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let failed = |source| EmbeddedError::Run {
            program: program.clone(),
            source,
        };
        let (started_sender, started) = std::sync::mpsc::sync_channel(1);
        let (ended_sender, ended) = watch::channel(None);
        thread::Builder::new()
            .name("embedded-postgres".to_owned())
            .spawn(move || match command.spawn() {
                Ok(mut child) => {
                    // The receiver waits for exactly this.
                    let _: Result<(), _> = started_sender.send(Ok(child.id()));
                    let how = match child.wait() {
                        Ok(status) => status.to_string(),
                        Err(error) => error.to_string(),
                    };
                    ended_sender.send_replace(Some(how));
                }
                Err(error) => {
                    let _: Result<(), _> = started_sender.send(Err(error));
                }
            })
            .map_err(failed)?;
        let pid = started
            .recv()
            .expect("invariant: the thread sends before it ends")
            .map_err(failed)?;
        Ok(Self { pid, ended })
    }

    pub(super) const fn pid(&self) -> u32 {
        self.pid
    }

    /// Asks for a fast shutdown, if it still runs.
    pub(super) fn interrupt(&self) {
        if self.ended.borrow().is_some() {
            return;
        }
        if let Ok(pid) = i32::try_from(self.pid) {
            // It may have ended just now.
            let _: nix::Result<()> = kill(Pid::from_raw(pid), Signal::SIGINT);
        }
    }

    /// Waits until it has ended, and says how.
    pub(super) async fn ended(&self) -> String {
        let mut ended = self.ended.clone();
        let how = match ended.wait_for(Option::is_some).await {
            Ok(how) => how.clone(),
            Err(_) => None,
        };
        how.unwrap_or_else(|| "unknown".to_owned())
    }
}
