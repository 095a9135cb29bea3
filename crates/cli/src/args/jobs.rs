//! `jobs …`

use clap::{Args, Subcommand};
use tunesmith_types::hyperparameters::{
    HyperparametersRequest, OverLong, Schedule, TargetModulesRequest, TrainingDtype,
};

use super::client::ListArgs;

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
    /// Follow the job until it ends. Exits with 1 where it does not succeed.
    #[arg(long)]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) hyperparameters: HyperparameterArgs,
}

/// Hyperparameters; the server checks their bounds.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Hyperparameters")]
pub(crate) struct HyperparameterArgs {
    /// LoRA rank [default: 16].
    #[arg(long)]
    rank: Option<u32>,
    /// LoRA alpha [default: twice the rank].
    #[arg(long)]
    alpha: Option<f64>,
    /// LoRA dropout [default: 0].
    #[arg(long)]
    dropout: Option<f64>,
    /// Scale by alpha / sqrt(rank).
    #[arg(long)]
    rslora: bool,
    /// all-linear, or layers such as q_proj,v_proj [default: all-linear].
    #[arg(long, value_delimiter = ',', value_name = "LAYER")]
    targets: Vec<String>,
    /// Peak learning rate [default: 2e-4].
    #[arg(long = "lr", value_name = "RATE")]
    learning_rate: Option<f64>,
    /// constant, linear or cosine [default: cosine].
    #[arg(long, value_parser = parse_schedule)]
    schedule: Option<Schedule>,
    /// Share of the steps with a rising learning rate [default: 0.03].
    #[arg(long, value_name = "SHARE")]
    warmup_ratio: Option<f64>,
    /// AdamW's weight decay [default: 0].
    #[arg(long)]
    weight_decay: Option<f64>,
    /// Gradient clipping; 0 turns it off [default: 1].
    #[arg(long, value_name = "NORM")]
    max_grad_norm: Option<f64>,
    /// Passes over the data [default: 3].
    #[arg(long, conflicts_with = "max_steps")]
    epochs: Option<u32>,
    /// Optimizer steps, instead of epochs.
    #[arg(long, value_name = "STEPS")]
    max_steps: Option<u64>,
    /// Examples of one optimizer step [default: 16].
    #[arg(long, value_name = "EXAMPLES")]
    batch_size: Option<u32>,
    /// Tokens of the longest example [default: 2048, or the base model's limit].
    #[arg(long, value_name = "TOKENS")]
    max_seq_len: Option<u32>,
    /// What happens to longer examples: truncate, drop or fail [default: truncate].
    #[arg(long, value_parser = parse_over_long)]
    over_long: Option<OverLong>,
    /// Share of the examples held out for evaluation [default: 0.05].
    #[arg(long, value_name = "SHARE")]
    eval_fraction: Option<f64>,
    /// Steps between evaluations; 0 means at the end [default: once per epoch].
    #[arg(long, value_name = "STEPS")]
    eval_every: Option<u64>,
    /// Steps between checkpoints; 0 means at the end [default: 50].
    #[arg(long, value_name = "STEPS")]
    checkpoint_every: Option<u64>,
    /// auto, float32 or bfloat16 [default: auto].
    #[arg(long, value_parser = parse_dtype)]
    dtype: Option<TrainingDtype>,
    /// Seed of adapter, order and dropout [default: 0].
    #[arg(long)]
    seed: Option<u32>,
}

impl HyperparameterArgs {
    /// The request's form. Full destructuring, so that no option can be forgotten.
    pub(crate) fn into_request(self) -> HyperparametersRequest {
        let Self {
            rank,
            alpha,
            dropout,
            rslora,
            targets,
            learning_rate,
            schedule,
            warmup_ratio,
            weight_decay,
            max_grad_norm,
            epochs,
            max_steps,
            batch_size,
            max_seq_len,
            over_long,
            eval_fraction,
            eval_every,
            checkpoint_every,
            dtype,
            seed,
        } = self;
        let target_modules = match targets.as_slice() {
            [] => None,
            [keyword] if keyword == "all-linear" => Some(TargetModulesRequest::Keyword(keyword.clone())),
            _ => Some(TargetModulesRequest::Names(targets)),
        };
        HyperparametersRequest {
            rank,
            alpha,
            dropout,
            use_rslora: rslora.then_some(true),
            target_modules,
            learning_rate,
            schedule,
            warmup_ratio,
            weight_decay,
            max_grad_norm,
            epochs,
            max_steps,
            batch_size,
            max_seq_len,
            over_long,
            eval_fraction,
            eval_every,
            checkpoint_every,
            dtype,
            seed,
        }
    }
}

/// Reads a word as the JSON of the API has it, so that both accept the same.
fn word<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).map_err(|error| error.to_string())
}

fn parse_schedule(text: &str) -> Result<Schedule, String> {
    word(text)
}

fn parse_over_long(text: &str) -> Result<OverLong, String> {
    word(text)
}

fn parse_dtype(text: &str) -> Result<TrainingDtype, String> {
    word(text)
}
