//! What the version of a claimed job says about itself, and what all runs of that job have in common.

use serde_json::{Value, json};
use tunesmith_store::{
    base_models::BaseModelDetails,
    files::StoredFile,
    manifest::{self, Origin},
    queue::ClaimedJob,
};
use tunesmith_types::{names::Sha256Digest, probe::Probe};

pub(crate) use tunesmith_store::manifest::canonical_digest;

/// The manifest of the version that `job` ends with.
pub(crate) fn manifest(
    job: &ClaimedJob,
    base: &BaseModelDetails,
    files: &[StoredFile],
    metrics: &Value,
    probes: &[Probe],
) -> Value {
    let origin = Origin {
        job: job.token.job_id,
        base_model: &job.base_model,
        base,
        dataset: &job.dataset,
        hyperparameters: &job.hyperparameters,
        checkpoint_step: None,
        parent: job.parent.as_ref().map(|parent| parent.id),
    };
    manifest::manifest(&origin, files, metrics, probes)
}

/// Names what every run of a job must have in common, so that a checkpoint of another job is never resumed from.
pub(crate) fn config_hash(job: &ClaimedJob, base: &BaseModelDetails) -> Sha256Digest {
    let mut config = json!({
        "job": job.token.job_id,
        "base": base.digest,
        "tokenizer": base.tokenizer_digest,
        "template": base.template_digest,
        "dataset": job.dataset.sha256,
        "hyperparameters": job.hyperparameters,
    });
    if let Some(parent) = &job.parent {
        config["parent"] = json!(parent.digest);
    }
    canonical_digest(&config)
}
