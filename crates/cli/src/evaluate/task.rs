//! The files of an example folder: `task.json` and `heldout.jsonl`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use serde::Deserialize;
use serde_json::Value;
use tunesmith_types::hyperparameters::HyperparametersRequest;

use super::Metric;

/// A held-out example.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Question {
    /// Every message but the last.
    pub(crate) messages: Vec<Value>,
    /// Text of the last message.
    pub(crate) reference: String,
    /// Phrases that a good answer contains.
    pub(crate) require: Vec<String>,
}

/// An example folder.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) folder: PathBuf,
    pub(crate) title: String,
    pub(crate) metric: Metric,
    /// Name of the adapter to make.
    pub(crate) adapter: String,
    pub(crate) hyperparameters: HyperparametersRequest,
    /// Most tokens of an answer.
    pub(crate) max_tokens: u32,
    /// Indices of held-out examples worth showing.
    pub(crate) questions: Vec<usize>,
}

#[derive(Deserialize)]
struct TaskFile {
    title: String,
    metric: String,
    adapter: String,
    #[serde(default)]
    hyperparameters: HyperparametersRequest,
    max_tokens: u32,
    #[serde(default)]
    questions: Vec<usize>,
}

impl Task {
    /// Reads `task.json` of a folder.
    pub(crate) fn read(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("task.json");
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let file: TaskFile =
            serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))?;
        let TaskFile {
            title,
            metric,
            adapter,
            hyperparameters,
            max_tokens,
            questions,
        } = file;
        let metric = metric
            .parse()
            .with_context(|| format!("{} is damaged", path.display()))?;
        let folder = folder.to_owned();
        Ok(Self {
            folder,
            title,
            metric,
            adapter,
            hyperparameters,
            max_tokens,
            questions,
        })
    }

    pub(crate) fn train_file(&self) -> PathBuf {
        self.folder.join("train.jsonl")
    }

    pub(crate) fn held_out_file(&self) -> PathBuf {
        self.folder.join("heldout.jsonl")
    }
}

/// Reads held-out examples: `{"messages": […], "require": […]}`, a line each.
pub(crate) fn read_questions(path: &Path) -> anyhow::Result<Vec<Question>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut questions = Vec::new();
    for (index, line) in text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
    {
        let question = parse(line).with_context(|| format!("{}, line {}", path.display(), index + 1))?;
        questions.push(question);
    }
    ensure!(!questions.is_empty(), "{} has no examples", path.display());
    Ok(questions)
}

fn parse(line: &str) -> anyhow::Result<Question> {
    #[derive(Deserialize)]
    struct Line {
        messages: Vec<Value>,
        #[serde(default)]
        require: Vec<String>,
    }
    let Line {
        mut messages,
        require,
    } = serde_json::from_str(line).context("a line must be {\"messages\": […]}")?;
    let last = messages.pop().context("`messages` is empty")?;
    ensure!(
        last["role"] == "assistant",
        "the last message must be the assistant's, because it is the reference"
    );
    ensure!(!messages.is_empty(), "there is no message before the reference");
    let reference = last["content"]
        .as_str()
        .context("the content of the last message must be text")?
        .to_owned();
    Ok(Question {
        messages,
        reference,
        require,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_last_message_is_the_reference() {
        let line = r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"require":["x"]}"#;
        let question = parse(line).unwrap();
        assert_eq!((question.messages.len(), question.reference.as_str()), (1, "a"));
        assert_eq!(question.require, ["x"]);
        for wrong in [
            "{}",
            r#"{"messages":[]}"#,
            r#"{"messages":[{"role":"user","content":"q"}]}"#,
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
