//! The metrics of a whole job as one file, in the form of the trainer's steps log, and their summary.

use std::path::Path;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tunesmith_store::{
    Store, StoreError,
    metrics::{self, MetricRow, Summary},
    queue::ClaimedJob,
};

/// Rows of one query.
const PAGE: u32 = 1000;

/// The file cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MetricsFileError {
    #[error("the metrics cannot be read")]
    Store(#[from] StoreError),
    #[error("the metrics file cannot be written")]
    Write(#[from] std::io::Error),
}

/// Writes the job's metrics, those of earlier runs too, to `path`, and sums them up.
pub(crate) async fn write(store: &Store, job: &ClaimedJob, path: &Path) -> Result<Value, MetricsFileError> {
    let mut file = tokio::io::BufWriter::new(tokio::fs::File::create(path).await?);
    let mut summary = Summary::default();
    let mut after = None;
    loop {
        let rows = metrics::list(store, job.organization_id, job.token.job_id, after, PAGE).await?;
        let Some(last) = rows.last() else { break };
        after = Some(last.step);
        for row in &rows {
            for line in lines(row) {
                file.write_all(line.to_string().as_bytes()).await?;
                file.write_all(b"\n").await?;
            }
            summary.add(row);
        }
    }
    file.flush().await?;
    Ok(summary.to_json())
}

/// A step's line, and an evaluation's.
fn lines(row: &MetricRow) -> impl Iterator<Item = Value> {
    let step = row.loss.map(|loss| {
        json!({
            "step": row.step, "loss": loss, "lr": row.learning_rate, "grad_norm": row.grad_norm,
            "tokens": row.tokens, "supervised_tokens": row.supervised_tokens, "seconds": row.seconds,
        })
    });
    let evaluation = row.eval_loss.map(
        |loss| json!({"step": row.step, "eval_loss": loss, "eval_token_accuracy": row.eval_token_accuracy}),
    );
    step.into_iter().chain(evaluation)
}
