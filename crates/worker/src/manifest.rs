//! What an adapter version says about itself, and the digest that names it for good.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tunesmith_store::{base_models::BaseModelDetails, files::StoredFile, queue::ClaimedJob};
use tunesmith_types::{names::Sha256Digest, probe::Probe};

/// Of the manifest's form.
const MANIFEST_VERSION: u32 = 1;

/// The manifest of the version that `job` makes. It holds nothing that differs from run to run, such as times.
pub(crate) fn manifest(
    job: &ClaimedJob,
    base: &BaseModelDetails,
    files: &[StoredFile],
    metrics: &Value,
    probes: &[Probe],
) -> Value {
    let files: Vec<Value> = files
        .iter()
        .map(|file| json!({"name": file.name, "sha256": file.sha256, "bytes": file.bytes}))
        .collect();
    json!({
        "manifest_version": MANIFEST_VERSION,
        "job": job.token.job_id,
        "method": "sft",
        "base_model": job.base_model.name,
        "base_model_id": job.base_model.id,
        "base_digest": base.digest,
        "tokenizer_digest": base.tokenizer_digest,
        "template_digest": base.template_digest,
        "dataset": format!("{}@{}", job.dataset.name, job.dataset.number),
        "dataset_id": job.dataset.id,
        "dataset_sha256": job.dataset.sha256,
        "hyperparameters": job.hyperparameters,
        "metrics": metrics,
        "files": files,
        Probe::FIELD: probes,
    })
}

/// Names what every run of a job must have in common, so that a checkpoint of another job is never resumed from.
pub(crate) fn config_hash(job: &ClaimedJob, base: &BaseModelDetails) -> Sha256Digest {
    canonical_digest(&json!({
        "job": job.token.job_id,
        "base": base.digest,
        "tokenizer": base.tokenizer_digest,
        "template": base.template_digest,
        "dataset": job.dataset.sha256,
        "hyperparameters": job.hyperparameters,
    }))
}

/// sha256 over the canonical text: keys sorted, no spaces.
pub(crate) fn canonical_digest(value: &Value) -> Sha256Digest {
    hex::encode(Sha256::digest(canonical(value).to_string()))
        .parse()
        .expect("invariant: a sha256 in hex is 64 digits")
}

/// The same value with the keys of all its objects sorted.
fn canonical(value: &Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.iter().map(canonical).collect()),
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by_key(|(name, _)| *name);
            let fields = sorted
                .into_iter()
                .map(|(name, value)| (name.clone(), canonical(value)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_keys_does_not_matter() {
        let one = json!({"a": 1, "b": [{"x": 0.5, "y": null}]});
        let other = json!({"b": [{"y": null, "x": 0.5}], "a": 1});
        assert_eq!(canonical_digest(&one), canonical_digest(&other));
        assert_eq!(
            canonical(&other).to_string(),
            r#"{"a":1,"b":[{"x":0.5,"y":null}]}"#
        );
        assert_ne!(canonical_digest(&one), canonical_digest(&json!({"a": 1})));
    }
}
