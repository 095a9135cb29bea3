//! The steps log: one JSON line per optimizer step and per evaluation.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tunesmith_types::trainer::TrainerStep;

use crate::error::TrainError;
use crate::evaluate::Evaluation;

/// An open steps log.
#[derive(Debug)]
pub struct StepsLog {
    path: PathBuf,
    file: File,
}

impl StepsLog {
    /// Opens `path` for a run that begins after `step`: lines of later steps, of a run that was cut off, are removed.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn open(path: &Path, step: u64) -> Result<Self, TrainError> {
        let kept = if step > 0 && path.exists() {
            lines_up_to(path, step)?
        } else {
            Vec::new()
        };
        let aside = path.with_extension("partial");
        let mut text = kept.join("\n");
        if !text.is_empty() {
            text.push('\n');
        }
        fs::write(&aside, text).map_err(TrainError::output(&aside))?;
        fs::rename(&aside, path).map_err(TrainError::output(path))?;
        let file = OpenOptions::new()
            .append(true)
            .open(path)
            .map_err(TrainError::output(path))?;
        Ok(Self {
            path: path.to_path_buf(),
            file,
        })
    }

    /// Adds a step.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn step(&mut self, step: &TrainerStep) -> Result<(), TrainError> {
        self.write(&json!({
            "step": step.step,
            "loss": step.loss,
            "lr": step.lr,
            "grad_norm": step.grad_norm,
            "tokens": step.tokens,
            "supervised_tokens": step.supervised_tokens,
            "seconds": step.seconds,
        }))
    }

    /// Adds an evaluation.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn evaluation(&mut self, step: u64, evaluation: &Evaluation) -> Result<(), TrainError> {
        self.write(&json!({
            "step": step,
            "eval_loss": evaluation.loss,
            "eval_token_accuracy": evaluation.token_accuracy,
        }))
    }

    fn write(&mut self, line: &Value) -> Result<(), TrainError> {
        writeln!(self.file, "{line}").map_err(TrainError::output(&self.path))
    }
}

fn lines_up_to(path: &Path, step: u64) -> Result<Vec<String>, TrainError> {
    let file = File::open(path).map_err(TrainError::output(path))?;
    let is_kept = |line: &str| {
        let value: Option<Value> = serde_json::from_str(line).ok();
        value
            .and_then(|value| value["step"].as_u64())
            .is_some_and(|found| found <= step)
    };
    Ok(BufReader::new(file)
        .lines()
        .map_while(Result::ok)
        .filter(|line| is_kept(line))
        .collect())
}
