//! `demo`: the whole path on an example, on a platform that is started for it and stopped after it.

mod platform;
mod tour;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context, bail};
use serde_json::json;

use self::{platform::DemoPlatform, tour::Outcome};
use super::base_models::register::register;
use crate::{
    args::platform::DemoArgs,
    evaluate::Task,
    printer::{Printer, table},
    terminal::text::duration,
};

pub(super) async fn run(args: DemoArgs, printer: Printer) -> anyhow::Result<ExitCode> {
    let DemoArgs {
        example,
        all,
        examples_dir,
        base,
        output,
    } = args;
    let started = Instant::now();
    let folder = examples_folder(examples_dir)?;
    let tasks = if all {
        all_tasks(&folder)?
    } else {
        vec![Task::read(&folder.join(&example))?]
    };
    let place = tempfile::Builder::new()
        .prefix("tunesmith-demo-")
        .tempdir()
        .context("cannot make a temporary folder")?;
    let output = output.unwrap_or_else(|| place.path().join("adapters"));
    heading(
        printer,
        "Starting the platform: PostgreSQL, object store, API, worker, inference engine",
    );
    let platform = DemoPlatform::start(place.path()).await?;
    let result = tokio::select! {
        result = tours(&platform, &tasks, base.as_deref(), &output, printer) => result,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    heading(printer, "Stopping everything that was started");
    platform.stop().await?;
    let outcomes = result?;
    show(&outcomes, started, printer);
    Ok(ExitCode::SUCCESS)
}

async fn tours(
    platform: &DemoPlatform,
    tasks: &[Task],
    base: Option<&Path>,
    output: &Path,
    printer: Printer,
) -> anyhow::Result<Vec<Outcome>> {
    let base = match base {
        Some(folder) => register(platform.client(), folder, None, printer).await?.name,
        None => tour::first_base_model(platform.client()).await?,
    };
    let mut outcomes = Vec::with_capacity(tasks.len());
    for task in tasks {
        outcomes.push(tour::run(platform.client(), task, &base, output, printer).await?);
    }
    Ok(outcomes)
}

/// A line that stands out.
pub(super) fn heading(printer: Printer, words: &str) {
    printer.words(format_args!(
        "\n{}",
        console::style(format!("▸ {words}")).bold().for_stderr()
    ));
}

fn show(outcomes: &[Outcome], started: Instant, printer: Printer) {
    let seconds = started.elapsed().as_secs_f64();
    let results: Vec<_> = outcomes.iter().map(Outcome::to_json).collect();
    printer.result(&json!({"examples": results, "seconds": seconds}), || {
        let rows = outcomes.iter().map(Outcome::row).collect();
        let results = table(
            &["example", "metric", "base", "tuned", "held-out", "training"],
            rows,
        );
        format!("\n{results}\n\nfinished in {}", duration(seconds))
    });
}

/// `examples/` beside the executable's folder, above it, or in the working directory.
fn examples_folder(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(folder) = given {
        return Ok(folder);
    }
    let executable = std::env::current_exe().context("cannot tell where this executable is")?;
    let mut candidates = vec![PathBuf::from("examples")];
    candidates.extend(
        executable
            .ancestors()
            .skip(1)
            .take(4)
            .map(|folder| folder.join("examples")),
    );
    let found = candidates
        .into_iter()
        .find(|folder| folder.join("customer-support/task.json").is_file());
    found.context(
        "the examples are not here; run this from the repository, or name their folder with --examples-dir",
    )
}

fn all_tasks(folder: &Path) -> anyhow::Result<Vec<Task>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    folders.retain(|folder| folder.join("task.json").is_file());
    folders.sort();
    if folders.is_empty() {
        bail!("{} holds no examples", folder.display());
    }
    folders.iter().map(|folder| Task::read(folder)).collect()
}
