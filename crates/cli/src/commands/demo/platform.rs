//! A platform of the demo's own: `tunesmith up` as a child, in a temporary folder, on a free port.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context, bail};
use tokio::process::{Child, ChildStdin, Command};

use crate::{
    client::ApiClient,
    platform::ReadyFile,
    settings::{ClientSettings, Credentials},
};

/// The first start makes a database; a slow disk may take its time.
const START_PATIENCE: Duration = Duration::from_secs(120);
const STOP_PATIENCE: Duration = Duration::from_secs(60);
/// Lines of the log that are shown where the start fails.
const LOG_LINES: usize = 15;

/// The child and a client of it. The child ends when its stdin does, so it never outlives us.
#[derive(Debug)]
pub(super) struct DemoPlatform {
    child: Child,
    stdin: Option<ChildStdin>,
    client: ApiClient,
}

impl DemoPlatform {
    pub(super) async fn start(folder: &Path) -> anyhow::Result<Self> {
        let (ready_file, log_file) = (folder.join("ready.json"), folder.join("up.log"));
        let executable = std::env::current_exe().context("cannot tell where this executable is")?;
        let log = std::fs::File::create(&log_file)
            .with_context(|| format!("cannot create {}", log_file.display()))?;
        let mut child = Command::new(executable)
            .args(["up", "--supervised", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(folder.join("data"))
            .arg("--ready-file")
            .arg(&ready_file)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C reaches this process only, which then ends the child in order.
            .process_group(0)
            .spawn()
            .context("cannot start the platform")?;
        // Waiting for a child closes a stdin that it holds, and the end of its stdin ends the child.
        let stdin = child.stdin.take();
        let ready = tokio::select! {
            ready = tokio::time::timeout(START_PATIENCE, wait_for(&ready_file)) => ready.ok(),
            _ = child.wait() => None,
        };
        let Some(ReadyFile { api_url, api_key, .. }) = ready else {
            let text = std::fs::read_to_string(&log_file).unwrap_or_default();
            let tail: Vec<&str> = text.lines().rev().take(LOG_LINES).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            bail!("the platform did not start:\n{}", tail.join("\n"));
        };
        let credentials = api_key.map_or(Credentials::None, Credentials::ApiKey);
        let settings = ClientSettings {
            api_url,
            credentials,
            config_path: folder.join("config.json"),
        };
        Ok(Self {
            child,
            stdin,
            client: ApiClient::new(settings)?,
        })
    }

    pub(super) fn client(&self) -> &ApiClient {
        &self.client
    }

    /// Ends the child in order and waits until it has stopped all that it started.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        drop(self.stdin.take());
        match tokio::time::timeout(STOP_PATIENCE, self.child.wait()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error).context("cannot wait for the platform"),
            Err(_) => {
                self.child.kill().await.context("cannot stop the platform")?;
                bail!("the platform did not stop in time and was killed")
            }
        }
    }
}

async fn wait_for(path: &Path) -> ReadyFile {
    loop {
        let text = std::fs::read(path).unwrap_or_default();
        if let Ok(ready) = serde_json::from_slice(&text) {
            return ready;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
