//! The platform as a user starts it: `tunesmith up`, or its processes apart.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::{Client, executable, is_alive, kill_hard, processes_in, terminate, wait_until};

/// Shortened lease timings, so that a take-over takes seconds.
const QUICK_LEASES: [&str; 2] = ["--lease-profile", "test"];

/// A running `tunesmith up` with its own data directory.
pub(crate) struct Platform {
    child: Child,
    folder: Option<TempDir>,
    pub(crate) data_dir: PathBuf,
    pub(crate) client: Client,
}

impl Platform {
    /// A fresh platform.
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut platform = Self::start_in(folder.path()).await;
        platform.folder = Some(folder);
        platform
    }

    /// A fresh platform on which the tiny base model is registered as `tiny`.
    pub(crate) async fn start_with_tiny_model() -> Self {
        let platform = Self::start().await;
        platform
            .client
            .register_base_model("tiny", &super::tiny_base_model())
            .await;
        platform
    }

    /// A platform on the data directory `folder`, new or used.
    pub(crate) async fn start_in(folder: &Path) -> Self {
        let ready_file = folder.join("ready.json");
        let _ = std::fs::remove_file(&ready_file);
        let child = up_command(folder).spawn().unwrap();
        let mut platform = Self {
            child,
            folder: None,
            data_dir: folder.to_owned(),
            client: Client::new("", None),
        };
        let ready: Value = wait_until("the platform", || {
            let exited = platform.child.try_wait().unwrap();
            assert!(
                exited.is_none(),
                "tunesmith up ended early: {exited:?}\n{}",
                platform.log()
            );
            let text = std::fs::read_to_string(&ready_file).ok();
            async move { serde_json::from_str(&text?).ok() }
        })
        .await;
        platform.client = Client::new(ready["api_url"].as_str().unwrap(), ready["api_key"].as_str());
        platform
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the platform wrote to stderr.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.data_dir.join("up.log")).unwrap_or_default()
    }

    /// Ctrl-C's gentle sister; waits for the end and checks that nothing stays behind.
    pub(crate) async fn stop(mut self) {
        terminate(self.child.id());
        self.assert_ends_alone().await;
    }

    /// kill -9; all children must follow.
    pub(crate) async fn kill(mut self) {
        kill_hard(self.child.id());
        self.assert_ends_alone().await;
    }

    async fn assert_ends_alone(&mut self) {
        wait_until("the end of tunesmith up", || {
            let ended = self.child.try_wait().unwrap();
            async move { ended }
        })
        .await;
        wait_until("the end of all its children", || {
            let left = processes_in(&self.data_dir);
            async move { left.is_empty().then_some(()) }
        })
        .await;
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        if is_alive(self.child.id()) {
            terminate(self.child.id());
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            tail.into_iter().rev().for_each(write_line);
        }
    }
}

/// Test output is captured only through the print macros.
#[allow(clippy::print_stderr, reason = "the log of a failed test")]
fn write_line(line: &str) {
    eprintln!("{line}");
}

/// `tunesmith up` on `folder`, its words in `up.log`.
pub(crate) fn up_command(folder: &Path) -> Command {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(folder.join("up.log"))
        .unwrap();
    let mut command = Command::new(executable("tunesmith"));
    command
        .args(["up", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(folder)
        .arg("--ready-file")
        .arg(folder.join("ready.json"))
        .args(QUICK_LEASES)
        .env("TUNESMITH_LOG", "info")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    command
}
