//! Rows of a job as the API shows them.

use tunesmith_store::checkpoints::Checkpoint;
use tunesmith_store::events::Event;
use tunesmith_store::jobs::Job;
use tunesmith_store::metrics::MetricRow;
use tunesmith_types::api::jobs as body;
use tunesmith_types::states::JobState;

/// A job; `recent` are its last steps.
pub(super) fn job_view(job: Job, recent: &[MetricRow]) -> body::Job {
    let progress = job.started_at.map(|_| progress(&job, recent));
    let version = job.adapter_version_id.zip(job.adapter_version);
    body::Job {
        id: job.id,
        object: "training_job".to_owned(),
        status: job.state,
        cancel_requested: job.cancel_requested_at.is_some(),
        base_model: job.base_model,
        base_model_id: job.base_model_id,
        dataset: format!("{}@{}", job.dataset, job.dataset_number),
        dataset_id: job.dataset_id,
        parent_version: job.parent.map(|parent| body::JobAdapterVersion {
            id: parent.version_id,
            number: parent.number,
            reference: format!("{}@{}", parent.adapter, parent.number),
        }),
        adapter_version: version.map(|(id, number)| body::JobAdapterVersion {
            id,
            number,
            reference: format!("{}@{number}", job.adapter),
        }),
        adapter: job.adapter.to_string(),
        hyperparameters: job.hyperparameters,
        decided: None,
        progress,
        error: job.error.map(|error| body::JobError {
            code: error.code,
            message: error.message,
        }),
        attempts: job.attempts,
        rescues: job.rescues,
        created_at: job.created_at.timestamp(),
        started_at: job.started_at.map(|time| time.timestamp()),
        finished_at: job.finished_at.map(|time| time.timestamp()),
    }
}

fn progress(job: &Job, recent: &[MetricRow]) -> body::JobProgress {
    let timed: Vec<&MetricRow> = recent.iter().filter(|row| row.seconds.is_some()).collect();
    let seconds: f64 = timed.iter().filter_map(|row| row.seconds).sum();
    let tokens: i64 = timed.iter().filter_map(|row| row.tokens).sum();
    let last = timed.last();
    let left = job.total_steps.map(|total| (total - job.step).max(0));
    let running = job.state == JobState::Running && seconds > 0.0;
    body::JobProgress {
        step: job.step,
        total_steps: job.total_steps,
        percent: job
            .total_steps
            .filter(|total| *total > 0)
            .map(|total| 100.0 * job.step as f64 / total as f64),
        epoch: last.and_then(|row| row.data_epoch),
        loss: last.and_then(|row| row.loss),
        tokens_per_second: (seconds > 0.0).then(|| tokens as f64 / seconds),
        seconds_left: left
            .filter(|_| running)
            .map(|steps| steps as f64 * seconds / timed.len() as f64),
    }
}

/// An event.
pub(super) fn event_view(event: Event) -> body::JobEvent {
    body::JobEvent {
        id: event.id,
        object: "training_job.event".to_owned(),
        level: event.level,
        kind: event.code,
        message: event.message,
        data: event.data,
        created_at: event.created_at.timestamp(),
    }
}

/// The numbers of a step.
pub(super) fn metric_view(row: &MetricRow) -> body::JobMetric {
    body::JobMetric {
        step: row.step,
        epoch: row.data_epoch,
        loss: row.loss,
        learning_rate: row.learning_rate,
        grad_norm: row.grad_norm,
        tokens: row.tokens,
        supervised_tokens: row.supervised_tokens,
        seconds: row.seconds,
        eval_loss: row.eval_loss,
        eval_token_accuracy: row.eval_token_accuracy,
    }
}

/// A checkpoint.
pub(super) fn checkpoint_view(checkpoint: Checkpoint) -> body::Checkpoint {
    let bytes: u64 = checkpoint.files.iter().map(|file| file.bytes).sum();
    body::Checkpoint {
        id: checkpoint.id,
        object: "checkpoint".to_owned(),
        job_id: checkpoint.job_id,
        step: checkpoint.step,
        bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
        created_at: checkpoint.created_at.timestamp(),
    }
}
