//! Filling a run directory: examples, the adapter to begin with, and a checkpoint to go on from. Every byte is verified before use.

use std::path::PathBuf;

use tunesmith_blobs::{BlobError, BlobKey, Blobs, keys::CHECKPOINT_FILES};
use tunesmith_store::{
    base_models::{BaseModel, BaseModelDetails},
    checkpoints::Checkpoint,
    queue::ClaimedJob,
};
use tunesmith_types::names::Sha256Digest;

use crate::{
    base_model_cache::fetch,
    failure::{Failure, chain},
    scratch::RunDirectory,
};

/// What the trainer reads of the adapter that a job begins with.
const PARENT_FILES: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];

/// Of a checkpoint of a job that may deliver its best adapter.
const BEST_VALUES: &str = "best.safetensors";

/// The base model's details; a job is only made for a model that has them.
pub(crate) fn base_model_details(base_model: &BaseModel) -> Result<&BaseModelDetails, Failure> {
    base_model.details.as_ref().ok_or_else(|| {
        Failure::last(
            "base_model_not_ready",
            "The base model is not ready; register it again.",
        )
    })
}

/// The examples.
pub(crate) async fn stage_data(
    blobs: &Blobs,
    job: &ClaimedJob,
    directory: &RunDirectory,
) -> Result<(), Failure> {
    let key: BlobKey = job
        .dataset
        .blob_key
        .parse()
        .map_err(|_| Failure::last("dataset_missing", "The dataset's row names no blob."))?;
    let fetched = blobs
        .get_to_file(&key, &directory.data(), Some(&job.dataset.sha256))
        .await;
    fetched.map(drop).map_err(|error| {
        tracing::warn!(%key, error = %chain(&error), "the dataset cannot be fetched");
        Failure::blob("the dataset", &error)
    })
}

/// The files of the version that the job begins with, where it does not begin with a fresh adapter.
pub(crate) async fn stage_parent(
    blobs: &Blobs,
    job: &ClaimedJob,
    directory: &RunDirectory,
) -> Result<(), Failure> {
    let Some(parent) = &job.parent else { return Ok(()) };
    let what = format!(
        "the adapter `{}@{}`, which the job begins with",
        parent.adapter, parent.number
    );
    for name in PARENT_FILES {
        let file = parent
            .files
            .iter()
            .find(|file| file.name == name)
            .ok_or_else(|| {
                let message = format!("There is no `{name}` in {what}; begin with another version.");
                Failure::last("parent_version_unusable", message)
            })?;
        let fetched = fetch(blobs, file, &directory.parent().join(name)).await;
        fetched.map_err(|error| {
            tracing::warn!(key = file.key, error = %chain(&error), "the parent version cannot be fetched");
            Failure::blob(&what, &error)
        })?;
    }
    Ok(())
}

/// What became of an attempt to use a checkpoint.
pub(crate) enum StagedCheckpoint {
    /// It lies here, whole.
    Ready(PathBuf),
    /// It must not be used, and why.
    Unusable(String),
}

/// Downloads a checkpoint and verifies it: its files, their sha256, and that it is of this very job and configuration.
pub(crate) async fn stage_checkpoint(
    blobs: &Blobs,
    job: &ClaimedJob,
    checkpoint: &Checkpoint,
    config_hash: &Sha256Digest,
    directory: &RunDirectory,
) -> Result<StagedCheckpoint, Failure> {
    if checkpoint.job_id != job.token.job_id || checkpoint.config_hash != config_hash.as_str() {
        return Ok(StagedCheckpoint::Unusable(
            "it was made with another configuration".to_owned(),
        ));
    }
    let place = directory.resume(checkpoint.step);
    let named = |name: &str| checkpoint.files.iter().find(|file| file.name == name);
    if let Some(name) = CHECKPOINT_FILES.into_iter().find(|name| named(name).is_none()) {
        return Ok(StagedCheckpoint::Unusable(format!("it has no `{name}`")));
    }
    let read = CHECKPOINT_FILES.into_iter().chain([BEST_VALUES]);
    for file in read.filter_map(named) {
        match fetch(blobs, file, &place.join(&file.name)).await {
            Ok(()) => {}
            Err(
                error @ (BlobError::NotFound { .. } | BlobError::DigestMismatch { .. } | BlobError::Key(_)),
            ) => {
                return Ok(StagedCheckpoint::Unusable(error.to_string()));
            }
            Err(error) => {
                tracing::warn!(step = checkpoint.step, error = %chain(&error), "a checkpoint cannot be fetched");
                return Err(Failure::blob("a checkpoint", &error));
            }
        }
    }
    Ok(StagedCheckpoint::Ready(place))
}
