//! Training jobs, their events, metrics and checkpoints.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::hyperparameters::{Hyperparameters, HyperparametersRequest};
use crate::ids::{AdapterVersionId, BaseModelId, CheckpointId, DatasetId, EventId, JobId};
use crate::list::PageQuery;
use crate::states::{EventLevel, JobState};

/// A job to be queued.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateJobRequest {
    /// Name or id of the base model.
    #[schema(example = "primer")]
    pub base_model: String,
    /// Id, `name@number`, or a name, which means its newest number.
    #[schema(example = "support@3")]
    pub dataset: String,
    /// Name of the adapter whose next version the job makes; a new name makes a new adapter.
    #[schema(example = "support")]
    pub adapter: String,
    /// Version whose adapter the training begins with, as `name@7`, `name@champion` or `name@latest`; absent is a fresh
    /// adapter. The version must be of the same base model; its rank, alpha and modules are taken over. An alias is
    /// resolved now, once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "support@champion")]
    pub parent_version: Option<String>,
    /// What is absent takes its default; the answer states every value.
    #[serde(default)]
    pub hyperparameters: HyperparametersRequest,
}

/// Query of the list of jobs.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListJobsQuery {
    /// The `last_id` of the page before; absent for the first page.
    pub after: Option<String>,
    /// Rows of the page, 1 to 100 (20 when absent).
    pub limit: Option<u16>,
    /// Only jobs in this state.
    pub status: Option<String>,
}

impl ListJobsQuery {
    /// The part that every list has.
    #[must_use]
    pub fn page(&self) -> PageQuery {
        PageQuery {
            after: self.after.clone(),
            limit: self.limit,
        }
    }
}

/// A training job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// Id.
    pub id: JobId,
    /// Always `training_job`.
    #[schema(example = "training_job")]
    pub object: String,
    /// State.
    pub status: JobState,
    /// Whether a cancel request waits for the worker.
    pub cancel_requested: bool,
    /// Name of the base model.
    pub base_model: String,
    /// Id of the base model.
    pub base_model_id: BaseModelId,
    /// `name@number` of the dataset.
    pub dataset: String,
    /// Id of the dataset.
    pub dataset_id: DatasetId,
    /// Name of the adapter.
    pub adapter: String,
    /// The version whose adapter the training begins with; null for a fresh adapter.
    pub parent_version: Option<JobAdapterVersion>,
    /// The version that the job made; null until it succeeded.
    pub adapter_version: Option<JobAdapterVersion>,
    /// Every value, decided.
    pub hyperparameters: Hyperparameters,
    /// Why each value that was not asked for is what it is, by field; only in the answer to the request that made
    /// the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided: Option<BTreeMap<String, String>>,
    /// How far the job is; null before its first run.
    pub progress: Option<JobProgress>,
    /// Why it failed.
    pub error: Option<JobError>,
    /// Runs that ended with an error.
    pub attempts: i32,
    /// Runs whose worker went silent, each followed by another from the last checkpoint.
    pub rescues: i32,
    /// When it was queued.
    pub created_at: i64,
    /// When its first run began.
    pub started_at: Option<i64>,
    /// When it came to its final state.
    pub finished_at: Option<i64>,
}

/// The adapter version that a job begins with or made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobAdapterVersion {
    /// Id.
    pub id: AdapterVersionId,
    /// Number of the version.
    pub number: i32,
    /// `name@number`.
    pub reference: String,
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobProgress {
    /// Optimizer steps done.
    pub step: i64,
    /// Optimizer steps of the whole job; null until the trainer has counted the examples.
    pub total_steps: Option<i64>,
    /// Share done, in percent.
    pub percent: Option<f64>,
    /// Passes over the data.
    pub epoch: Option<f64>,
    /// Loss of the last step.
    pub loss: Option<f64>,
    /// Tokens that went through the model per second, over the last steps.
    pub tokens_per_second: Option<f64>,
    /// Seconds that the rest will take at this pace.
    pub seconds_left: Option<f64>,
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobError {
    /// A stable code.
    pub code: String,
    /// What happened and how to mend it.
    pub message: String,
}

/// Something that happened to a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobEvent {
    /// Id.
    pub id: EventId,
    /// Always `training_job.event`.
    #[schema(example = "training_job.event")]
    pub object: String,
    /// How much it matters.
    pub level: EventLevel,
    /// What kind of thing (`queued`, `claimed`, `checkpoint_saved`).
    #[serde(rename = "type")]
    pub kind: String,
    /// A sentence.
    pub message: String,
    /// Numbers that belong to it.
    pub data: serde_json::Value,
    /// When.
    pub created_at: i64,
}

/// Query of a job's metrics.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct MetricsQuery {
    /// Only steps behind this one.
    pub after_step: Option<i64>,
    /// Rows of the answer, 1 to 10000 (1000 when absent).
    pub limit: Option<u32>,
}

/// The numbers of one optimizer step. Losses are means over supervised tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobMetric {
    /// Optimizer steps done.
    pub step: i64,
    /// Passes over the data, with a fraction.
    pub epoch: Option<f64>,
    /// Training loss before the step's update.
    pub loss: Option<f64>,
    /// Learning rate.
    pub learning_rate: Option<f64>,
    /// Norm of the gradient before clipping.
    pub grad_norm: Option<f64>,
    /// Tokens that went through the model.
    pub tokens: Option<i64>,
    /// Tokens that counted in the loss.
    pub supervised_tokens: Option<i64>,
    /// Wall time of the step.
    pub seconds: Option<f64>,
    /// Loss on the held-out examples, where they were scored after this step.
    pub eval_loss: Option<f64>,
    /// Share of held-out supervised tokens that the model would have chosen.
    pub eval_token_accuracy: Option<f64>,
}

/// Metrics in the order of their steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobMetrics {
    /// Always `list`.
    #[schema(example = "list")]
    pub object: String,
    /// The steps, oldest first.
    pub data: Vec<JobMetric>,
    /// The last step of this answer, which `after_step` of the next request takes.
    pub last_step: Option<i64>,
    /// Whether later steps are there already.
    pub has_more: bool,
}

/// A saved state of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Checkpoint {
    /// Id.
    pub id: CheckpointId,
    /// Always `checkpoint`.
    #[schema(example = "checkpoint")]
    pub object: String,
    /// The job.
    pub job_id: JobId,
    /// Optimizer steps done.
    pub step: i64,
    /// Size of its files.
    pub bytes: i64,
    /// When it was saved.
    pub created_at: i64,
}
