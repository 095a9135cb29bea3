//! `tunesmith`: the platform's control plane and its command line in one executable.
//!
//! [`args`] says what can be typed, [`settings`] turns that, the environment and the configuration file into values,
//! [`commands`] holds one file per verb, and [`printer`] is the only door to the terminal. [`platform`] wires the
//! crates that make the platform; every other command uses nothing but the public HTTP API.

mod args;
mod client;
mod commands;
mod config;
mod environment;
mod evaluate;
mod platform;
mod printer;
mod settings;
mod terminal;

use std::{io::IsTerminal, process::ExitCode};

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::{args::Cli, printer::Printer};

fn main() -> ExitCode {
    let installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    installed.expect("invariant: nothing before main chose a TLS provider");
    let cli = Cli::parse();
    start_log(&cli);
    let printer = Printer::new(cli.global.json);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            printer.words(format_args!("error: cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(commands::run(cli, printer));
    // A task that is still blocked (a read of stdin) must not hold up the end.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result.unwrap_or_else(|error| {
        printer.words(format_args!("error: {error:#}"));
        ExitCode::FAILURE
    })
}

/// The log goes to stderr. The parts of the platform say what they do; client commands only what is wrong.
fn start_log(cli: &Cli) {
    let usual = if cli.command.is_platform() {
        "info,sqlx=warn,s3s=warn,aws=warn"
    } else {
        "warn"
    };
    let filter = EnvFilter::try_from_env(environment::LOG).unwrap_or_else(|_| EnvFilter::new(usual));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}
