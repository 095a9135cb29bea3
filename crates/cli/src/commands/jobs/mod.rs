//! `jobs create|list|show|cancel|events|metrics|checkpoints|publish`.

mod checkpoints;
mod create;
pub(super) mod watch;

use std::process::ExitCode;

use tunesmith_types::{
    api::jobs::{Job, JobMetric},
    list::List,
    states::JobState,
};

use super::{page, say_more};
use crate::{
    args::jobs::JobsCommand,
    client::ApiClient,
    printer::{Printer, details, table},
    terminal::text::{ago, duration},
};

pub(super) async fn run(
    client: &ApiClient,
    command: JobsCommand,
    printer: Printer,
) -> anyhow::Result<ExitCode> {
    match command {
        JobsCommand::Create(args) => return create::run(client, *args, printer).await,
        JobsCommand::Metrics { job, watch: true } => {
            let job = client.job(&job).await?;
            return finish(&watch::follow(client, job, printer).await?, printer);
        }
        JobsCommand::Metrics { job, watch: false } => show_metrics(client, &job, printer).await?,
        JobsCommand::List(list) => {
            let jobs: List<Job> = client.list("/v1/jobs", &page(&list)).await?;
            printer.result(&jobs, || {
                let rows = jobs.data.iter().map(|job| {
                    let steps = job.progress.as_ref().map_or_else(
                        || "-".to_owned(),
                        |progress| {
                            format!(
                                "{}/{}",
                                progress.step,
                                progress
                                    .total_steps
                                    .map_or_else(|| "?".to_owned(), |n| n.to_string())
                            )
                        },
                    );
                    let version = job
                        .adapter_version
                        .as_ref()
                        .map_or_else(|| job.adapter.clone(), |v| v.reference.clone());
                    vec![
                        job.id.to_string(),
                        job.status.to_string(),
                        version,
                        job.base_model.clone(),
                        job.dataset.clone(),
                        steps,
                        ago(job.created_at),
                    ]
                });
                table(
                    &[
                        "id",
                        "state",
                        "adapter",
                        "base model",
                        "dataset",
                        "steps",
                        "created",
                    ],
                    rows.collect(),
                )
            });
            say_more(printer, jobs.has_more, jobs.last_id.as_deref());
        }
        JobsCommand::Checkpoints { job } => checkpoints::list(client, &job, printer).await?,
        JobsCommand::Publish { job, step, adapter } => {
            checkpoints::publish(client, &job, step, adapter, printer).await?;
        }
        JobsCommand::Show { job } => show(&client.job(&job).await?, printer),
        JobsCommand::Cancel { job } => {
            let job = client.cancel_job(&job).await?;
            printer.result(&job, || match job.status {
                JobState::Cancelled => format!("{} is cancelled", job.id),
                _ => format!("{} is asked to stop", job.id),
            });
        }
        JobsCommand::Events { job, list } => {
            let events = client.job_events(&job, &page(&list)).await?;
            printer.result(&events, || {
                let rows = events.data.iter().rev().map(|event| {
                    vec![
                        ago(event.created_at),
                        event.level.to_string(),
                        event.kind.clone(),
                        event.message.clone(),
                    ]
                });
                table(&["when", "level", "type", "message"], rows.collect())
            });
            say_more(printer, events.has_more, events.last_id.as_deref());
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn show_metrics(client: &ApiClient, job: &str, printer: Printer) -> anyhow::Result<()> {
    let job = client.job(job).await?;
    let metrics = watch::all_metrics(client, job.id).await?;
    printer.result(&metrics, || {
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
        let rows = metrics.iter().map(|row: &JobMetric| {
            vec![
                row.step.to_string(),
                number(row.epoch),
                number(row.loss),
                row.learning_rate
                    .map_or_else(|| "-".to_owned(), |rate| format!("{rate:.3e}")),
                number(row.grad_norm),
                row.tokens
                    .map_or_else(|| "-".to_owned(), |tokens| tokens.to_string()),
                number(row.seconds),
                number(row.eval_loss),
            ]
        });
        table(
            &[
                "step",
                "epoch",
                "loss",
                "lr",
                "grad norm",
                "tokens",
                "seconds",
                "eval loss",
            ],
            rows.collect(),
        )
    });
    Ok(())
}

/// Shows a job that has ended; only success is success.
fn finish(job: &Job, printer: Printer) -> anyhow::Result<ExitCode> {
    show(job, printer);
    Ok(if job.status == JobState::Succeeded {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn show(job: &Job, printer: Printer) {
    printer.result(job, || {
        let mut pairs = vec![
            ("job", job.id.to_string()),
            ("state", job.status.to_string()),
            ("base model", job.base_model.clone()),
            ("dataset", job.dataset.clone()),
            (
                "adapter",
                job.adapter_version
                    .as_ref()
                    .map_or_else(|| job.adapter.clone(), |v| v.reference.clone()),
            ),
        ];
        if let Some(parent) = &job.parent_version {
            pairs.push(("begins with", parent.reference.clone()));
        }
        if let Some(progress) = &job.progress {
            let total = progress
                .total_steps
                .map_or_else(|| "?".to_owned(), |total| total.to_string());
            pairs.push(("steps", format!("{} of {total}", progress.step)));
        }
        if let (Some(started), Some(finished)) = (job.started_at, job.finished_at) {
            pairs.push(("took", duration((finished - started) as f64)));
        }
        pairs.push(("attempts", job.attempts.to_string()));
        pairs.push(("created", ago(job.created_at)));
        if let Some(error) = &job.error {
            pairs.push(("error", format!("{} ({})", error.message, error.code)));
        }
        format!("{}\n\nhyperparameters\n{}", details(&pairs), hyperparameters(job))
    });
}

fn hyperparameters(job: &Job) -> String {
    let value = serde_json::to_value(&job.hyperparameters).unwrap_or_default();
    let rows = value.as_object().into_iter().flatten().map(|(name, value)| {
        let reason = job
            .decided
            .as_ref()
            .and_then(|decided| decided.get(name))
            .cloned()
            .unwrap_or_default();
        let value = match value {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        vec![format!("  {name}"), value, reason]
    });
    table(&["  name", "value", "why"], rows.collect())
}
