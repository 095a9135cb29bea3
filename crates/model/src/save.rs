//! A model written as a folder in Hugging Face's layout.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tch::{Kind, Tensor, no_grad_guard};
use tunesmith_torch_ext::write_tensor_file;

use crate::causal_lm::CausalLm;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::weights::{INDEX_FILE, SINGLE_FILE};

/// Bytes of one weights file at most, as transformers cuts them.
pub const SHARD_BYTES: usize = 5_000_000_000;

impl CausalLm {
    /// Writes `config.json` and the weights as `kind` (bfloat16, float16 or float32) into `folder`, which must exist.
    /// Tokenizer files are the caller's to copy.
    ///
    /// # Errors
    /// A file could not be written, or `kind` is none of the three.
    pub fn save(&self, folder: &Path, kind: Kind) -> Result<(), ModelError> {
        self.save_sharded(folder, kind, SHARD_BYTES)
    }

    /// [`Self::save`] with files of at most `shard_bytes` each, save where one tensor alone is larger.
    ///
    /// # Errors
    /// As [`Self::save`].
    pub fn save_sharded(&self, folder: &Path, kind: Kind, shard_bytes: usize) -> Result<(), ModelError> {
        let _guard = no_grad_guard();
        save_config(self.config(), folder, kind)?;
        let parameters = self.parameters();
        let sizes = parameters
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.numel()));
        let by_name: BTreeMap<&str, &Tensor> = parameters
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
            .collect();
        let sizes: Vec<(String, usize)> = sizes.collect();
        write_shards(folder, &sizes, kind, shard_bytes, |name| {
            Ok(by_name[name].f_detach()?.f_to_kind(kind)?)
        })
    }
}

/// Writes `config.json` of a model whose weights are saved as `kind`.
pub(crate) fn save_config(model: &ModelConfig, folder: &Path, kind: Kind) -> Result<(), ModelError> {
    let mut config = model.source.clone();
    let Some(name) = kind_name(kind) else {
        return Err(ModelError::UnsupportedFeature {
            field: "dtype".to_owned(),
            value: format!("{kind:?}"),
            reason: "weights are saved as bfloat16, float16 or float32".to_owned(),
        });
    };
    // transformers 5 reads `dtype`, older ones `torch_dtype`.
    let field = if config.contains_key("dtype") {
        "dtype"
    } else {
        "torch_dtype"
    };
    config.insert(field.to_owned(), Value::from(name));
    config.insert("architectures".to_owned(), json!([model.family.architecture()]));
    config.insert("model_type".to_owned(), json!(model.family.model_type()));
    write_json(&folder.join("config.json"), &Value::Object(config))
}

/// Writes tensors of those names and numbers of values as `kind`, one file after the other, so that no more than one
/// file's tensors are in memory; `tensor` makes each.
pub(crate) fn write_shards(
    folder: &Path,
    sizes: &[(String, usize)],
    kind: Kind,
    shard_bytes: usize,
    mut tensor: impl FnMut(&str) -> Result<Tensor, ModelError>,
) -> Result<(), ModelError> {
    let width = kind.elt_size_in_bytes();
    let shards = shards(sizes, width, shard_bytes);
    let (mut weight_map, count) = (BTreeMap::new(), shards.len());
    for (number, shard) in shards.iter().enumerate() {
        let file = if count == 1 {
            SINGLE_FILE.to_owned()
        } else {
            format!("model-{:05}-of-{count:05}.safetensors", number + 1)
        };
        let tensors = shard
            .iter()
            .map(|(name, _)| Ok((name.as_str(), tensor(name)?)))
            .collect::<Result<Vec<_>, ModelError>>()?;
        write_tensor_file(&folder.join(&file), &tensors)?;
        weight_map.extend(shard.iter().map(|(name, _)| (name.clone(), file.clone())));
    }
    if count == 1 {
        return Ok(());
    }
    let total_size: usize = sizes.iter().map(|(_, values)| values * width).sum();
    let index = json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map });
    write_json(&folder.join(INDEX_FILE), &index)
}

fn kind_name(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::BFloat16 => Some("bfloat16"),
        Kind::Half => Some("float16"),
        Kind::Float => Some("float32"),
        _ => None,
    }
}

/// Cuts a list of tensors into files of at most `shard_bytes`, save where one tensor alone is larger.
fn shards(sizes: &[(String, usize)], width: usize, shard_bytes: usize) -> Vec<&[(String, usize)]> {
    let (mut shards, mut start, mut filled) = (Vec::new(), 0, 0);
    for (place, (_, values)) in sizes.iter().enumerate() {
        let bytes = values * width;
        if place > start && filled + bytes > shard_bytes {
            shards.push(&sizes[start..place]);
            (start, filled) = (place, 0);
        }
        filled += bytes;
    }
    shards.push(&sizes[start..]);
    shards
}

/// Writes pretty JSON with a final line break.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<(), ModelError> {
    fs::write(path, format!("{value:#}\n")).map_err(|source| ModelError::Io {
        path: path.to_path_buf(),
        source,
    })
}
