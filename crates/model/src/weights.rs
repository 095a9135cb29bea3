//! A model's tensors: what a configuration calls for, and safetensors files, one or several, that hold them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use crate::modules::LinearLayer;
use serde::Deserialize;
use tch::{Device, Kind, Tensor};
use tunesmith_torch_ext::MappedFile;

use crate::config::ModelConfig;
use crate::error::ModelError;

/// One weights file.
pub(crate) const SINGLE_FILE: &str = "model.safetensors";
/// The index of several weights files.
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";

/// Name of the embedding.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
/// Name of the last norm.
pub(crate) const FINAL_NORM: &str = "model.norm.weight";
/// Name of the output head.
pub(crate) const HEAD: &str = "lm_head.weight";

/// Path of a linear layer inside its block, such as `self_attn.q_proj`.
pub(crate) fn linear_path(linear: LinearLayer) -> String {
    let parent = match linear {
        LinearLayer::QProj | LinearLayer::KProj | LinearLayer::VProj | LinearLayer::OProj => "self_attn",
        LinearLayer::GateProj | LinearLayer::UpProj | LinearLayer::DownProj => "mlp",
    };
    format!("{parent}.{}", linear.as_str())
}

/// `(out, in)` of a linear layer.
pub(crate) fn linear_shape(config: &ModelConfig, linear: LinearLayer) -> (i64, i64) {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    match linear {
        LinearLayer::QProj => (config.heads * config.head_dim, hidden),
        LinearLayer::KProj | LinearLayer::VProj => (config.kv_heads * config.head_dim, hidden),
        LinearLayer::OProj => (hidden, config.heads * config.head_dim),
        LinearLayer::GateProj | LinearLayer::UpProj => (inner, hidden),
        LinearLayer::DownProj => (hidden, inner),
    }
}

/// Whether a linear layer has a bias.
pub(crate) fn linear_has_bias(config: &ModelConfig, linear: LinearLayer) -> bool {
    match linear {
        LinearLayer::QProj | LinearLayer::KProj | LinearLayer::VProj => config.qkv_bias,
        LinearLayer::OProj => config.output_bias,
        LinearLayer::GateProj | LinearLayer::UpProj | LinearLayer::DownProj => config.mlp_bias,
    }
}

/// Every tensor that a configuration calls for, with its shape, in the order of a forward pass.
#[must_use]
pub fn expected_tensors(config: &ModelConfig) -> Vec<(String, Vec<i64>)> {
    let mut tensors = vec![(EMBEDDING.to_owned(), vec![config.vocab_size, config.hidden_size])];
    for layer in 0..config.layers {
        let prefix = format!("model.layers.{layer}");
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            tensors.push((format!("{prefix}.{norm}.weight"), vec![config.hidden_size]));
        }
        for linear in LinearLayer::ALL {
            let (rows, columns) = linear_shape(config, linear);
            let path = linear_path(linear);
            tensors.push((format!("{prefix}.{path}.weight"), vec![rows, columns]));
            if linear_has_bias(config, linear) {
                tensors.push((format!("{prefix}.{path}.bias"), vec![rows]));
            }
        }
    }
    tensors.push((FINAL_NORM.to_owned(), vec![config.hidden_size]));
    if !config.tie_word_embeddings {
        tensors.push((HEAD.to_owned(), vec![config.vocab_size, config.hidden_size]));
    }
    tensors
}

/// A model's tensors by name, each taken once.
#[derive(Debug)]
pub(crate) struct Weights(HashMap<String, Tensor>);

impl Weights {
    pub(crate) fn new(tensors: HashMap<String, Tensor>) -> Self {
        Self(tensors)
    }

    /// Loads every tensor of `config` from `folder` to `device` as `kind`.
    ///
    /// # Errors
    /// All names and shapes are checked before anything is loaded, and every misfit is listed.
    pub(crate) fn load(
        folder: &Path,
        config: &ModelConfig,
        device: Device,
        kind: Kind,
    ) -> Result<Self, ModelError> {
        let files = WeightFiles::open(folder)?;
        let expected = expected_tensors(config);
        files.check(&expected, config)?;
        let mut tensors = HashMap::with_capacity(expected.len());
        for (name, _) in expected {
            let tensor = files.file_of(&name)?.load(&name, device, Some(kind))?;
            tensors.insert(name, tensor);
        }
        Ok(Self(tensors))
    }

    /// # Panics
    /// The name is not one of `expected_tensors`, or was taken before.
    pub(crate) fn take(&mut self, name: &str) -> Tensor {
        self.0
            .remove(name)
            .expect("invariant: every expected tensor is loaded, and taken once")
    }
}

/// The safetensors files of a folder and which tensor lies in which.
struct WeightFiles {
    folder: PathBuf,
    files: Vec<MappedFile>,
    places: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl WeightFiles {
    fn open(folder: &Path) -> Result<Self, ModelError> {
        let names = file_names(folder)?;
        let files = names
            .iter()
            .map(|name| MappedFile::open(&folder.join(name)))
            .collect::<Result<Vec<_>, _>>()?;
        let mut places = BTreeMap::new();
        for (number, file) in files.iter().enumerate() {
            places.extend(file.names().into_iter().map(|name| (name, number)));
        }
        Ok(Self {
            folder: folder.to_path_buf(),
            files,
            places,
        })
    }

    fn file_of(&self, name: &str) -> Result<&MappedFile, ModelError> {
        self.places
            .get(name)
            .map(|&number| &self.files[number])
            .ok_or_else(|| self.mismatch(vec![missing(name)]))
    }

    fn check(&self, expected: &[(String, Vec<i64>)], config: &ModelConfig) -> Result<(), ModelError> {
        let mut problems = Vec::new();
        for (name, shape) in expected {
            let Some(&number) = self.places.get(name) else {
                problems.push(missing(name));
                continue;
            };
            let found = self.files[number].shape(name)?;
            if found != *shape {
                problems.push(format!("`{name}` is {found:?}, expected {shape:?}"));
            }
        }
        let known: BTreeSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
        for name in self.places.keys().filter(|name| !known.contains(name.as_str())) {
            // Old exports carry the rotary frequencies, and a tied head may be stored a second time.
            let harmless =
                name.ends_with("rotary_emb.inv_freq") || (name == HEAD && config.tie_word_embeddings);
            if !harmless {
                problems.push(format!("`{name}` is unexpected"));
            }
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(self.mismatch(problems))
        }
    }

    fn mismatch(&self, problems: Vec<String>) -> ModelError {
        ModelError::WeightsMismatch {
            folder: self.folder.clone(),
            problems,
        }
    }
}

fn missing(name: &str) -> String {
    format!("`{name}` is missing")
}

/// Names of the weights files of a folder, sorted: the one file, or those that the index names.
///
/// # Errors
/// There is neither, the index is not valid, or it names a file outside the folder.
pub(crate) fn file_names(folder: &Path) -> Result<Vec<String>, ModelError> {
    if folder.join(SINGLE_FILE).is_file() {
        return Ok(vec![SINGLE_FILE.to_owned()]);
    }
    let path = folder.join(INDEX_FILE);
    if !path.is_file() {
        return Err(ModelError::NoWeights(folder.to_path_buf()));
    }
    let text = fs::read_to_string(&path).map_err(|source| ModelError::Io {
        path: path.clone(),
        source,
    })?;
    let index: Index = serde_json::from_str(&text).map_err(|source| ModelError::Json { path, source })?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    if let Some(name) = names
        .iter()
        .find(|name| Path::new(name).file_name() != Some(name.as_ref()))
    {
        let problems = vec![format!(
            "{INDEX_FILE} names `{name}`, which is not a file of this folder"
        )];
        return Err(ModelError::WeightsMismatch {
            folder: folder.to_path_buf(),
            problems,
        });
    }
    Ok(names.into_iter().collect())
}
