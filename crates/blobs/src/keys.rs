//! Where each blob lies. A key is made from ids and allow-listed file names, so no user string can reach one.
//!
//! ```text
//! datasets/{org}/{dataset}.jsonl
//! base-models/{base}/{file}
//! jobs/{job}/{epoch}-{lease}/checkpoints/{step}/{file}
//! jobs/{job}/{epoch}-{lease}/adapter/{file}
//! jobs/{job}/{epoch}-{lease}/metrics.jsonl
//! adapters/{org}/{random}/{file}   (trained elsewhere)
//! imports/{folder}/{file}   (put there by people, to be registered as a base model)
//! self-test/{random}
//! ```

use std::{fmt, str::FromStr};

use tunesmith_types::ids::{BaseModelId, DatasetId, ExportId, JobId, OrganizationId};
use tunesmith_types::names::ResourceName;
use uuid::Uuid;

/// Files of a base model that are stored, besides the numbered shards of its weights.
pub const BASE_MODEL_FILES: [&str; 17] = [
    "LICENSE",
    "LICENSE.txt",
    "README.md",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "model.safetensors",
    "model.safetensors.index.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];

/// Files of a checkpoint.
pub const CHECKPOINT_FILES: [&str; 4] = [
    "adapter_config.json",
    "adapter_model.safetensors",
    "optimizer.safetensors",
    "state.json",
];

/// Files that some checkpoints have too: the values of the best evaluation, and what the adapter answers.
pub const CHECKPOINT_EXTRAS: [&str; 2] = ["best.safetensors", "probes.json"];

/// Files of an adapter version: a PEFT folder and its manifest.
pub const ADAPTER_FILES: [&str; 4] = [
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "manifest.json",
];

/// A text that is no key, or a file name that has no place in its folder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct InvalidKey {
    /// What was given, cut to 200 characters.
    pub text: String,
    /// What would have been right.
    pub expected: &'static str,
}

impl InvalidKey {
    fn new(text: &str, expected: &'static str) -> Self {
        Self {
            text: text.chars().take(200).collect(),
            expected,
        }
    }
}

/// One run's place among the blobs: two runs of a job never write to the same key, because the lease differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RunPlace {
    /// The job.
    pub job: JobId,
    /// Epoch of the lease.
    pub epoch: i64,
    /// The lease.
    pub lease: Uuid,
}

impl fmt::Display for RunPlace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "jobs/{}/{}-{}",
            self.job,
            self.epoch,
            self.lease.simple()
        )
    }
}

/// One making of an export; two never write to the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExportPlace {
    /// The export.
    pub export: ExportId,
    /// Epoch of the lease.
    pub epoch: i64,
    /// The lease.
    pub lease: Uuid,
}

/// The key of one blob.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobKey(String);

impl BlobKey {
    /// A file of an export.
    ///
    /// # Errors
    /// An export has no file of this name.
    pub fn export_file(place: ExportPlace, file: &str) -> Result<Self, InvalidKey> {
        if !is_export_file(file) {
            return Err(InvalidKey::new(file, "a file name of an export"));
        }
        let ExportPlace { export, epoch, lease } = place;
        Ok(Self(format!(
            "exports/{export}/{epoch}-{}/{file}",
            lease.simple()
        )))
    }

    /// The examples of a dataset.
    #[must_use]
    pub fn dataset(organization: OrganizationId, dataset: DatasetId) -> Self {
        Self(format!("datasets/{organization}/{dataset}.jsonl"))
    }

    /// A file of a base model: one of [`BASE_MODEL_FILES`] or a shard such as `model-00001-of-00004.safetensors`.
    ///
    /// # Errors
    /// The file has no place in a base model.
    pub fn base_model_file(base_model: BaseModelId, file: &str) -> Result<Self, InvalidKey> {
        if !is_base_model_file(file) {
            return Err(InvalidKey::new(file, "the name of a base model's file"));
        }
        Ok(Self(format!("base-models/{base_model}/{file}")))
    }

    /// A file of a model folder that somebody has put into the bucket, to be registered as a base model.
    ///
    /// # Errors
    /// The file has no place in a base model.
    pub fn import_file(folder: &ResourceName, file: &str) -> Result<Self, InvalidKey> {
        if !is_base_model_file(file) {
            return Err(InvalidKey::new(file, "the name of a base model's file"));
        }
        Ok(Self(format!("imports/{folder}/{file}")))
    }

    /// A file of the checkpoint after `step` optimizer steps: one of [`CHECKPOINT_FILES`] or
    /// [`CHECKPOINT_EXTRAS`].
    ///
    /// # Errors
    /// The file has no place in a checkpoint.
    pub fn checkpoint_file(run: RunPlace, step: u64, file: &str) -> Result<Self, InvalidKey> {
        if !is_checkpoint_file(file) {
            return Err(InvalidKey::new(file, "the name of a checkpoint's file"));
        }
        Ok(Self(format!("{run}/checkpoints/{step}/{file}")))
    }

    /// A file of the adapter that a run ended with: one of [`ADAPTER_FILES`].
    ///
    /// # Errors
    /// The file has no place in an adapter.
    pub fn adapter_file(run: RunPlace, file: &str) -> Result<Self, InvalidKey> {
        if !ADAPTER_FILES.contains(&file) {
            return Err(InvalidKey::new(file, "the name of an adapter's file"));
        }
        Ok(Self(format!("{run}/adapter/{file}")))
    }

    /// A file of an adapter that was trained elsewhere: one of [`ADAPTER_FILES`]. No two imports have the same `import`.
    ///
    /// # Errors
    /// The file has no place in an adapter.
    pub fn imported_adapter_file(
        organization: OrganizationId,
        import: Uuid,
        file: &str,
    ) -> Result<Self, InvalidKey> {
        if !ADAPTER_FILES.contains(&file) {
            return Err(InvalidKey::new(file, "the name of an adapter's file"));
        }
        Ok(Self(format!(
            "adapters/{organization}/{}/{file}",
            import.simple()
        )))
    }

    /// The metrics of a run, one JSON object a line.
    #[must_use]
    pub fn metrics(run: RunPlace) -> Self {
        Self(format!("{run}/metrics.jsonl"))
    }

    pub(crate) fn self_test() -> Self {
        Self(format!("self-test/{}", Uuid::new_v4().simple()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What follows the last slash.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for BlobKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

impl FromStr for BlobKey {
    type Err = InvalidKey;

    /// Accepts exactly what the constructors make, for keys that come from rows and listings.
    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let parts: Vec<&str> = text.split('/').collect();
        let valid = match parts.as_slice() {
            ["datasets", organization, file] => {
                is_id::<OrganizationId>(organization)
                    && file.strip_suffix(".jsonl").is_some_and(is_id::<DatasetId>)
            }
            ["base-models", base_model, file] => is_id::<BaseModelId>(base_model) && is_base_model_file(file),
            ["jobs", job, run, rest @ ..] => is_id::<JobId>(job) && is_run(run) && is_run_file(rest),
            ["adapters", organization, import, file] => {
                is_id::<OrganizationId>(organization) && is_hex(import, 32) && ADAPTER_FILES.contains(file)
            }
            ["imports", folder, file] => is_id::<ResourceName>(folder) && is_base_model_file(file),
            ["exports", export, run, file] => {
                is_id::<ExportId>(export) && is_run(run) && is_export_file(file)
            }
            ["self-test", random] => is_hex(random, 32),
            _ => false,
        };
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidKey::new(text, "the key of a blob"))
        }
    }
}

/// What the keys of one folder begin with; ends with a slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobPrefix(String);

impl BlobPrefix {
    /// All files of a base model.
    #[must_use]
    pub fn base_model(base_model: BaseModelId) -> Self {
        Self(format!("base-models/{base_model}/"))
    }

    /// All datasets of an organization.
    #[must_use]
    pub fn datasets(organization: OrganizationId) -> Self {
        Self(format!("datasets/{organization}/"))
    }

    /// Everything that all runs of a job wrote.
    #[must_use]
    pub fn job(job: JobId) -> Self {
        Self(format!("jobs/{job}/"))
    }

    /// Everything that one run wrote.
    #[must_use]
    pub fn run(run: RunPlace) -> Self {
        Self(format!("{run}/"))
    }

    pub(crate) fn self_test() -> Self {
        Self("self-test/".to_owned())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a base model may have a file of this name.
#[must_use]
pub fn is_base_model_file(file: &str) -> bool {
    BASE_MODEL_FILES.contains(&file) || is_weight_shard(file)
}

/// Whether an export may have a file of this name: those of a model folder, one archive, one GGUF file, and what says how
/// they were verified.
#[must_use]
pub fn is_export_file(file: &str) -> bool {
    is_base_model_file(file) || ["adapter.tar", "adapter.gguf", "verification.json"].contains(&file)
}

/// `model-00001-of-00004.safetensors`
fn is_weight_shard(file: &str) -> bool {
    let number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    file.strip_prefix("model-")
        .and_then(|rest| rest.strip_suffix(".safetensors"))
        .and_then(|rest| rest.split_once("-of-"))
        .is_some_and(|(index, count)| number(index) && number(count))
}

fn is_id<T: FromStr>(text: &str) -> bool {
    text.parse::<T>().is_ok()
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_decimal(text: &str) -> bool {
    let canonical = text == "0" || !text.starts_with('0');
    canonical && (1..=19).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_checkpoint_file(file: &str) -> bool {
    CHECKPOINT_FILES.contains(&file) || CHECKPOINT_EXTRAS.contains(&file)
}

fn is_run(text: &str) -> bool {
    text.split_once('-')
        .is_some_and(|(epoch, lease)| is_decimal(epoch) && is_hex(lease, 32))
}

fn is_run_file(parts: &[&str]) -> bool {
    match parts {
        ["metrics.jsonl"] => true,
        ["adapter", file] => ADAPTER_FILES.contains(file),
        ["checkpoints", step, file] => is_decimal(step) && is_checkpoint_file(file),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn run() -> RunPlace {
        RunPlace {
            job: JobId::new(),
            epoch: 12,
            lease: Uuid::new_v4(),
        }
    }

    #[test]
    fn every_constructor_makes_what_the_parser_accepts() {
        let keys = [
            BlobKey::dataset(OrganizationId::new(), DatasetId::new()),
            BlobKey::base_model_file(BaseModelId::new(), "tokenizer.json").unwrap(),
            BlobKey::base_model_file(BaseModelId::new(), "model-00001-of-00004.safetensors").unwrap(),
            BlobKey::checkpoint_file(run(), 50, "optimizer.safetensors").unwrap(),
            BlobKey::checkpoint_file(run(), 50, "probes.json").unwrap(),
            BlobKey::adapter_file(run(), "adapter_config.json").unwrap(),
            BlobKey::imported_adapter_file(OrganizationId::new(), Uuid::new_v4(), "adapter_config.json")
                .unwrap(),
            BlobKey::metrics(run()),
            BlobKey::self_test(),
        ];
        for key in keys {
            assert_eq!(key.as_str().parse::<BlobKey>().unwrap(), key);
        }
    }

    #[test]
    fn other_file_names_have_no_place() {
        for wrong in [
            "",
            "..",
            "../config.json",
            "pytorch_model.bin",
            "config.json/x",
            "model-1-of-2.safetensors",
            "x.py",
        ] {
            assert!(
                BlobKey::base_model_file(BaseModelId::new(), wrong).is_err(),
                "{wrong}"
            );
            assert!(BlobKey::checkpoint_file(run(), 1, wrong).is_err(), "{wrong}");
            assert!(BlobKey::adapter_file(run(), wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn keys_outside_the_grammar_are_refused() {
        let dataset = BlobKey::dataset(OrganizationId::new(), DatasetId::new()).to_string();
        let metrics = BlobKey::metrics(run()).to_string();
        for wrong in [
            String::new(),
            "/".to_owned(),
            "../../etc/passwd".to_owned(),
            format!("/{dataset}"),
            format!("{dataset}/"),
            format!("{dataset}\0"),
            format!("../bucket/{dataset}"),
            dataset.replace("datasets/", "datasets//"),
            dataset.replace(".jsonl", ".JSONL"),
            dataset.replace("ds_", "job_"),
            metrics.replace("/12-", "/012-"),
            metrics.replace("/12-", "/-12-"),
            metrics.replace("metrics.jsonl", "checkpoints/../metrics.jsonl"),
            "self-test/../x".to_owned(),
        ] {
            assert!(wrong.parse::<BlobKey>().is_err(), "{wrong:?}");
        }
    }
}
