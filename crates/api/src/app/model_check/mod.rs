//! Is this folder a model that can be trained? Reads headers and small files, never the weights.

mod config;
mod family;
mod modules;
pub(super) mod safetensors_header;
pub(super) mod stored_tensor;
mod template;

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};
use tunesmith_blobs::{BlobError, Blobs};
use tunesmith_store::files::StoredFile;
use tunesmith_types::api::base_models::BaseModelArchitecture;

use config::ModelConfig;
pub use modules::{ModelModules, Module};
use safetensors_header::{Header, MOST_HEADER_BYTES};

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const SINGLE_WEIGHTS: &str = "model.safetensors";
pub(super) const WEIGHTS_INDEX: &str = "model.safetensors.index.json";
const MOST_CONFIG_BYTES: u64 = 1 << 20;
pub(super) const MOST_INDEX_BYTES: u64 = 16 << 20;
const MOST_TOKENIZER_BYTES: u64 = 64 << 20;
/// Problems that are listed; the rest are counted.
const MOST_PROBLEMS: usize = 20;

/// A folder that can be trained.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckedModel {
    /// `config.json`.
    pub config: serde_json::Value,
    /// What matters of it.
    pub architecture: BaseModelArchitecture,
    /// sha256 of `tokenizer.json`.
    pub tokenizer_digest: String,
    /// sha256 of the chat template's text, where there is one.
    pub template_digest: Option<String>,
}

/// Why a folder cannot be trained, each with the file at fault; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(Vec<String>);

impl Problems {
    pub(super) const fn new(problems: Vec<String>) -> Self {
        Self(problems)
    }
}

impl std::fmt::Display for Problems {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown: Vec<&str> = self.0.iter().take(MOST_PROBLEMS).map(String::as_str).collect();
        write!(formatter, "{}", shown.join(" "))?;
        match self.0.len() - shown.len() {
            0 => Ok(()),
            more => write!(formatter, " And {more} more."),
        }
    }
}

/// The result of a check: the model, or what is wrong with it.
pub type Checked = Result<CheckedModel, Problems>;

/// Looks at the files of a base model.
///
/// # Errors
/// The object store fails; what is wrong with the files is in the inner result.
pub async fn check(blobs: &Blobs, files: &[StoredFile]) -> Result<Checked, BlobError> {
    let mut folder = Folder {
        blobs,
        files,
        problems: Vec::new(),
    };
    let config = folder.read_config().await?;
    let tokenizer_digest = folder.check_tokenizer().await?;
    let template = template::find(&mut folder).await?;
    let tensors = folder.read_headers().await?;
    let mut parameters = 0;
    if let (Some((_, config)), Some(tensors)) = (&config, &tensors) {
        folder.problems.extend(config.compare(tensors));
        parameters = tensors.values().map(|shape| shape.iter().product::<u64>()).sum();
    }
    let (Some((json, config)), Some(tokenizer_digest), true) =
        (config, tokenizer_digest, folder.problems.is_empty())
    else {
        return Ok(Err(Problems(folder.problems)));
    };
    Ok(Ok(CheckedModel {
        architecture: config.architecture(parameters),
        config: json,
        tokenizer_digest,
        template_digest: template.map(|text| hex::encode(Sha256::digest(text))),
    }))
}

/// The files, and what was found wrong so far.
struct Folder<'a> {
    blobs: &'a Blobs,
    files: &'a [StoredFile],
    problems: Vec<String>,
}

impl Folder<'_> {
    fn complain(&mut self, problem: impl Into<String>) {
        self.problems.push(problem.into());
    }

    fn find(&self, name: &str) -> Option<&StoredFile> {
        self.files.iter().find(|file| file.name == name)
    }

    /// The bytes of a file; none where it is missing or too large, which `required` makes a problem.
    async fn read(&mut self, name: &str, limit: u64, required: bool) -> Result<Option<Vec<u8>>, BlobError> {
        let Some(file) = self.find(name) else {
            if required {
                self.complain(format!("`{name}` is missing."));
            }
            return Ok(None);
        };
        if file.bytes > limit {
            self.complain(format!("`{name}` has more than {limit} bytes."));
            return Ok(None);
        }
        let key = file.key.parse().map_err(BlobError::Key)?;
        Ok(Some(self.blobs.get_bytes(&key, limit).await?.to_vec()))
    }

    async fn read_config(&mut self) -> Result<Option<(serde_json::Value, ModelConfig)>, BlobError> {
        let Some(bytes) = self.read(CONFIG, MOST_CONFIG_BYTES, true).await? else {
            return Ok(None);
        };
        match config::parse(&bytes) {
            Ok(parsed) => Ok(Some(parsed)),
            Err(problem) => {
                self.complain(problem);
                Ok(None)
            }
        }
    }

    /// The digest of a tokenizer that can be loaded.
    async fn check_tokenizer(&mut self) -> Result<Option<String>, BlobError> {
        let Some(bytes) = self.read(TOKENIZER, MOST_TOKENIZER_BYTES, true).await? else {
            return Ok(None);
        };
        let digest = hex::encode(Sha256::digest(&bytes));
        let is_object =
            |value: serde_json::Value| value.get("model").is_some_and(serde_json::Value::is_object);
        if serde_json::from_slice(&bytes).is_ok_and(is_object) {
            return Ok(Some(digest));
        }
        self.complain("`tokenizer.json` is not a tokenizer of the `tokenizers` library.");
        Ok(None)
    }

    /// Shapes of all tensors, by name; none where a file is missing or unreadable.
    async fn read_headers(&mut self) -> Result<Option<BTreeMap<String, Vec<u64>>>, BlobError> {
        let Some(names) = self.weight_files().await? else {
            return Ok(None);
        };
        let mut tensors = BTreeMap::new();
        let mut complete = true;
        for name in names {
            match self.read_header(&name).await? {
                Ok(header) => tensors.extend(header.shapes),
                Err(problem) => {
                    self.complain(problem);
                    complete = false;
                }
            }
        }
        Ok(complete.then_some(tensors))
    }

    async fn weight_files(&mut self) -> Result<Option<BTreeSet<String>>, BlobError> {
        if self.find(SINGLE_WEIGHTS).is_some() {
            return Ok(Some(BTreeSet::from([SINGLE_WEIGHTS.to_owned()])));
        }
        let Some(bytes) = self.read(WEIGHTS_INDEX, MOST_INDEX_BYTES, false).await? else {
            if self.find(WEIGHTS_INDEX).is_none() {
                self.complain(format!(
                    "The weights are missing: `{SINGLE_WEIGHTS}`, or `{WEIGHTS_INDEX}` with its shards."
                ));
            }
            return Ok(None);
        };
        let files = indexed_files(&bytes);
        if files.is_none() {
            self.complain(format!("`{WEIGHTS_INDEX}` has no readable `weight_map`."));
        }
        Ok(files)
    }

    async fn read_header(&self, name: &str) -> Result<Result<Header, String>, BlobError> {
        let Some(file) = self.find(name) else {
            let shown: String = name.chars().take(80).collect();
            return Ok(Err(format!("`{shown}` is missing.")));
        };
        let key = file.key.parse().map_err(BlobError::Key)?;
        let front = read_range(self.blobs, &key, 0, 8.min(file.bytes)).await?;
        let length = match safetensors_header::length(&front, file.bytes) {
            Ok(length) => length,
            Err(problem) => return Ok(Err(format!("`{name}`: {problem}"))),
        };
        let text = read_range(self.blobs, &key, 8, 8 + length).await?;
        Ok(safetensors_header::parse(&text, file.bytes - 8 - length)
            .map_err(|problem| format!("`{name}`: {problem}")))
    }
}

/// The weight files that an index names.
pub(super) fn indexed_files(index: &[u8]) -> Option<BTreeSet<String>> {
    let index: WeightsIndex = serde_json::from_slice(index).ok()?;
    Some(index.weight_map.into_values().collect())
}

#[derive(serde::Deserialize)]
struct WeightsIndex {
    weight_map: BTreeMap<String, String>,
}

async fn read_range(
    blobs: &Blobs,
    key: &tunesmith_blobs::BlobKey,
    begin: u64,
    end: u64,
) -> Result<Vec<u8>, BlobError> {
    use futures::TryStreamExt;
    debug_assert!(
        end - begin <= MOST_HEADER_BYTES,
        "the caller has checked the length"
    );
    let body = blobs.get_stream(key, Some(begin..end)).await?;
    body.stream
        .try_fold(Vec::new(), |mut held, piece| async move {
            held.extend_from_slice(&piece);
            Ok(held)
        })
        .await
}
