//! What an adapter version says about itself, and the digest that names it for good.

use serde_json::{Map, Number, Value, json};
use sha2::{Digest, Sha256};
use tunesmith_types::{
    hyperparameters::Hyperparameters,
    ids::{AdapterVersionId, JobId},
    names::Sha256Digest,
    probe::Probe,
};

use crate::{base_models::BaseModel, base_models::BaseModelDetails, datasets::Dataset, files::StoredFile};

/// Of the manifest's form.
const MANIFEST_VERSION: u32 = 1;
/// Field with the id of the version whose adapter the training began with, or null.
pub(crate) const PARENT_FIELD: &str = "parent_version";

/// All that a version was made from.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The job that made it.
    pub job: JobId,
    /// The model that it adapts.
    pub base_model: &'a BaseModel,
    /// What is known about that model.
    pub base: &'a BaseModelDetails,
    /// What it learned from.
    pub dataset: &'a Dataset,
    /// How.
    pub hyperparameters: &'a Hyperparameters,
    /// Optimizer steps of the checkpoint that it is; none for what the job ended with.
    pub checkpoint_step: Option<i64>,
    /// The version whose adapter the training began with.
    pub parent: Option<AdapterVersionId>,
}

/// The manifest of a version. It holds nothing that differs from run to run, such as times.
#[must_use]
pub fn manifest(origin: &Origin<'_>, files: &[StoredFile], metrics: &Value, probes: &[Probe]) -> Value {
    json!({
        "manifest_version": MANIFEST_VERSION,
        "job": origin.job,
        "checkpoint_step": origin.checkpoint_step,
        "method": "sft",
        "base_model": origin.base_model.name,
        "base_model_id": origin.base_model.id,
        "base_digest": origin.base.digest,
        "tokenizer_digest": origin.base.tokenizer_digest,
        "template_digest": origin.base.template_digest,
        "dataset": format!("{}@{}", origin.dataset.name, origin.dataset.number),
        "dataset_id": origin.dataset.id,
        "dataset_sha256": origin.dataset.sha256,
        "hyperparameters": origin.hyperparameters,
        "metrics": metrics,
        PARENT_FIELD: origin.parent,
        "files": listed(files),
        Probe::FIELD: probes,
    })
}

/// The manifest of a version that was trained elsewhere: no job, no dataset, no numbers. `hyperparameters` are what its
/// own configuration tells.
#[must_use]
pub fn imported_manifest(
    base_model: &BaseModel,
    base: &BaseModelDetails,
    hyperparameters: &Value,
    files: &[StoredFile],
) -> Value {
    let probes: [Probe; 0] = [];
    json!({
        "manifest_version": MANIFEST_VERSION,
        "source": "import",
        "job": null,
        "checkpoint_step": null,
        "base_model": base_model.name,
        "base_model_id": base_model.id,
        "base_digest": base.digest,
        "tokenizer_digest": base.tokenizer_digest,
        "template_digest": base.template_digest,
        "dataset": null,
        "hyperparameters": hyperparameters,
        "metrics": {},
        PARENT_FIELD: null,
        "files": listed(files),
        Probe::FIELD: probes,
    })
}

fn listed(files: &[StoredFile]) -> Vec<Value> {
    let file = |file: &StoredFile| json!({"name": file.name, "sha256": file.sha256, "bytes": file.bytes});
    files.iter().map(file).collect()
}

/// sha256 over the canonical text: keys sorted, no spaces, and every number as it comes back from the database.
#[must_use]
pub fn canonical_digest(value: &Value) -> Sha256Digest {
    hex::encode(Sha256::digest(canonical(value).to_string()))
        .parse()
        .expect("invariant: a sha256 in hex is 64 digits")
}

/// The same value in the one form that all its spellings share.
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
        Value::Number(number) => Value::Number(canonical_number(number)),
        other => other.clone(),
    }
}

/// The database keeps decimal digits: it knows no negative zero, and gives `1e16` back as an integer.
fn canonical_number(number: &Number) -> Number {
    /// From here on serde_json writes floats with an exponent.
    const LARGE: f64 = 1e16;
    let Some(float) = number.as_f64().filter(|_| number.is_f64()) else {
        return number.clone();
    };
    if float == 0.0 {
        return Number::from_f64(0.0).unwrap_or_else(|| number.clone());
    }
    if float.abs() < LARGE {
        return number.clone();
    }
    // Exact: floats of this size are integers. The bounds are those of u64 and i64.
    if (0.0..18_446_744_073_709_551_616.0).contains(&float) {
        return Number::from(float as u64);
    }
    if (-9_223_372_036_854_775_808.0..0.0).contains(&float) {
        return Number::from(float as i64);
    }
    number.clone()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
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

    #[test]
    fn numbers_have_one_spelling() {
        let spelled = json!([-0.0, 1e16, -1e17, 32.0, 2.5e-5, u64::MAX, 1e300]);
        assert_eq!(
            canonical(&spelled).to_string(),
            "[0.0,10000000000000000,-100000000000000000,32.0,0.000025,18446744073709551615,1e+300]"
                .replace("0.000025", &json!(2.5e-5).to_string())
                .replace("1e+300", &json!(1e300).to_string())
        );
        let integer: Value = serde_json::from_str("10000000000000000").unwrap();
        assert_eq!(canonical_digest(&json!(1e16)), canonical_digest(&integer));
    }
}
