//! What the supervisor and its trainer child say to each other: JSON lines, events on stdout, commands on stdin.
//!
//! A child serves one base model. It reads a [`GangSpec`], says [`TrainerEvent::Ready`] once the model is loaded, and
//! trains the jobs of the spec and those that [`TrainerCommand::Join`] brings, together, until
//! [`TrainerCommand::Finish`] has come and the last job has ended.

use std::num::NonZeroU64;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::hyperparameters::{HyperparametersRequest, TrainingDtype};

/// `SPEC.json` of `tunesmith-trainer gang`: one base model and the jobs that are trained on it together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GangSpec {
    /// Base model: a folder in Hugging Face layout.
    pub base: PathBuf,
    /// Name of the base model in adapter_config.json; absent is the path.
    #[serde(default)]
    pub base_name: Option<String>,
    /// `auto`, `cpu` or `cuda:N`.
    #[serde(default = "auto")]
    pub device: String,
    /// Number format of base model and activations; one for all jobs.
    #[serde(default)]
    pub dtype: TrainingDtype,
    /// Threads of tensor work on the CPU; absent is all cores.
    #[serde(default)]
    pub threads: Option<u32>,
    /// Tokens in memory at once, of all jobs; absent is by the memory of the device.
    #[serde(default)]
    pub micro_batch_tokens: Option<usize>,
    /// Bytes for the activations of a pass: they bound the tokens of a pass where `micro_batch_tokens` does not, and a
    /// document whose activations take more keeps each block's input alone and recomputes the rest. Absent is by the
    /// memory of the device.
    #[serde(default)]
    pub activation_bytes: Option<NonZeroU64>,
    /// The jobs to begin with.
    #[serde(default)]
    pub jobs: Vec<JobSpec>,
}

fn auto() -> String {
    "auto".to_owned()
}

/// One job of a gang.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// Names the job in events and commands; unique within the child's life.
    pub id: String,
    /// Training data: JSONL.
    pub data: PathBuf,
    /// Evaluation data; absent holds out `eval_fraction` of the training data.
    #[serde(default)]
    pub eval: Option<PathBuf>,
    /// Where the adapter folder is written.
    pub out: PathBuf,
    /// Adapter to begin with, in PEFT layout.
    #[serde(default)]
    pub init_adapter: Option<PathBuf>,
    /// Checkpoint to go on from.
    #[serde(default)]
    pub resume: Option<PathBuf>,
    /// Where checkpoints go; absent is `OUT/checkpoints`.
    #[serde(default)]
    pub checkpoint_dir: Option<PathBuf>,
    /// Checkpoints that are kept; 0 keeps all.
    #[serde(default = "kept")]
    pub keep_checkpoints: usize,
    /// One JSON line per step is written here.
    #[serde(default)]
    pub steps_log: Option<PathBuf>,
    /// What decides the course of the training; absent values take their defaults.
    #[serde(default)]
    pub hyperparameters: HyperparametersRequest,
}

fn kept() -> usize {
    3
}

/// A line of the child's stdout: an event, and whose it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainerLine {
    /// The job; absent where the event concerns the child as a whole. A `failed` without a job ends all jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// What happened.
    #[serde(flatten)]
    pub event: TrainerEvent,
}

/// From the child to the supervisor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum TrainerEvent {
    /// The base model is loaded; jobs may join.
    Ready {
        /// `cpu` or `cuda:0`.
        device: String,
        /// `float32` or `bfloat16`.
        dtype: String,
        /// Seconds that the loading took.
        seconds: f64,
    },
    /// A job's data is loaded; steps follow.
    Started {
        /// Optimizer steps of the whole job.
        total_steps: u64,
        /// Examples that are trained on.
        train_examples: u64,
        /// Examples of the evaluation split.
        eval_examples: u64,
        /// Numbers that the optimizer changes.
        trainable_parameters: u64,
        /// `cpu` or `cuda:0`.
        device: String,
        /// `float32` or `bfloat16`.
        dtype: String,
        /// Step of the checkpoint that the run resumed from; 0 for a fresh start.
        resumed_from_step: u64,
    },
    /// One optimizer step is done.
    Step(TrainerStep),
    /// The evaluation split was scored.
    Evaluation {
        /// Optimizer steps done.
        step: u64,
        /// Mean over supervised tokens.
        loss: f64,
        /// Share of supervised tokens that the model would have chosen.
        token_accuracy: f64,
        /// Supervised tokens scored.
        tokens: u64,
    },
    /// A checkpoint folder is whole on disk.
    Checkpoint {
        /// Optimizer steps done.
        step: u64,
        /// The folder.
        path: String,
    },
    /// Something that a person should know (truncated examples, say).
    Warning {
        /// A sentence.
        message: String,
    },
    /// The adapter (or model) folder is whole on disk. The last event of a job.
    Finished {
        /// Optimizer steps done.
        steps: u64,
        /// The folder.
        path: String,
        /// Step of the delivered adapter: the last one, or that of the best evaluation.
        delivered_step: u64,
        /// Whether it ended before its last step, for want of improvement.
        stopped_early: bool,
    },
    /// Ended on a command. The last event of a job.
    Stopped {
        /// Optimizer steps done.
        step: u64,
        /// Which command.
        reason: StopReason,
        /// The checkpoint that a resume begins from.
        checkpoint: Option<String>,
    },
    /// Ended with an error. The last event of a job, or of the child where no job is named.
    Failed {
        /// A stable code (`nothing_supervised`).
        code: String,
        /// What is wrong, where, and how to mend it.
        message: String,
    },
}

/// Numbers of one optimizer step, as in the steps log.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TrainerStep {
    /// Optimizer steps done, this one included.
    pub step: u64,
    /// Optimizer steps of the whole job.
    pub total_steps: u64,
    /// Passes over the data done, with a fraction.
    pub epoch: f64,
    /// Mean over the supervised tokens of the step, before the update.
    pub loss: f64,
    /// Learning rate of the update.
    pub lr: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Tokens that went through the model.
    pub tokens: u64,
    /// Tokens that counted in the loss.
    pub supervised_tokens: u64,
    /// Wall time of the step.
    pub seconds: f64,
}

/// Why a child stopped before the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The job was cancelled.
    Cancelled,
    /// The worker is going away; the job goes on elsewhere from the checkpoint.
    Drained,
}

/// From the supervisor to the child. End of stdin means that the supervisor is gone: the child ends at once.
///
/// `job` absent means every job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum TrainerCommand {
    /// Train this job too, from the next step on.
    Join {
        /// The job.
        job: Box<JobSpec>,
    },
    /// Stop after the present step; no checkpoint is needed.
    Cancel {
        /// Which job.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        job: Option<String>,
    },
    /// Write a checkpoint after the present step, then stop.
    Drain {
        /// Which job.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        job: Option<String>,
    },
    /// Take no steps until `resume`.
    Pause {
        /// Which job.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        job: Option<String>,
    },
    /// Take steps again.
    Resume {
        /// Which job.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        job: Option<String>,
    },
    /// No job will join any more: end when the last one has ended.
    Finish,
}
