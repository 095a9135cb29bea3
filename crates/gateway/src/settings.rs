//! What the gateway is told at its start.

use std::{path::PathBuf, time::Duration};

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
    /// Most time for one load or probe on a replica.
    pub load_timeout: Duration,
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
            load_timeout: Duration::from_secs(90),
            read_timeout: Duration::from_secs(300),
        }
    }
}

/// A replica that somebody else runs: a vLLM server, or an engine on another machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticReplica {
    /// Name of the base model that it serves, as in our catalogue.
    pub base_model: String,
    /// `http://host:port`, without a path.
    pub url: String,
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
