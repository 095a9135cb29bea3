//! What the gateway is told at its start.

use std::{fmt, path::PathBuf, time::Duration};

use tunesmith_store::replicas::ReplicaKind;

/// Timings and limits of routing and reconciling.
#[derive(Debug, Clone)]
pub struct GatewaySettings {
    /// Folder of staged adapters (`adapters/<digest>/`); replicas open it under the same path.
    pub cache_dir: PathBuf,
    /// How long a request waits for a replica that is starting before it is told to come back.
    pub start_wait: Duration,
    /// Reconciliation happens this often even when nothing was announced.
    pub reconcile_every: Duration,
    /// A version stays loaded this long after the last deployment stopped needing it.
    pub unload_grace: Duration,
    /// Canaries are looked at this often.
    pub canary_every: Duration,
    /// A staged adapter stays on disk this long after the last replica forgot it.
    pub sweep_grace: Duration,
    /// Most time for one load or probe on a replica.
    pub load_timeout: Duration,
    /// Loads on one replica take turns; one that takes longer than this lets the next begin beside it.
    pub load_turn: Duration,
    /// Pause before an adapter is tried again; it doubles with each try, up to a minute.
    pub retry_pause: Duration,
    /// A replica that has been silent for this long does not hold up a promotion any more.
    pub absent_after: Duration,
    /// Most silence of a replica between two pieces of an answer.
    pub read_timeout: Duration,
}

impl GatewaySettings {
    /// The usual timings, with `cache_dir`.
    #[must_use]
    pub fn new(cache_dir: PathBuf) -> Self {
        Self {
            cache_dir,
            start_wait: Duration::from_secs(30),
            reconcile_every: Duration::from_secs(5),
            unload_grace: Duration::from_secs(60),
            canary_every: Duration::from_secs(1),
            sweep_grace: Duration::from_secs(600),
            load_timeout: Duration::from_secs(90),
            load_turn: Duration::from_secs(15),
            retry_pause: Duration::from_secs(1),
            absent_after: Duration::from_secs(30),
            read_timeout: Duration::from_secs(300),
        }
    }
}

/// A replica that somebody else runs: a vLLM server, or an engine on another machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticReplica {
    /// The base model that it serves: its id, its digest, or the name of one that is shared with everybody.
    pub base_model: String,
    /// `http://host:port`, without a path.
    pub url: String,
    /// What program it is.
    pub kind: ReplicaKind,
    /// Highest rank of an adapter that it loads (vLLM's `--max-lora-rank`).
    pub max_rank: Option<u32>,
    /// Most adapters that it holds (vLLM's `--max-cpu-loras`). An engine says so itself.
    pub max_adapters: Option<u32>,
    /// What it wants to see as bearer (vLLM's `--api-key`).
    pub api_key: Option<ReplicaSecret>,
}

impl StaticReplica {
    /// A replica without limits and without a key.
    #[must_use]
    pub fn new(base_model: &str, url: &str, kind: ReplicaKind) -> Self {
        Self {
            base_model: base_model.to_owned(),
            url: url.trim_end_matches('/').to_owned(),
            kind,
            max_rank: None,
            max_adapters: None,
            api_key: None,
        }
    }
}

/// A replica's key. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct ReplicaSecret(String);

impl ReplicaSecret {
    /// Wraps a key.
    #[must_use]
    pub fn new(secret: String) -> Self {
        Self(secret)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ReplicaSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ReplicaSecret(…)")
    }
}

/// How inference processes are run on this machine.
#[derive(Debug, Clone)]
pub struct LocalEngineSettings {
    /// The `tunesmith-engine` executable.
    pub executable: PathBuf,
    /// Folder of staged base models (`base-models/<digest>/`).
    pub cache_dir: PathBuf,
    /// Folder of ready files and logs.
    pub run_dir: PathBuf,
    /// Most engines at once; each holds one base model in memory.
    pub max_engines: usize,
    /// An engine that does not answer within this time of its start is stopped and tried again.
    pub start_timeout: Duration,
    /// Further arguments (`--device`, `--dtype`, `--threads`).
    pub arguments: Vec<String>,
}

impl LocalEngineSettings {
    /// The usual limits.
    #[must_use]
    pub fn new(executable: PathBuf, cache_dir: PathBuf, run_dir: PathBuf) -> Self {
        Self {
            executable,
            cache_dir,
            run_dir,
            max_engines: 2,
            start_timeout: Duration::from_secs(120),
            arguments: Vec::new(),
        }
    }
}
