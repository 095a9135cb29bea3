//! A model written as a folder in Hugging Face's layout.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tch::{Kind, Tensor, no_grad_guard};
use tunesmith_torch_ext::write_tensor_file;

use crate::causal_lm::CausalLm;
use crate::error::ModelError;
use crate::weights::{INDEX_FILE, SINGLE_FILE};

/// Bytes of one weights file at most, as transformers cuts them.
pub(crate) const SHARD_BYTES: usize = 5_000_000_000;

type NamedTensors = Vec<(String, Tensor)>;

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
        self.save_config(folder, kind)?;
        let shards = shards(self.parameters(), kind, shard_bytes);
        if let [only] = &shards[..] {
            return write_shard(&folder.join(SINGLE_FILE), only, kind);
        }
        let (mut weight_map, mut total_size) = (BTreeMap::new(), 0);
        for (number, shard) in shards.iter().enumerate() {
            let file = format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len());
            write_shard(&folder.join(&file), shard, kind)?;
            total_size += shard
                .iter()
                .map(|(_, tensor)| bytes_of(tensor, kind))
                .sum::<usize>();
            weight_map.extend(shard.iter().map(|(name, _)| (name.clone(), file.clone())));
        }
        let index = json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map });
        write_json(&folder.join(INDEX_FILE), &index)
    }

    fn save_config(&self, folder: &Path, kind: Kind) -> Result<(), ModelError> {
        let mut config = self.config().source.clone();
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
        config.insert(
            "architectures".to_owned(),
            json!([self.config().family.architecture()]),
        );
        config.insert("model_type".to_owned(), json!(self.config().family.model_type()));
        write_json(&folder.join("config.json"), &Value::Object(config))
    }
}

fn kind_name(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::BFloat16 => Some("bfloat16"),
        Kind::Half => Some("float16"),
        Kind::Float => Some("float32"),
        _ => None,
    }
}

fn bytes_of(tensor: &Tensor, kind: Kind) -> usize {
    tensor.numel() * kind.elt_size_in_bytes()
}

fn shards(parameters: NamedTensors, kind: Kind, shard_bytes: usize) -> Vec<NamedTensors> {
    let mut shards = vec![Vec::new()];
    let mut filled = 0;
    for (name, tensor) in parameters {
        let bytes = bytes_of(&tensor, kind);
        if filled > 0 && filled + bytes > shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        shards
            .last_mut()
            .expect("invariant: there is always one shard")
            .push((name, tensor));
    }
    shards
}

fn write_shard(path: &Path, tensors: &NamedTensors, kind: Kind) -> Result<(), ModelError> {
    let converted = tensors
        .iter()
        .map(|(name, tensor)| Ok((name.as_str(), tensor.f_detach()?.f_to_kind(kind)?)))
        .collect::<Result<Vec<_>, ModelError>>()?;
    Ok(write_tensor_file(path, &converted)?)
}

/// Writes pretty JSON with a final line break.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<(), ModelError> {
    fs::write(path, format!("{value:#}\n")).map_err(|source| ModelError::Io {
        path: path.to_path_buf(),
        source,
    })
}
