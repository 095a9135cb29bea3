//! One file per verb. Each takes resolved settings and a printer, and returns an exit code.

mod account;
mod adapters;
mod aliases;
mod api_keys;
mod base_models;
mod bench;
mod chat;
mod datasets;
mod demo;
mod deployments;
mod evaluate;
mod exports;
mod imports;
mod jobs;
mod lineage;
mod rollouts;
mod usage;

use std::process::ExitCode;

use tunesmith_types::list::PageQuery;

use crate::{
    args::{Cli, Command, Global, client::ListArgs},
    client::ApiClient,
    platform,
    printer::Printer,
    settings::ClientSettings,
};

/// Does what the command line says.
pub(crate) async fn run(cli: Cli, printer: Printer) -> anyhow::Result<ExitCode> {
    let Cli { global, command } = cli;
    match command {
        Command::Up(args) => platform::up::run(args, printer).await,
        Command::Api(args) => platform::api::run(args, printer).await,
        Command::Worker(args) => platform::worker::run(args).await,
        Command::Migrate => platform::migrate(printer).await,
        Command::Openapi => platform::openapi(printer),
        Command::Demo(args) => demo::run(args, printer).await,
        Command::Bench(args) => bench::run(global, args, printer).await,
        client_command => run_client(client_command, &global, printer).await,
    }
}

async fn run_client(command: Command, global: &Global, printer: Printer) -> anyhow::Result<ExitCode> {
    let client = ApiClient::new(ClientSettings::resolve(global)?)?;
    match command {
        Command::Signup(args) => account::sign_up(&client, args, printer).await,
        Command::Login(args) => account::log_in(&client, args, printer).await,
        Command::Logout => account::log_out(&client, printer).await,
        Command::Whoami => account::who_am_i(&client, printer).await,
        Command::ApiKeys(command) => api_keys::run(&client, command, printer).await,
        Command::BaseModels(command) => base_models::run(&client, command, printer).await,
        Command::Datasets(command) => datasets::run(&client, command, printer).await,
        Command::Jobs(command) => jobs::run(&client, command, printer).await,
        Command::Adapters(command) => adapters::run(&client, command, printer).await,
        Command::Deployments(command) => deployments::run(&client, command, printer).await,
        Command::Usage(args) => usage::usage(&client, args, printer).await,
        Command::Feedback(args) => usage::feedback(&client, args, printer).await,
        Command::Chat(args) => chat::run(&client, args, printer).await,
        Command::Evaluate(args) => evaluate::run(&client, args, printer).await,
        Command::Up(_)
        | Command::Api(_)
        | Command::Worker(_)
        | Command::Migrate
        | Command::Openapi
        | Command::Demo(_)
        | Command::Bench(_) => unreachable!("invariant: handled by `run`"),
    }
}

/// The page that list options ask for.
fn page(list: &ListArgs) -> PageQuery {
    PageQuery {
        after: list.after.clone(),
        limit: Some(list.limit),
    }
}

/// Says how to see what did not fit.
fn say_more(printer: Printer, has_more: bool, last: Option<&str>) {
    if let (true, Some(last), false) = (has_more, last, printer.is_json()) {
        printer.words(format_args!("there is more: --after {last}"));
    }
}
