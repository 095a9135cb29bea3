//! Inference processes on this machine: one `tunesmith-engine` per base model that is needed, started on demand,
//! started again with growing pauses when it dies, stopped when its place is wanted by another.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::Deserialize;
use tokio::{
    process::{Child, Command},
    sync::{Notify, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tunesmith_blobs::Blobs;
use tunesmith_types::ids::BaseModelId;

use crate::{catalogue::BaseModel, fleet::ReplicaKey, settings::LocalEngineSettings, staging};

/// Longest pause between two starts of an engine.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long an engine may take to end after its stdin was closed.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Where an engine is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EngineState {
    Starting,
    Ready(ReplicaKey),
    /// It died, or never came up; it will be tried again.
    Failed {
        reason: String,
        attempts: u32,
    },
}

/// Why an engine is not running.
#[derive(Debug, thiserror::Error)]
enum EngineError {
    #[error("the base model cannot be staged")]
    Stage(#[from] staging::StagingError),
    #[error("cannot {action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the engine ended with {status}: {last_words}")]
    Ended {
        status: std::process::ExitStatus,
        last_words: String,
    },
    #[error("the engine was not ready after {0} seconds")]
    TimedOut(u64),
}

#[derive(Debug)]
struct Engine {
    state: watch::Receiver<EngineState>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// The engines of this machine.
#[derive(Debug)]
pub struct LocalEngines {
    starter: Arc<Starter>,
    engines: Mutex<HashMap<BaseModelId, Engine>>,
}

/// What the tasks of all engines share.
#[derive(Debug)]
struct Starter {
    settings: LocalEngineSettings,
    blobs: Blobs,
    generations: AtomicU64,
    wake: Mutex<Option<Arc<Notify>>>,
}

impl LocalEngines {
    /// No engine runs yet.
    #[must_use]
    pub fn new(settings: LocalEngineSettings, blobs: Blobs) -> Self {
        let starter = Starter {
            settings,
            blobs,
            generations: AtomicU64::new(1),
            wake: Mutex::default(),
        };
        Self {
            starter: Arc::new(starter),
            engines: Mutex::default(),
        }
    }

    /// Who is told when an engine's state changes.
    pub(crate) fn set_wake(&self, wake: Arc<Notify>) {
        *self
            .starter
            .wake
            .lock()
            .expect("invariant: the lock is held for one assignment") = Some(wake);
    }

    /// Most engines at once.
    pub(crate) fn limit(&self) -> usize {
        self.starter.settings.max_engines
    }

    /// Base models with an engine, running or starting.
    pub(crate) fn present(&self) -> Vec<BaseModelId> {
        self.lock().keys().copied().collect()
    }

    /// State of the engine of `base`; starts it where there is none. The caller keeps to [`Self::limit`].
    pub(crate) fn ensure(&self, base: &BaseModel) -> EngineState {
        let mut engines = self.lock();
        let engine = engines.entry(base.id).or_insert_with(|| {
            let (sender, state) = watch::channel(EngineState::Starting);
            let stop = CancellationToken::new();
            let task = tokio::spawn(supervise(
                Arc::clone(&self.starter),
                base.clone(),
                sender,
                stop.clone(),
            ));
            Engine { state, stop, task }
        });
        engine.state.borrow().clone()
    }

    /// Stops the engine of `base` and waits until it is gone.
    pub(crate) async fn stop(&self, base: BaseModelId) {
        let engine = self.lock().remove(&base);
        if let Some(engine) = engine {
            engine.finish().await;
        }
    }

    /// Stops all engines and waits until they are gone.
    pub async fn shutdown(&self) {
        let engines: Vec<Engine> = self.lock().drain().map(|(_, engine)| engine).collect();
        for engine in &engines {
            engine.stop.cancel();
        }
        for engine in engines {
            engine.finish().await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<BaseModelId, Engine>> {
        self.engines
            .lock()
            .expect("invariant: no holder of the engines' lock panics")
    }
}

impl Engine {
    async fn finish(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the task of an engine failed");
        }
    }
}

async fn supervise(
    starter: Arc<Starter>,
    base: BaseModel,
    state: watch::Sender<EngineState>,
    stop: CancellationToken,
) {
    let mut attempts: u32 = 0;
    loop {
        let started = tokio::time::Instant::now();
        let Some(error) = starter.run(&base, &state, &stop).await.err() else {
            return;
        };
        if stop.is_cancelled() {
            return;
        }
        // An engine that ran for a while and died is not one that cannot start.
        attempts = if started.elapsed() > LONGEST_PAUSE {
            1
        } else {
            attempts + 1
        };
        tracing::error!(base_model = %base.name, attempts, error = &error as &dyn std::error::Error, "engine failed");
        starter.announce(
            &state,
            EngineState::Failed {
                reason: chain(&error),
                attempts,
            },
        );
        let pause = Duration::from_millis(250 << attempts.min(8)).min(LONGEST_PAUSE);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

impl Starter {
    fn announce(&self, state: &watch::Sender<EngineState>, value: EngineState) {
        state.send_replace(value);
        if let Some(wake) = &*self
            .wake
            .lock()
            .expect("invariant: the lock is held for one assignment")
        {
            wake.notify_one();
        }
    }

    /// One life of an engine. `Ok` means that it was stopped on request.
    async fn run(
        &self,
        base: &BaseModel,
        state: &watch::Sender<EngineState>,
        stop: &CancellationToken,
    ) -> Result<(), EngineError> {
        let folder = self
            .settings
            .cache_dir
            .join("base-models")
            .join(base.digest.as_str());
        tokio::select! {
            staged = staging::stage(&self.blobs, &base.files, &folder) => staged?,
            () = stop.cancelled() => return Ok(()),
        }
        let generation = self.generations.fetch_add(1, Ordering::Relaxed);
        let place = self
            .settings
            .run_dir
            .join(format!("engine-{}-{generation}", base.name));
        let (ready_file, log) = (place.with_extension("json"), place.with_extension("log"));
        let mut child = self.spawn(base, &folder, &ready_file, &log)?;
        // The child reads the end of its stdin as the order to end, and waiting for a child closes a stdin it holds.
        let stdin = child.stdin.take();
        let ended = self.watch(&mut child, &ready_file, generation, state, stop).await;
        drop(stdin);
        if tokio::time::timeout(STOP_PATIENCE, child.wait()).await.is_err() {
            let _ = child.kill().await;
        }
        let _ = fs::remove_file(&ready_file);
        match ended {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(EngineError::Ended {
                status,
                last_words: last_words(&log),
            }),
            Err(error) => Err(error),
        }
    }

    fn spawn(
        &self,
        base: &BaseModel,
        folder: &Path,
        ready_file: &Path,
        log: &Path,
    ) -> Result<Child, EngineError> {
        let file = |action, path: &Path| {
            let path = path.to_owned();
            move |source| EngineError::File { action, path, source }
        };
        fs::create_dir_all(&self.settings.run_dir).map_err(file("create", &self.settings.run_dir))?;
        let _ = fs::remove_file(ready_file);
        let stderr = fs::File::create(log).map_err(file("create", log))?;
        Command::new(&self.settings.executable)
            .arg("serve")
            .arg("--base")
            .arg(folder)
            .args([
                "--listen",
                "127.0.0.1:0",
                "--supervised",
                "--model-name",
                base.name.as_str(),
                "--ready-file",
            ])
            .arg(ready_file)
            .args(&self.settings.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(stderr)
            .kill_on_drop(true)
            .spawn()
            .map_err(file("start", &self.settings.executable))
    }

    /// Follows a child until it ends (`Some`) or is to be stopped (`None`).
    async fn watch(
        &self,
        child: &mut Child,
        ready_file: &Path,
        generation: u64,
        state: &watch::Sender<EngineState>,
        stop: &CancellationToken,
    ) -> Result<Option<std::process::ExitStatus>, EngineError> {
        let ready = async {
            loop {
                if let Some(url) = read_ready_file(ready_file) {
                    return url;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let wait_failed = |source| EngineError::File {
            action: "wait for",
            path: self.settings.executable.clone(),
            source,
        };
        let url = tokio::select! {
            url = tokio::time::timeout(self.settings.start_timeout, ready) => {
                url.map_err(|_| EngineError::TimedOut(self.settings.start_timeout.as_secs()))?
            }
            status = child.wait() => return status.map(Some).map_err(wait_failed),
            () = stop.cancelled() => return Ok(None),
        };
        tracing::info!(%url, generation, "engine is ready");
        self.announce(state, EngineState::Ready(ReplicaKey { url, generation }));
        tokio::select! {
            status = child.wait() => status.map(Some).map_err(wait_failed),
            () = stop.cancelled() => Ok(None),
        }
    }
}

fn read_ready_file(path: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct ReadyFile {
        url: String,
    }
    let text = fs::read(path).ok()?;
    serde_json::from_slice::<ReadyFile>(&text)
        .ok()
        .map(|ready| ready.url)
}

/// The last line that a process wrote, cut to what fits in a message.
fn last_words(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let tail = String::from_utf8_lossy(&text[text.len().saturating_sub(4096)..]).into_owned();
    let line = tail
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("it said nothing");
    line.chars().take(400).collect()
}
