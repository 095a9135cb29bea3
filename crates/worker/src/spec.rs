//! What the trainer is told: its own specification, and that of each job.

use std::path::Path;

use tunesmith_types::{
    hyperparameters::{HyperparametersRequest, TrainingDtype},
    names::ResourceName,
    trainer::{GangSpec, JobSpec},
};

use tunesmith_store::queue::ClaimedJob;

use crate::scratch::{RunDirectory, TrainerDirectory};

/// Local checkpoints that the trainer keeps of each job.
const KEEP_CHECKPOINTS: usize = 3;

/// The trainer's, without a job. Nothing that the child writes may depend on the run, so it is told the base model's
/// name in place of the staged folder's.
pub(crate) fn gang_spec(
    directory: &TrainerDirectory,
    base_name: &ResourceName,
    dtype: TrainingDtype,
    device: &str,
    threads: Option<u32>,
) -> GangSpec {
    GangSpec {
        base: directory.base(),
        base_name: Some(base_name.to_string()),
        device: device.to_owned(),
        dtype,
        threads,
        micro_batch_tokens: None,
        activation_bytes: None,
        jobs: Vec::new(),
    }
}

/// The job's, with all its files in the run directory. `id`: unique within the child's life.
pub(crate) fn job_spec(
    id: String,
    directory: &RunDirectory,
    job: &ClaimedJob,
    resume: Option<&Path>,
) -> JobSpec {
    JobSpec {
        id,
        data: directory.data(),
        eval: None,
        out: directory.out(),
        init_adapter: job.parent.is_some().then(|| directory.parent()),
        resume: resume.map(Path::to_owned),
        checkpoint_dir: Some(directory.checkpoints()),
        keep_checkpoints: KEEP_CHECKPOINTS,
        steps_log: Some(directory.steps_log()),
        hyperparameters: HyperparametersRequest::from(&job.hyperparameters),
    }
}
