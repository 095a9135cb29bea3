//! Whether what the child left is truly a PEFT adapter: nothing else is ever published.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::Path,
};

use serde::Deserialize;
use tunesmith_types::hyperparameters::Hyperparameters;

/// Longest JSON part of an adapter's safetensors file; one with thousands of tensors has some hundred KiB.
const MOST_HEADER_BYTES: u64 = 16 * 1024 * 1024;
/// What the names of an adapter's tensors have in them, those of embeddings too.
const LORA_PARTS: [&str; 4] = [".lora_A.", ".lora_B.", ".lora_embedding_A", ".lora_embedding_B"];
/// Longest adapter_config.json.
const MOST_CONFIG_BYTES: u64 = 1024 * 1024;

/// Why a folder is no adapter.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdapterError {
    #[error("{file} cannot be read")]
    Read {
        file: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{file} is not what PEFT reads")]
    Json {
        file: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("{0}")]
    Wrong(String),
}

#[derive(Deserialize)]
struct AdapterConfig {
    peft_type: String,
    r: u32,
}

#[derive(Deserialize)]
struct TensorEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum HeaderEntry {
    Tensor(TensorEntry),
    Metadata(#[allow(dead_code, reason = "only its shape is checked")] BTreeMap<String, String>),
}

/// Checks configuration, tensor table and every number. Blocks while it reads the file.
pub(crate) fn verify(folder: &Path, hyperparameters: &Hyperparameters) -> Result<(), AdapterError> {
    verify_config(folder, hyperparameters)?;
    verify_tensors(folder)
}

fn verify_config(folder: &Path, hyperparameters: &Hyperparameters) -> Result<(), AdapterError> {
    const FILE: &str = "adapter_config.json";
    let read = |source| AdapterError::Read { file: FILE, source };
    let mut text = Vec::new();
    let file = File::open(folder.join(FILE)).map_err(read)?;
    file.take(MOST_CONFIG_BYTES)
        .read_to_end(&mut text)
        .map_err(read)?;
    let config: AdapterConfig =
        serde_json::from_slice(&text).map_err(|source| AdapterError::Json { file: FILE, source })?;
    if config.peft_type != "LORA" || config.r != hyperparameters.rank.get() {
        return Err(AdapterError::Wrong(format!(
            "{FILE} is of type {} and rank {}, not LORA and {}",
            config.peft_type,
            config.r,
            hyperparameters.rank.get()
        )));
    }
    Ok(())
}

/// Checks the tensor table and every number.
pub(crate) fn verify_tensors(folder: &Path) -> Result<(), AdapterError> {
    const FILE: &str = "adapter_model.safetensors";
    let read = |source| AdapterError::Read { file: FILE, source };
    let path = folder.join(FILE);
    let length = std::fs::metadata(&path).map_err(read)?.len();
    let mut file = io::BufReader::with_capacity(1 << 20, File::open(&path).map_err(read)?);
    let mut prefix = [0; 8];
    file.read_exact(&mut prefix).map_err(read)?;
    let header_bytes = u64::from_le_bytes(prefix);
    if header_bytes > MOST_HEADER_BYTES || header_bytes + 8 > length {
        return Err(AdapterError::Wrong(format!(
            "the header of {FILE} has {header_bytes} bytes"
        )));
    }
    let mut header = vec![0; usize::try_from(header_bytes).unwrap_or(usize::MAX)];
    file.read_exact(&mut header).map_err(read)?;
    let entries: BTreeMap<String, HeaderEntry> =
        serde_json::from_slice(&header).map_err(|source| AdapterError::Json { file: FILE, source })?;
    let tensors = ordered_tensors(entries, length - 8 - header_bytes)?;
    for (name, tensor) in tensors {
        if !all_finite(&mut file, &name, &tensor).map_err(read)? {
            return Err(AdapterError::Wrong(format!(
                "tensor {name} holds a number that is not finite"
            )));
        }
    }
    Ok(())
}

/// The tensors in the order of their bytes, which must be exactly those of the file.
fn ordered_tensors(
    entries: BTreeMap<String, HeaderEntry>,
    data_bytes: u64,
) -> Result<Vec<(String, TensorEntry)>, AdapterError> {
    let mut tensors = Vec::new();
    for (name, entry) in entries {
        match entry {
            HeaderEntry::Tensor(tensor) => tensors.push((name, tensor)),
            HeaderEntry::Metadata(_) if name == "__metadata__" => {}
            HeaderEntry::Metadata(_) => return Err(AdapterError::Wrong(format!("{name} is no tensor"))),
        }
    }
    tensors.sort_by_key(|(_, tensor)| tensor.data_offsets);
    let mut end = 0;
    for (name, tensor) in &tensors {
        let (begin, tensor_end) = tensor.data_offsets;
        let numbers = tensor
            .shape
            .iter()
            .try_fold(1_u64, |product, side| product.checked_mul(*side));
        let expected = numbers.and_then(|numbers| numbers.checked_mul(number_bytes(&tensor.dtype)? as u64));
        if begin != end || tensor_end.checked_sub(begin) != expected || expected == Some(0) {
            return Err(AdapterError::Wrong(format!(
                "the bytes of tensor {name} are not where its shape puts them"
            )));
        }
        if !LORA_PARTS.iter().any(|part| name.contains(part)) {
            return Err(AdapterError::Wrong(format!(
                "tensor {name} is no part of a LoRA adapter"
            )));
        }
        end = tensor_end;
    }
    if tensors.is_empty() || end != data_bytes {
        return Err(AdapterError::Wrong("the tensors do not fill the file".to_owned()));
    }
    Ok(tensors)
}

/// Bytes of one number of a float type; none for others, which no adapter has.
fn number_bytes(dtype: &str) -> Option<usize> {
    match dtype {
        "F32" => Some(4),
        "F16" | "BF16" => Some(2),
        _ => None,
    }
}

/// Reads the tensor's bytes; a number is infinite or not a number where all bits of its exponent are set.
fn all_finite(file: &mut impl Read, name: &str, tensor: &TensorEntry) -> io::Result<bool> {
    let (width, exponent): (usize, u16) = match tensor.dtype.as_str() {
        "F32" => (4, 0x7f80),
        "BF16" => (2, 0x7f80),
        _ => (2, 0x7c00),
    };
    let mut left = tensor.data_offsets.1 - tensor.data_offsets.0;
    let mut block = vec![0; 64 * 1024];
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        file.read_exact(&mut block[..length])?;
        let finite = block[..length].chunks_exact(width).all(|number| {
            let high = u16::from_le_bytes([number[width - 2], number[width - 1]]);
            high & exponent != exponent
        });
        if !finite {
            tracing::warn!(name, "a tensor is not finite");
            return Ok(false);
        }
        left -= length as u64;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;
    use tunesmith_types::hyperparameters::HyperparametersRequest;

    fn check(rank: u32, header: &serde_json::Value, data: &[f32]) -> Result<(), AdapterError> {
        let folder = tempfile::tempdir().unwrap();
        let config = json!({"peft_type": "LORA", "r": rank, "lora_alpha": 4.0});
        std::fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
        let header = header.to_string();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(data.iter().flat_map(|number| number.to_le_bytes()));
        std::fs::write(folder.path().join("adapter_model.safetensors"), bytes).unwrap();
        let request = HyperparametersRequest {
            rank: Some(2),
            ..Default::default()
        };
        verify(folder.path(), &request.resolve(None).unwrap())
    }

    fn header() -> serde_json::Value {
        json!({
            "__metadata__": {"format": "pt"},
            "m.lora_A.weight": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},
            "m.lora_B.weight": {"dtype": "F32", "shape": [1, 2], "data_offsets": [8, 16]},
        })
    }

    #[test]
    fn a_whole_adapter_passes() {
        check(2, &header(), &[0.0, -1.0, f32::MAX, f32::MIN_POSITIVE]).unwrap();
    }

    #[test]
    fn what_is_no_adapter_is_refused() {
        let good = [1.0, 2.0, 3.0, 4.0];
        assert!(check(3, &header(), &good).is_err(), "another rank");
        assert!(
            check(2, &header(), &[1.0, f32::NAN, 3.0, 4.0]).is_err(),
            "not a number"
        );
        assert!(
            check(2, &header(), &[1.0, 2.0, 3.0, f32::NEG_INFINITY]).is_err(),
            "infinite"
        );
        assert!(check(2, &header(), &good[..3]).is_err(), "cut short");
        assert!(check(2, &header(), &[1.0; 5]).is_err(), "too long");
        assert!(check(2, &json!({}), &[]).is_err(), "empty");
        for (path, value) in [
            ("/m.lora_A.weight/data_offsets/1", json!(12)),
            ("/m.lora_A.weight/shape/0", json!(u64::MAX)),
            ("/m.lora_A.weight/dtype", json!("I64")),
            ("/m.lora_B.weight/data_offsets/0", json!(4)),
        ] {
            let mut header = header();
            *header.pointer_mut(path).unwrap() = value;
            assert!(check(2, &header, &good).is_err(), "{path}");
        }
        let mut other = header();
        let tensor = other.as_object_mut().unwrap().remove("m.lora_B.weight").unwrap();
        other["model.embed_tokens.weight"] = tensor;
        assert!(check(2, &other, &good).is_err(), "not of an adapter");
    }
}
