//! From a finished training to an adapter version: verify, upload, and then one transaction.

use std::path::{Path, PathBuf};

use tunesmith_blobs::{BlobError, BlobKey, Blobs};
use tunesmith_store::{
    adapters::NewAdapterVersion,
    files::StoredFile,
    queue::{self, ClaimedJob, Completion},
};

use crate::{
    adapter_folder,
    checkpoint_upload::run_place,
    failure::{Failure, chain},
    lease::LeaseHandle,
    manifest::{canonical_digest, manifest},
    metrics_file,
    persist::persist,
    probes::read_probes,
    run::WorkerContext,
    scratch::RunDirectory,
    stage::base_model_details,
};

/// What a version consists of.
const FILES: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];
/// Tries of one upload, each with the client's own retries.
const ATTEMPTS: u32 = 4;

/// A version with all its blobs in place, which no row names yet.
pub(crate) struct Prepared {
    completion: Completion,
}

/// Verifies and uploads what the trainer has made. May be dropped at any time.
pub(crate) async fn prepare(
    context: &WorkerContext,
    job: &ClaimedJob,
    lease: &LeaseHandle,
    directory: &RunDirectory,
    finished: &Finished,
) -> Result<Prepared, Failure> {
    let folder = directory
        .inside(&finished.folder)
        .map_err(|error| Failure::disk("find the adapter that the trainer made", &error))?;
    verify(folder.clone(), job).await?;
    let mut files = Vec::new();
    for name in FILES {
        let key = BlobKey::adapter_file(run_place(lease), name)
            .expect("invariant: our own file names have a place");
        files.push(upload(context, &key, &folder.join(name), "the adapter").await?);
    }
    let mut metrics = metrics_file::write(&context.store, job, &directory.metrics())
        .await
        .map_err(|error| {
            tracing::warn!(error = %chain(&error), "the metrics file cannot be made");
            Failure::retryable(
                "metrics_unavailable",
                "The worker could not gather the metrics of the job.",
            )
        })?;
    if finished.stopped_early || finished.delivered_step != finished.steps {
        metrics["stopped_early"] = finished.stopped_early.into();
        metrics["delivered_step"] = finished.delivered_step.into();
    }
    let key = BlobKey::metrics(run_place(lease));
    let metrics_file = upload(context, &key, &directory.metrics(), "the metrics").await?;
    let probes = read_probes(folder, job).await;
    let base = base_model_details(&job.base_model)?;
    let manifest = manifest(job, base, &files, &metrics, &probes);
    let version = NewAdapterVersion {
        digest: canonical_digest(&manifest),
        manifest,
        files,
        metrics,
    };
    let steps = i64::try_from(finished.steps).unwrap_or(i64::MAX);
    Ok(Prepared {
        completion: Completion {
            version,
            metrics_file: Some(metrics_file),
            steps,
        },
    })
}

/// Makes the version count. Not to be dropped half-way: the answer says how the job ended.
pub(crate) async fn commit(
    context: &WorkerContext,
    lease: &LeaseHandle,
    prepared: &Prepared,
) -> Result<(), Failure> {
    let timings = &context.settings.timings;
    let completed = persist(timings.retry, || {
        queue::complete(&context.store, &lease.token, &prepared.completion)
    })
    .await;
    match lease.check(completed) {
        Ok(published) => {
            tracing::info!(job = %lease.token.job_id, number = published.number, "the job has succeeded");
            Ok(())
        }
        Err(error) => {
            tracing::error!(job = %lease.token.job_id, error = %chain(&error), "the version could not be published");
            Err(Failure::retryable(
                "publish_failed",
                "The adapter version could not be written to the registry.",
            ))
        }
    }
}

/// What the trainer says it has made.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) steps: u64,
    pub(crate) folder: PathBuf,
    pub(crate) delivered_step: u64,
    pub(crate) stopped_early: bool,
}

async fn verify(folder: PathBuf, job: &ClaimedJob) -> Result<(), Failure> {
    let hyperparameters = job.hyperparameters.clone();
    tokio::task::spawn_blocking(move || adapter_folder::verify(&folder, &hyperparameters))
        .await
        .expect("invariant: verifying a folder does not panic")
        .map_err(|error| {
            tracing::error!(job = %job.token.job_id, error = %chain(&error), "the trainer left no valid adapter");
            Failure::last("adapter_invalid", format!("What the trainer made is no valid adapter: {error}."))
        })
}

/// Puts a file in its place, patiently.
pub(crate) async fn upload(
    context: &WorkerContext,
    key: &BlobKey,
    path: &Path,
    what: &str,
) -> Result<StoredFile, Failure> {
    let stored = put_patiently(context, &context.blobs, key, path)
        .await
        .map_err(|error| {
            tracing::warn!(%key, error = %chain(&error), "an upload failed");
            Failure::blob(what, &error)
        })?;
    Ok(StoredFile {
        name: key.file_name().to_owned(),
        key: key.to_string(),
        sha256: stored.sha256.to_string(),
        bytes: stored.bytes,
    })
}

async fn put_patiently(
    context: &WorkerContext,
    blobs: &Blobs,
    key: &BlobKey,
    path: &Path,
) -> Result<tunesmith_blobs::StoredBlob, BlobError> {
    let mut pause = context.settings.timings.retry;
    for attempt in 1.. {
        match blobs.put_file(key, path).await {
            Err(error) if error.is_transient() && attempt < ATTEMPTS => {
                tracing::warn!(%key, attempt, error = %chain(&error), "an upload failed; trying again");
                tokio::time::sleep(pause).await;
                pause *= 4;
            }
            other => return other,
        }
    }
    unreachable!("the last attempt returns")
}
