//! Checkpoints that become versions.

use tunesmith_store::adapters::{self, AdapterVersion, NewAdapterVersion};
use tunesmith_store::checkpoints::{self, Checkpoint};
use tunesmith_store::files::StoredFile;
use tunesmith_store::jobs::Job;
use tunesmith_store::manifest::{Origin, canonical_digest, manifest};
use tunesmith_store::metrics::{self, Summary};
use tunesmith_store::{base_models, datasets};
use tunesmith_types::api::adapters as body;
use tunesmith_types::ids::JobId;
use tunesmith_types::names::ResourceName;
use tunesmith_types::principal::Principal;
use tunesmith_types::probe::Probe;

use super::adapter_check::{CONFIG, TENSORS, check_config, check_tensors, read_probes};
use super::adapters::{require_present, version_view};
use super::jobs;
use crate::error::{ApiError, OrNotFound};
use crate::state::ApiState;

/// What people call it.
pub const KIND: &str = "checkpoint";
/// Rows of one query for metrics.
const METRIC_ROWS: u32 = 1000;

/// A version, and whether this call made it.
#[derive(Debug)]
pub struct PublishedCheckpoint {
    /// The version.
    pub version: body::AdapterVersion,
    /// Whether it is new.
    pub is_new: bool,
}

/// Makes the next version of an adapter from a kept checkpoint. Publishing it again gives the same version.
///
/// # Errors
/// The organization has no such job, or the job keeps no such checkpoint; it was published as a version of another
/// adapter, or that version is deleted; its files are damaged or no good adapter.
pub async fn publish(
    state: &ApiState,
    caller: &Principal,
    job: JobId,
    step: i64,
    request: &body::PublishCheckpointRequest,
) -> Result<PublishedCheckpoint, ApiError> {
    let organization = caller.organization_id;
    let job = jobs::find(state, caller, job).await?;
    let adapter = match &request.adapter {
        Some(name) => ResourceName::parse("adapter", name)?,
        None => job.adapter.clone(),
    };
    if let Some(version) = checkpoints::published(&state.store, organization, job.id, step).await? {
        let version = adapters::version(&state.store, organization, version).await?;
        return known(version, request.adapter.is_some().then_some(&adapter));
    }
    let checkpoint = checkpoints::find(&state.store, organization, job.id, step)
        .await
        .or_not_found(KIND, step)?;
    let new = prepare(state, &job, &checkpoint).await?;
    let version = checkpoints::publish(&state.store, organization, &checkpoint, &adapter, &new).await?;
    let version = adapters::version(&state.store, organization, version).await?;
    if version.adapter != adapter {
        return known(version, Some(&adapter));
    }
    tracing::info!(job = %job.id, step, version = %version.id, "checkpoint published");
    Ok(PublishedCheckpoint {
        version: version_view(version),
        is_new: true,
    })
}

/// A version that was there already.
fn known(version: AdapterVersion, wanted: Option<&ResourceName>) -> Result<PublishedCheckpoint, ApiError> {
    require_present(&version)?;
    if wanted.is_some_and(|wanted| *wanted != version.adapter) {
        let message = format!(
            "The checkpoint was published as `{}@{}` already.",
            version.adapter, version.number
        );
        return Err(ApiError::Conflict {
            code: "checkpoint_published",
            param: Some("adapter"),
            message,
        });
    }
    Ok(PublishedCheckpoint {
        version: version_view(version),
        is_new: false,
    })
}

/// Says what the version was made from. It shares its files with the checkpoint.
async fn prepare(
    state: &ApiState,
    job: &Job,
    checkpoint: &Checkpoint,
) -> Result<NewAdapterVersion, ApiError> {
    let organization = job.organization_id;
    let (files, probes) = check_files(state, job, checkpoint).await?;
    let base_model = base_models::get(&state.store, organization, job.base_model_id).await?;
    let base = base_model
        .details
        .as_ref()
        .ok_or(ApiError::Unexpected("a job's base model has no details"))?;
    let dataset = datasets::get(&state.store, organization, job.dataset_id).await?;
    let origin = Origin {
        job: job.id,
        base_model: &base_model,
        base,
        dataset: &dataset,
        hyperparameters: &job.hyperparameters,
        checkpoint_step: Some(checkpoint.step),
        parent: job.parent.as_ref().map(|parent| parent.version_id),
    };
    let metrics = metrics_until(state, job, checkpoint.step).await?;
    let manifest = manifest(&origin, &files, &metrics, &probes);
    Ok(NewAdapterVersion {
        digest: canonical_digest(&manifest),
        manifest,
        files,
        metrics,
    })
}

/// The files of the adapter, every byte checked, and what it answers; nothing where an older trainer did not record it.
async fn check_files(
    state: &ApiState,
    job: &Job,
    checkpoint: &Checkpoint,
) -> Result<(Vec<StoredFile>, Vec<Probe>), ApiError> {
    let config = file(checkpoint, CONFIG)?;
    let tensors = file(checkpoint, TENSORS)?;
    let refuse = |reason: String| {
        let message = format!(
            "The checkpoint at step {} is no good adapter: {reason}",
            checkpoint.step
        );
        ApiError::conflict("checkpoint_invalid", message)
    };
    let rank = job.hyperparameters.rank.get();
    check_config(&state.blobs, &config, rank).await?.map_err(refuse)?;
    check_tensors(&state.blobs, &tensors).await?.map_err(refuse)?;
    let probes = match file(checkpoint, Probe::FILE) {
        Ok(file) => read_probes(&state.blobs, &file).await?.map_err(refuse)?,
        Err(_) => Vec::new(),
    };
    Ok((vec![config, tensors], probes))
}

fn file(checkpoint: &Checkpoint, name: &str) -> Result<StoredFile, ApiError> {
    let found = checkpoint.files.iter().find(|file| file.name == name);
    found
        .cloned()
        .ok_or(ApiError::Unexpected("a checkpoint has no adapter"))
}

/// What the job's numbers came to at this step.
async fn metrics_until(state: &ApiState, job: &Job, step: i64) -> Result<serde_json::Value, ApiError> {
    let mut summary = Summary::default();
    let mut after = None;
    loop {
        let rows = metrics::list(&state.store, job.organization_id, job.id, after, METRIC_ROWS).await?;
        let Some(last) = rows.last() else { break };
        after = Some(last.step);
        rows.iter()
            .filter(|row| row.step <= step)
            .for_each(|row| summary.add(row));
        if after >= Some(step) {
            break;
        }
    }
    Ok(summary.to_json())
}
