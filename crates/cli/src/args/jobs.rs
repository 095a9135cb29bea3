//! `jobs …`

use clap::{Args, Subcommand};

use super::{client::ListArgs, hyperparameters::HyperparameterArgs};

/// `jobs …`
#[derive(Debug, Subcommand)]
pub(crate) enum JobsCommand {
    /// Queue a training job.
    Create(Box<CreateArgs>),
    /// List the jobs of the organization.
    List(ListArgs),
    /// Show one with its resolved hyperparameters.
    Show {
        /// Id of the job (`job_…`).
        job: String,
    },
    /// Stop one, queued or running.
    Cancel {
        /// Id of the job.
        job: String,
    },
    /// What happened to one.
    Events {
        /// Id of the job.
        job: String,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Loss, learning rate and speed of one, step by step.
    Metrics {
        /// Id of the job.
        job: String,
        /// Follow it until it ends.
        #[arg(long)]
        watch: bool,
    },
    /// List the checkpoints that one keeps.
    Checkpoints {
        /// Id of the job.
        job: String,
    },
    /// Make a version from a checkpoint.
    Publish {
        /// Id of the job.
        job: String,
        /// Optimizer steps of the checkpoint.
        step: u64,
        /// Adapter whose next version it becomes [default: the job's].
        #[arg(long, value_name = "NAME")]
        adapter: Option<String>,
    },
}

/// `jobs create`. Hyperparameters that are left out take the platform's defaults, which the answer states.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Base model, by name or id.
    #[arg(long, value_name = "NAME")]
    pub(crate) base: String,
    /// A JSONL file to upload, or a dataset by id, `name` or `name@number`.
    #[arg(long, value_name = "FILE|DATASET")]
    pub(crate) dataset: String,
    /// Name of the adapter; the job adds a version to it.
    #[arg(long, value_name = "NAME")]
    pub(crate) adapter: String,
    /// Train the adapter of a version further, as `name@7`, `name@champion` or `name@latest`; its rank, alpha and
    /// modules are taken over.
    #[arg(long, value_name = "VERSION")]
    pub(crate) parent_version: Option<String>,
    /// Follow the job until it ends. Exits with 1 where it does not succeed.
    #[arg(long)]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) hyperparameters: HyperparameterArgs,
}
