//! A model's tensors: what a configuration calls for, and safetensors files, one or several, that hold them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tch::{Device, Kind, Tensor};
use tunesmith_torch_ext::MappedFile;

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::norm::RmsNorm;

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

/// Names of a block's norms with their widths, those of this model, in the order of a forward pass.
pub(crate) fn norms(config: &ModelConfig) -> Vec<(&'static str, i64)> {
    let mut norms = vec![("input_layernorm", config.hidden_size)];
    if config.qk_norm {
        norms.extend([
            ("self_attn.q_norm", config.head_dim),
            ("self_attn.k_norm", config.head_dim),
        ]);
    }
    norms.push(("post_attention_layernorm", config.hidden_size));
    if config.sandwich_norms {
        norms.extend(
            ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
                .map(|name| (name, config.hidden_size)),
        );
    }
    norms
}

/// Every tensor that a configuration calls for, with its name and shape in the files, in the order of a forward pass.
#[must_use]
pub fn expected_tensors(config: &ModelConfig) -> Vec<(String, Vec<i64>)> {
    let mut tensors = vec![(EMBEDDING.to_owned(), vec![config.vocab_size, config.hidden_size])];
    for layer in 0..config.layers {
        let prefix = format!("model.layers.{layer}");
        for (norm, width) in norms(config) {
            tensors.push((format!("{prefix}.{norm}.weight"), vec![width]));
        }
        for module in &config.modules {
            let path = module.path;
            tensors.push((
                format!("{prefix}.{path}.weight"),
                vec![module.outputs(), module.inputs],
            ));
            if module.projection.has_bias(config) {
                tensors.push((format!("{prefix}.{path}.bias"), vec![module.outputs()]));
            }
        }
    }
    tensors.push((FINAL_NORM.to_owned(), vec![config.hidden_size]));
    if !config.tie_word_embeddings {
        tensors.push((HEAD.to_owned(), vec![config.vocab_size, config.hidden_size]));
    }
    tensors
}

/// Where a model's tensors come from.
pub(crate) trait TensorSource {
    /// Writes the tensor of that name in the files to `target`, which has its shape.
    fn fill(&self, name: &str, target: &Tensor) -> Result<(), ModelError>;
}

/// Makes the tensors of a model in memory.
pub(crate) struct Loader<'a> {
    pub(crate) source: &'a dyn TensorSource,
    pub(crate) config: &'a ModelConfig,
    pub(crate) device: Device,
    pub(crate) kind: Kind,
}

impl Loader<'_> {
    pub(crate) fn empty(&self, shape: &[i64]) -> Result<Tensor, ModelError> {
        Ok(Tensor::f_empty(shape, (self.kind, self.device))?)
    }

    pub(crate) fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor, ModelError> {
        let tensor = self.empty(shape)?;
        self.source.fill(name, &tensor)?;
        Ok(tensor)
    }

    pub(crate) fn norm(&self, name: &str, width: i64) -> Result<RmsNorm, ModelError> {
        Ok(RmsNorm {
            weight: self.tensor(&format!("{name}.weight"), &[width])?,
            epsilon: self.config.rms_norm_eps,
            offset: self.config.norm_offset,
        })
    }
}

/// The safetensors files of a folder and which tensor lies in which.
pub(crate) struct WeightFiles {
    folder: PathBuf,
    files: Vec<MappedFile>,
    places: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl WeightFiles {
    /// Maps the files of `folder`.
    ///
    /// # Errors
    /// All names and shapes are checked before anything is loaded, and every misfit is listed.
    pub(crate) fn open(folder: &Path, config: &ModelConfig) -> Result<Self, ModelError> {
        let names = file_names(folder)?;
        let files = names
            .iter()
            .map(|name| MappedFile::open(&folder.join(name)))
            .collect::<Result<Vec<_>, _>>()?;
        let mut places = BTreeMap::new();
        for (number, file) in files.iter().enumerate() {
            places.extend(file.names().into_iter().map(|name| (name, number)));
        }
        let files = Self {
            folder: folder.to_path_buf(),
            files,
            places,
        };
        files.check(&expected_tensors(config), config)?;
        Ok(files)
    }

    fn file_of(&self, name: &str) -> Result<&MappedFile, ModelError> {
        self.places
            .get(name)
            .map(|&number| &self.files[number])
            .ok_or_else(|| self.mismatch(vec![missing(name)]))
    }

    /// The element type of a tensor in the files.
    pub(crate) fn kind(&self, name: &str) -> Result<Kind, ModelError> {
        Ok(self.file_of(name)?.kind(name)?)
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

impl TensorSource for WeightFiles {
    fn fill(&self, name: &str, target: &Tensor) -> Result<(), ModelError> {
        Ok(self.file_of(name)?.load_into(name, target)?)
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
