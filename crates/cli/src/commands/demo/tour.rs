//! One example from its dataset to its served adapter, each step shown.

use std::{path::Path, time::Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tunesmith_types::{
    api::{
        base_models::BaseModel,
        deployments::CreateDeploymentRequest,
        jobs::{CreateJobRequest, Job, JobAdapterVersion},
    },
    list::{List, PageQuery},
    states::{BaseModelState, DatasetState, JobState},
};

use super::{
    super::{adapters, datasets::upload::upload, deployments, jobs::watch},
    heading,
};
use crate::{
    client::ApiClient,
    evaluate::{Asking, Metric, Question, Task, answers, items, read_questions},
    printer::Printer,
    terminal::text::{bytes, duration},
};

/// Requests at once while answers are collected.
const CONCURRENCY: usize = 4;
/// Held-out questions that are shown side by side.
const SHOWN: usize = 3;

/// What came out of a tour.
#[derive(Debug)]
pub(super) struct Outcome {
    title: String,
    metric: Metric,
    base: f64,
    tuned: f64,
    examples: usize,
    training_seconds: f64,
}

impl Outcome {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "example": self.title, "metric": self.metric.to_string(), "base": self.base, "tuned": self.tuned,
            "held_out": self.examples, "training_seconds": self.training_seconds,
        })
    }

    pub(super) fn row(&self) -> Vec<String> {
        vec![
            self.title.clone(),
            self.metric.to_string(),
            format!("{:.3}", self.base),
            format!("{:.3}", self.tuned),
            self.examples.to_string(),
            duration(self.training_seconds),
        ]
    }
}

/// The base model that came with the platform.
pub(super) async fn first_base_model(client: &ApiClient) -> anyhow::Result<String> {
    let models: List<BaseModel> = client.list("/v1/base-models", &PageQuery::default()).await?;
    let ready = models
        .data
        .into_iter()
        .find(|model| model.status == BaseModelState::Ready);
    ready
        .map(|model| model.name)
        .context("this build carries no base model; name one with --base")
}

/// The whole path for one example.
pub(super) async fn run(
    client: &ApiClient,
    task: &Task,
    base: &str,
    output: &Path,
    printer: Printer,
) -> anyhow::Result<Outcome> {
    heading(printer, &format!("{} (base model `{base}`)", task.title));
    let dataset = upload_examples(client, task, printer).await?;
    let (job, version) = train(client, task, base, &dataset, printer).await?;
    fetch(client, task, &version, output, printer).await?;
    promote(client, task, base, &version, printer).await?;
    let (before, after, questions) = ask(client, task, base, printer).await?;
    side_by_side(task, &questions, &before, &after, printer);
    let score = |answers: &[String]| task.metric.score(&items(&questions, answers));
    let training = job
        .finished_at
        .zip(job.started_at)
        .map_or(0, |(finished, started)| finished - started);
    let outcome = Outcome {
        title: task.title.clone(),
        metric: task.metric,
        base: score(&before),
        tuned: score(&after),
        examples: questions.len(),
        training_seconds: training as f64,
    };
    printer.words(format_args!(
        "\n  {} on {} held-out examples: base {:.3}, tuned {:.3}",
        outcome.metric, outcome.examples, outcome.base, outcome.tuned
    ));
    Ok(outcome)
}

async fn upload_examples(client: &ApiClient, task: &Task, printer: Printer) -> anyhow::Result<String> {
    let dataset = upload(client, &task.train_file(), Some(task.adapter.clone()), printer).await?;
    if dataset.status != DatasetState::Valid {
        bail!("{} is not valid", task.train_file().display());
    }
    printer.words(format_args!(
        "  {} is valid: {} examples",
        dataset.reference,
        dataset.examples.unwrap_or(0)
    ));
    Ok(dataset.reference)
}

async fn train(
    client: &ApiClient,
    task: &Task,
    base: &str,
    dataset: &str,
    printer: Printer,
) -> anyhow::Result<(Job, JobAdapterVersion)> {
    let request = CreateJobRequest {
        base_model: base.to_owned(),
        dataset: dataset.to_owned(),
        adapter: task.adapter.clone(),
        parent_version: None,
        hyperparameters: task.hyperparameters.clone(),
    };
    let job = client.create_job(&request).await?;
    printer.words(format_args!("  {} is queued", job.id));
    let started = Instant::now();
    let (job, metrics) = watch::watch(client, job, printer).await?;
    if job.status != JobState::Succeeded {
        let why = job
            .error
            .map_or_else(|| "no reason was given".to_owned(), |error| error.message);
        bail!("the job ended {}: {why}", job.status);
    }
    let tokens: i64 = metrics.iter().filter_map(|metric| metric.tokens).sum();
    let busy: f64 = metrics.iter().filter_map(|metric| metric.seconds).sum();
    let speed = if busy > 0.0 { tokens as f64 / busy } else { 0.0 };
    let took = duration(started.elapsed().as_secs_f64());
    printer.words(format_args!(
        "  {} steps in {took}, {speed:.0} tokens/s\n",
        metrics.len()
    ));
    if let Some(curve) = watch::curve(&metrics) {
        printer.words(curve);
    }
    let version = job
        .adapter_version
        .clone()
        .context("the job succeeded without a version")?;
    printer.words(format_args!("\n  registered as {}", version.reference));
    Ok((job, version))
}

async fn fetch(
    client: &ApiClient,
    task: &Task,
    version: &JobAdapterVersion,
    output: &Path,
    printer: Printer,
) -> anyhow::Result<()> {
    let folder = output.join(format!("{}-v{}", task.adapter, version.number));
    adapters::download(client, &task.adapter, version.number, &folder).await?;
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry.with_context(|| format!("cannot read {}", folder.display()))?;
        let size = entry
            .metadata()
            .map(|metadata| metadata.len())
            .unwrap_or_default();
        files.push(format!(
            "{} ({})",
            entry.file_name().to_string_lossy(),
            bytes(size)
        ));
    }
    files.sort();
    printer.words(format_args!(
        "  downloaded as a PEFT folder, {}: {}",
        folder.display(),
        files.join(", ")
    ));
    Ok(())
}

async fn promote(
    client: &ApiClient,
    task: &Task,
    base: &str,
    version: &JobAdapterVersion,
    printer: Printer,
) -> anyhow::Result<()> {
    let request = CreateDeploymentRequest {
        name: task.adapter.clone(),
        base_model: base.to_owned(),
        adapter: Some(task.adapter.clone()),
        version: Some(version.number),
        alias: None,
    };
    let made = client.create_deployment(&request).await?;
    let started = Instant::now();
    let deployment = deployments::wait(client, made).await?;
    let took = started.elapsed().as_secs_f64();
    printer.words(format_args!(
        "  promoted: model `{}` answers with {} ({took:.1} s)",
        deployment.name, version.reference
    ));
    Ok(())
}

/// The same held-out questions to the base and to the tuned model.
async fn ask(
    client: &ApiClient,
    task: &Task,
    base: &str,
    printer: Printer,
) -> anyhow::Result<(Vec<String>, Vec<String>, Vec<Question>)> {
    let questions = read_questions(&task.held_out_file())?;
    printer.words(format_args!(
        "  asking both models {} held-out questions",
        questions.len()
    ));
    let asking = |model| Asking {
        model,
        max_tokens: task.max_tokens,
        concurrency: CONCURRENCY,
    };
    let before = answers(client, asking(base), &questions).await?;
    let after = answers(client, asking(&task.adapter), &questions).await?;
    Ok((before, after, questions))
}

fn side_by_side(task: &Task, questions: &[Question], before: &[String], after: &[String], printer: Printer) {
    let shown = task
        .questions
        .iter()
        .copied()
        .filter(|index| *index < questions.len())
        .take(SHOWN);
    for index in shown {
        let question = &questions[index];
        let asked = question
            .messages
            .last()
            .and_then(|message| message["content"].as_str())
            .unwrap_or_default();
        printer.words(format_args!("\n  question   {}", indented(asked)));
        printer.words(format_args!("  base       {}", indented(&before[index])));
        printer.words(format_args!("  tuned      {}", indented(&after[index])));
        printer.words(format_args!("  reference  {}", indented(&question.reference)));
    }
}

fn indented(text: &str) -> String {
    let shown: String = text.trim().chars().take(600).collect();
    shown.replace('\n', "\n             ")
}
