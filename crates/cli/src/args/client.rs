//! Commands over the public API, but for jobs.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::aliases::AliasCommand;
use super::rollouts::{CanaryCommand, RevisionArgs, RouteArg, ShadowCommand, VersionArgs};
use crate::evaluate::Metric;

/// `signup`
#[derive(Debug, Args)]
pub(crate) struct SignupArgs {
    /// Email address; asked for where it is left out.
    #[arg(long)]
    pub(crate) email: Option<String>,
    /// Name of the organization to create.
    #[arg(long, value_name = "NAME")]
    pub(crate) organization: Option<String>,
}

/// `login`
#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// Email address; asked for where it is left out. The password is asked for, or read from stdin.
    #[arg(long)]
    pub(crate) email: Option<String>,
    /// Store this API key instead of logging in with a password.
    #[arg(long, value_name = "KEY", conflicts_with = "email")]
    pub(crate) api_key: Option<String>,
}

/// `api-keys …`
#[derive(Debug, Subcommand)]
pub(crate) enum ApiKeysCommand {
    /// Create a key. It is shown once.
    Create {
        /// What it is for.
        name: String,
    },
    /// List the keys of the organization.
    List(ListArgs),
    /// Make a key useless, now.
    Revoke {
        /// Id of the key (`key_…`).
        id: String,
    },
}

/// Paging of every list.
#[derive(Debug, Clone, Args)]
pub(crate) struct ListArgs {
    /// Most rows, newest first.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) limit: u16,
    /// Only rows older than this id.
    #[arg(long, value_name = "ID")]
    pub(crate) after: Option<String>,
}

/// `base-models …`
#[derive(Debug, Subcommand)]
pub(crate) enum BaseModelsCommand {
    /// List the base models that can be trained on.
    List(ListArgs),
    /// Show one.
    Show {
        /// Id or name.
        base_model: String,
    },
    /// Upload a folder in Hugging Face layout (config, safetensors, tokenizer, chat template).
    Register {
        /// The folder.
        folder: PathBuf,
        /// Name in the catalogue [default: the folder's name].
        #[arg(long)]
        name: Option<String>,
    },
    /// Download a model from the Hugging Face Hub and register it.
    Pull {
        /// Repository (`Qwen/Qwen2.5-0.5B-Instruct`).
        repository: String,
        /// Branch, tag or commit.
        #[arg(long, default_value = "main")]
        revision: String,
        /// Name in the catalogue [default: the repository's name, in lower case].
        #[arg(long)]
        name: Option<String>,
    },
}

/// `datasets …`
#[derive(Debug, Subcommand)]
pub(crate) enum DatasetsCommand {
    /// Upload a JSONL file, wait for its validation and print the report. Exits with 1 where the file is invalid.
    Upload {
        /// The file: a line per example, with `messages` or `prompt` and `completion`.
        file: PathBuf,
        /// Name of the dataset [default: the file's name].
        #[arg(long)]
        name: Option<String>,
    },
    /// List the datasets of the organization.
    List(ListArgs),
    /// Show one with its validation report.
    Show {
        /// Id, or name as in `support` (newest) or `support@3`.
        dataset: String,
    },
}

/// `adapters …`
#[derive(Debug, Subcommand)]
pub(crate) enum AdaptersCommand {
    /// List the adapters of the organization.
    List(ListArgs),
    /// Show an adapter's versions, or one version.
    Show {
        /// `support`, `support@7`, `support@champion` or `support@latest`.
        adapter: String,
        /// Deleted versions too.
        #[arg(long)]
        include_deleted: bool,
    },
    /// Download a version as a PEFT folder.
    Download {
        /// `support@7`, `support@champion`, or `support` for its newest version.
        adapter: String,
        /// Folder to make [default: adapter and version, as in support-v7].
        #[arg(long, short, value_name = "FOLDER")]
        out: Option<PathBuf>,
    },
    /// Names that point to versions, such as champion and challenger.
    #[command(subcommand)]
    Alias(AliasCommand),
    /// Delete the files of a version for good. Its number, digest and manifest stay.
    Delete {
        /// `support@7`.
        version: String,
        /// Why, for whoever comes after you.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Show what a version was made from, and what uses it.
    Lineage {
        /// `support@7`, `support@champion`, or `support` for its newest version.
        adapter: String,
    },
    /// Export a version in another form; waits until it is made and verified.
    Export(ExportArgs),
    /// Make a version from an adapter that was trained elsewhere. What does not fit the base model is refused.
    Import {
        /// PEFT folder, or a tar archive of one.
        source: PathBuf,
        /// Adapter whose next version it becomes; a new name makes a new adapter.
        #[arg(long)]
        name: String,
        /// Base model that it was trained on, by name or id.
        #[arg(long, value_name = "NAME")]
        base_model: String,
    },
}

/// `adapters export`
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// `support@7`, or `support` for its newest version.
    pub(crate) adapter: String,
    /// The form: a PEFT archive with a model card, merged weights, or a LoRA file for llama.cpp.
    #[arg(long, value_parser = ["peft", "merged", "gguf"])]
    pub(crate) format: String,
    /// The number format [default: the base model's for merged weights, float32 for adapters].
    #[arg(long, value_parser = ["auto", "float32", "float16", "bfloat16"])]
    pub(crate) dtype: Option<String>,
    /// Folder to make [default: adapter, version and form, as in support-v7-merged].
    #[arg(long, short, value_name = "FOLDER")]
    pub(crate) out: Option<PathBuf>,
}

/// `deployments …`
#[derive(Debug, Subcommand)]
pub(crate) enum DeploymentsCommand {
    /// Make a public model name; waits until it answers.
    Create {
        /// The name that callers will use as `model`.
        name: String,
        /// Base model, by name or id.
        #[arg(long, value_name = "NAME")]
        base: String,
        /// Adapter that answers at first; without it the base model answers.
        #[arg(long, value_name = "NAME")]
        adapter: Option<String>,
        #[command(flatten)]
        promotion: PromotionArgs,
    },
    /// Send a deployment's requests to an adapter version; waits until it answers.
    Promote {
        /// Name of the deployment.
        deployment: String,
        #[command(flatten)]
        version: VersionArgs,
        #[command(flatten)]
        revision: RevisionArgs,
    },
    /// Share a deployment's requests between versions; waits until they answer.
    Split {
        /// Name of the deployment.
        deployment: String,
        /// Shares that sum to 100: `support@7=70 support@champion=20 base=10`.
        #[arg(required = true, value_name = "ROUTE")]
        routes: Vec<RouteArg>,
        #[command(flatten)]
        revision: RevisionArgs,
    },
    /// Roll a version out by steps, with gates between them.
    #[command(subcommand)]
    Canary(CanaryCommand),
    /// Try a version on copies of requests.
    #[command(subcommand)]
    Shadow(ShadowCommand),
    /// Go back to what answered before.
    Rollback {
        /// Name of the deployment.
        deployment: String,
        /// Number of the revision to go back to [default: the one before the present].
        #[arg(long, value_name = "NUMBER")]
        to_revision: Option<i32>,
        #[command(flatten)]
        revision: RevisionArgs,
    },
    /// Compare the versions of a deployment.
    Stats {
        /// Name of the deployment.
        deployment: String,
        /// How far back, like 15m, 24h or 7d.
        #[arg(long, default_value = "24h")]
        window: String,
    },
    /// List the deployments of the organization.
    List(ListArgs),
    /// Show one with its revisions.
    Show {
        /// Name of the deployment.
        deployment: String,
    },
}

/// Which version, and whether to wait for it.
#[derive(Debug, Args)]
pub(crate) struct PromotionArgs {
    /// Number of the version [default: the newest].
    #[arg(long, value_name = "NUMBER")]
    pub(crate) version: Option<i32>,
    /// Return before the version answers.
    #[arg(long)]
    pub(crate) no_wait: bool,
}

/// `chat`
#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    /// A deployment or a base model.
    #[arg(long)]
    pub(crate) model: String,
    /// Ask this and print the answer; without it a conversation begins.
    #[arg(long, short)]
    pub(crate) message: Option<String>,
    /// System prompt.
    #[arg(long, short)]
    pub(crate) system: Option<String>,
    /// Most tokens of an answer.
    #[arg(long, default_value_t = 256)]
    pub(crate) max_tokens: u32,
    /// 0 always takes the likeliest token.
    #[arg(long, default_value_t = 0.7)]
    pub(crate) temperature: f64,
    /// Seed, for the same answer again.
    #[arg(long)]
    pub(crate) seed: Option<u32>,
}

/// `evaluate`
#[derive(Debug, Args)]
pub(crate) struct EvaluateArgs {
    /// A deployment or a base model.
    #[arg(long)]
    pub(crate) model: String,
    /// A folder such as examples/legal-clauses: its held-out examples, its metric, its most tokens.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["data", "metric"], required_unless_present = "data")]
    pub(crate) example: Option<PathBuf>,
    /// Held-out examples, a line each; the last message is the reference answer.
    #[arg(long, value_name = "FILE", requires = "metric")]
    pub(crate) data: Option<PathBuf>,
    /// first_line, phrases, label_and_phrases or field_f1 (see examples/README.md).
    #[arg(long)]
    pub(crate) metric: Option<Metric>,
    /// Most tokens of an answer [default: 128, or the example's].
    #[arg(long)]
    pub(crate) max_tokens: Option<u32>,
    /// Only the first N examples.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Requests at once.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) concurrency: u16,
    /// Write the answers to this file, a JSON line each.
    #[arg(long, value_name = "FILE")]
    pub(crate) answers: Option<PathBuf>,
}
