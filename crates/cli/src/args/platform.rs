//! Commands that run parts of the platform.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

use crate::environment;

/// `up`
#[derive(Debug, Clone, Args)]
pub(crate) struct UpArgs {
    /// Where everything is kept [default: ~/.local/share/tunesmith; for root /var/lib/tunesmith].
    #[arg(long, value_name = "DIR", env = environment::DATA_DIR)]
    pub(crate) data_dir: Option<PathBuf>,
    /// Address of the API; port 0 picks a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,
    /// Write {"api_url", "api_key", "pid"} to this file when all parts are ready.
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
    /// Stop when stdin ends, for programs that start this one.
    #[arg(long, hide = true)]
    pub(crate) supervised: bool,
    #[command(flatten)]
    pub(crate) replicas: ReplicaArgs,
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,
    #[command(flatten)]
    pub(crate) objects: ObjectStoreArgs,
    #[command(flatten)]
    pub(crate) engines: EngineArgs,
    #[command(flatten)]
    pub(crate) training: TrainingArgs,
}

/// `api`
#[derive(Debug, Clone, Args)]
pub(crate) struct ApiArgs {
    /// Address of the API; port 0 picks a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,
    /// Write {"api_url", "pid"} to this file when all parts are ready.
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
    /// Folder of staged models and adapters [default: a folder below the system's temporary one].
    #[arg(long, value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) replicas: ReplicaArgs,
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,
    #[command(flatten)]
    pub(crate) objects: ObjectStoreArgs,
    #[command(flatten)]
    pub(crate) engines: EngineArgs,
}

/// `worker`
#[derive(Debug, Clone, Args)]
pub(crate) struct WorkerArgs {
    /// Folder of run directories and staged base models [default: a folder below the system's temporary one].
    #[arg(long, value_name = "DIR")]
    pub(crate) work_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,
    #[command(flatten)]
    pub(crate) objects: ObjectStoreArgs,
    #[command(flatten)]
    pub(crate) training: TrainingArgs,
}

/// Which database. A secret, so never an option: options are seen by every user of the machine.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct DatabaseArgs {
    #[arg(long, hide = true, env = environment::DATABASE_URL, hide_env_values = true)]
    pub(crate) database_url: Option<String>,
}

/// Which object store.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ObjectStoreArgs {
    #[arg(long, hide = true, env = environment::S3_ENDPOINT)]
    pub(crate) s3_endpoint: Option<String>,
    #[arg(long, hide = true, env = environment::S3_BUCKET)]
    pub(crate) s3_bucket: Option<String>,
    #[arg(long, hide = true, env = environment::S3_REGION)]
    pub(crate) s3_region: Option<String>,
}

/// Inference servers that somebody else runs.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ReplicaArgs {
    /// An inference server (vLLM, or an engine elsewhere) for a base model, by its id, its digest, or the name of one
    /// that is shared with everybody: `primer=http://host:8000,max_rank=64`. Further: kind=vllm|engine, max_adapters=N,
    /// api_key_env=NAME of the variable with its key. May be given more than once. That base model is served there only;
    /// `api` starts engines on this machine only where no server is given, `up` for all other base models.
    #[arg(long = "replica", value_name = "BASE=URL")]
    pub(crate) replicas: Vec<String>,
    /// Folder of staged adapters. Those servers must see it under the same path, and need only read it.
    #[arg(long, value_name = "DIR")]
    pub(crate) replica_cache_dir: Option<PathBuf>,
}

/// Inference on this machine.
#[derive(Debug, Clone, Args)]
pub(crate) struct EngineArgs {
    /// Most inference engines at once; each holds one base model in memory.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) max_engines: usize,
}

/// How jobs are trained. Tests shorten the timings of the queue.
#[derive(Debug, Clone, Args)]
pub(crate) struct TrainingArgs {
    /// Most jobs on one base model that are trained together; 1 trains each alone.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) gang_jobs: u16,
    /// Seconds that a trainer without jobs keeps its base model loaded for the next ones.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub(crate) trainer_idle: u64,
    /// `usual`, or `test` for take-overs within seconds.
    #[arg(long, hide = true, value_enum, default_value_t)]
    pub(crate) lease_profile: LeaseProfile,
}

/// How long leases live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum LeaseProfile {
    /// A minute.
    #[default]
    Usual,
    /// A few seconds.
    Test,
}

/// `demo`
#[derive(Debug, Clone, Args)]
pub(crate) struct DemoArgs {
    /// Which example: a folder of examples/.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "customer-support",
        conflicts_with = "all"
    )]
    pub(crate) example: String,
    /// All examples, one after the other, and a table of their metrics.
    #[arg(long)]
    pub(crate) all: bool,
    /// Folder of the examples [default: found from the executable or the working directory].
    #[arg(long, value_name = "DIR")]
    pub(crate) examples_dir: Option<PathBuf>,
    /// Base model: a folder in Hugging Face layout [default: the one that comes with this program].
    #[arg(long, value_name = "DIR")]
    pub(crate) base: Option<PathBuf>,
    /// Keep the downloaded PEFT folder here.
    #[arg(long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
}
