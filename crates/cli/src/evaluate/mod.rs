//! Scoring a model on held-out examples: ask with every message but the last, compare with the last.

mod metric;
mod task;

use anyhow::Context;
use futures::{StreamExt, TryStreamExt};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

pub(crate) use metric::{Item, Metric};
pub(crate) use task::{Question, Task, read_questions};

use crate::client::ApiClient;

/// How a model is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asking<'a> {
    pub(crate) model: &'a str,
    pub(crate) max_tokens: u32,
    /// Requests at once.
    pub(crate) concurrency: usize,
}

/// The model's answers at temperature 0, in the order of the questions.
pub(crate) async fn answers(
    client: &ApiClient,
    asking: Asking<'_>,
    questions: &[Question],
) -> anyhow::Result<Vec<String>> {
    let bar = ProgressBar::new(questions.len() as u64);
    let template = format!("{{bar:28}} {{pos}}/{{len}} answers of {}", asking.model);
    bar.set_style(ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    let asked = questions.iter().map(|question| async {
        let answer = ask(client, asking, question).await;
        bar.inc(1);
        answer
    });
    let answers = futures::stream::iter(asked)
        .buffered(asking.concurrency.max(1))
        .try_collect()
        .await;
    bar.finish_and_clear();
    answers
}

async fn ask(client: &ApiClient, asking: Asking<'_>, question: &Question) -> anyhow::Result<String> {
    let body = json!({
        "model": asking.model,
        "messages": question.messages,
        "max_tokens": asking.max_tokens,
        "temperature": 0,
    });
    let answer: Value = client.post("/v1/chat/completions", &body).await?;
    let content = answer["choices"][0]["message"]["content"].as_str();
    content
        .map(ToOwned::to_owned)
        .with_context(|| format!("`{}` answered without a message", asking.model))
}

/// Answers beside their references.
pub(crate) fn items(questions: &[Question], answers: &[String]) -> Vec<Item> {
    let pairs = questions.iter().zip(answers);
    pairs
        .map(|(question, answer)| Item {
            answer: answer.clone(),
            reference: question.reference.clone(),
            require: question.require.clone(),
        })
        .collect()
}
