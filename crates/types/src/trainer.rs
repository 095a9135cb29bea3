//! What the supervisor and its trainer child say to each other: JSON lines, events on stdout, commands on stdin.

use serde::{Deserialize, Serialize};

/// From the child to the supervisor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum TrainerEvent {
    /// Model and data are loaded; steps follow.
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
    /// The adapter (or model) folder is whole on disk. The last event.
    Finished {
        /// Optimizer steps done.
        steps: u64,
        /// The folder.
        path: String,
    },
    /// Ended on a command. The last event.
    Stopped {
        /// Optimizer steps done.
        step: u64,
        /// Which command.
        reason: StopReason,
        /// The checkpoint that a resume begins from.
        checkpoint: Option<String>,
    },
    /// Ended with an error. The last event.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum TrainerCommand {
    /// Stop after the present step; no checkpoint is needed.
    Cancel,
    /// Write a checkpoint after the present step, then stop.
    Drain,
}
