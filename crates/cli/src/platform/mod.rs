//! The commands that run parts of the platform: `up`, `api`, `worker`, `migrate`, `openapi`.

pub(crate) mod api;
mod bundled;
mod connections;
mod control;
mod data_dir;
mod executables;
mod ready;
mod replicas;
mod secrets;
mod signals;
pub(crate) mod up;
pub(crate) mod worker;

use std::process::ExitCode;

use anyhow::Context;

use crate::{args::platform::DatabaseArgs, environment, printer::Printer};

pub(crate) use ready::ReadyFile;

/// `tunesmith migrate`
pub(crate) async fn migrate(printer: Printer) -> anyhow::Result<ExitCode> {
    let database = DatabaseArgs {
        database_url: environment::read(environment::DATABASE_URL),
    };
    let store = connections::database(&database).await?;
    store.migrate().await.context("cannot migrate the database")?;
    printer.words("the database is up to date");
    Ok(ExitCode::SUCCESS)
}

/// `tunesmith openapi`
pub(crate) fn openapi(printer: Printer) -> anyhow::Result<ExitCode> {
    let document = tunesmith_api::openapi(tunesmith_gateway::openapi());
    printer.line(
        document
            .to_pretty_json()
            .context("cannot serialise the OpenAPI document")?,
    );
    Ok(ExitCode::SUCCESS)
}
