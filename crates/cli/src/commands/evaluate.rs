//! `evaluate`

use std::{io::Write, path::Path, process::ExitCode};

use anyhow::Context;
use serde_json::json;

use crate::{
    args::client::EvaluateArgs,
    client::ApiClient,
    evaluate::{Asking, Item, Task, answers, items, read_questions},
    printer::Printer,
};

/// Most tokens of an answer when nobody says.
const MAX_TOKENS: u32 = 128;

pub(super) async fn run(
    client: &ApiClient,
    args: EvaluateArgs,
    printer: Printer,
) -> anyhow::Result<ExitCode> {
    let EvaluateArgs {
        model,
        example,
        data,
        metric,
        max_tokens,
        limit,
        concurrency,
        answers: answers_file,
    } = args;
    let task = example.as_deref().map(Task::read).transpose()?;
    let data = data.or_else(|| task.as_ref().map(Task::held_out_file));
    let data = data.context("say which examples with --data or --example")?;
    let metric = metric
        .or_else(|| task.as_ref().map(|task| task.metric))
        .context("say how to score with --metric")?;
    let max_tokens = max_tokens
        .or_else(|| task.as_ref().map(|task| task.max_tokens))
        .unwrap_or(MAX_TOKENS);
    let mut questions = read_questions(&data)?;
    questions.truncate(limit.unwrap_or(usize::MAX).max(1));
    let asking = Asking {
        model: &model,
        max_tokens,
        concurrency: usize::from(concurrency),
    };
    let answers = answers(client, asking, &questions).await?;
    let items = items(&questions, &answers);
    if let Some(path) = answers_file {
        write_answers(&path, &items)?;
    }
    let score = metric.score(&items);
    let shown =
        json!({"model": model, "metric": metric.to_string(), "score": score, "examples": items.len()});
    printer.result(&shown, || {
        format!("{metric} {score:.4} over {} examples", items.len())
    });
    Ok(ExitCode::SUCCESS)
}

fn write_answers(path: &Path, items: &[Item]) -> anyhow::Result<()> {
    let mut text = Vec::new();
    for item in items {
        let line = json!({"answer": item.answer, "reference": item.reference, "require": item.require});
        writeln!(text, "{line}").context("cannot serialise an answer")?;
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
