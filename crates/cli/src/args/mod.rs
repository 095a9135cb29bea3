//! The command line, as clap reads it. Nothing here does anything.

pub(crate) mod aliases;
pub(crate) mod bench;
pub(crate) mod client;
mod hyperparameters;
pub(crate) mod jobs;
pub(crate) mod platform;
pub(crate) mod rollouts;

use clap::{Parser, Subcommand};

/// Fine-tune language models with LoRA, version the adapters, and serve them.
#[derive(Debug, Parser)]
#[command(name = "tunesmith", version, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, clap::Args)]
pub(crate) struct Global {
    /// Print results as JSON on stdout.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Address of the API [default: that of the last login, else http://127.0.0.1:8080].
    #[arg(long, global = true, value_name = "URL", env = crate::environment::API_URL)]
    pub(crate) api_url: Option<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start the whole platform on this machine and keep it up.
    Up(platform::UpArgs),
    /// Show the whole path on an example: train, version, download, deploy, compare.
    Demo(platform::DemoArgs),
    /// Serve the API and the gateway, with an external database and object store.
    Api(platform::ApiArgs),
    /// Train queued jobs.
    Worker(platform::WorkerArgs),
    /// Apply the database migrations that are missing.
    Migrate,
    /// Print the OpenAPI document.
    Openapi,
    /// Create an account and an organization.
    Signup(client::SignupArgs),
    /// Log in.
    Login(client::LoginArgs),
    /// Forget the login of this machine.
    Logout,
    /// Show as whom this machine calls the API.
    Whoami,
    /// Secrets for programs.
    #[command(subcommand)]
    ApiKeys(client::ApiKeysCommand),
    /// Frozen models that adapters are trained on.
    #[command(subcommand)]
    BaseModels(client::BaseModelsCommand),
    /// Files of training examples.
    #[command(subcommand)]
    Datasets(client::DatasetsCommand),
    /// Training jobs.
    #[command(subcommand)]
    Jobs(jobs::JobsCommand),
    /// Trained adapters and their versions.
    #[command(subcommand)]
    Adapters(client::AdaptersCommand),
    /// Public model names.
    #[command(subcommand)]
    Deployments(client::DeploymentsCommand),
    /// What the organization asked of models.
    Usage(rollouts::UsageArgs),
    /// Score an answer.
    Feedback(rollouts::FeedbackArgs),
    /// Talk to a deployment or a base model.
    Chat(client::ChatArgs),
    /// Score a model on held-out examples.
    Evaluate(client::EvaluateArgs),
    /// Put load on a deployment, or on any OpenAI-compatible server, and measure what comes back.
    Bench(bench::BenchArgs),
}

impl Command {
    /// Whether it runs parts of the platform.
    pub(crate) const fn is_platform(&self) -> bool {
        matches!(self, Self::Up(_) | Self::Api(_) | Self::Worker(_) | Self::Migrate)
    }
}
