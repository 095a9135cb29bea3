//! The form of an adapter that vLLM reads aright. Its loader takes one rank and one alpha for all modules and passes over
//! `rank_pattern` and `alpha_pattern` in silence. Where a version has one, each module's scale is multiplied into its
//! `B`, and the configuration asks for a scale of 1.

use std::{
    borrow::Cow,
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Map, Value, json};
use tunesmith_types::peft::Scales;
use uuid::Uuid;

use crate::staging::{self, StagingError};

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
const PATTERNS: [&str; 2] = ["rank_pattern", "alpha_pattern"];
/// Behind the digest in the name of the plain form's folder.
const ENDING: &str = "-plain";

/// The folder that vLLM is to read: `staged`, or the plain form beside it, which is made where it is not there yet.
pub(crate) async fn folder(staged: &Path) -> Result<PathBuf, StagingError> {
    let config = read(&staged.join(CONFIG))?;
    let fields: Map<String, Value> =
        serde_json::from_slice(&config).map_err(|error| StagingError::Form(error.to_string()))?;
    let has = |name: &&str| {
        fields
            .get(*name)
            .and_then(Value::as_object)
            .is_some_and(|map| !map.is_empty())
    };
    if !PATTERNS.iter().any(has) {
        return Ok(staged.to_owned());
    }
    let mut name = staged.file_name().unwrap_or_default().to_owned();
    name.push(ENDING);
    let plain = staged.with_file_name(name);
    if is_whole(&plain) {
        return Ok(plain);
    }
    let partial = staged.with_file_name(format!("{}.partial", Uuid::new_v4().simple()));
    let (from, to) = (staged.to_owned(), partial.clone());
    let made = tokio::task::spawn_blocking(move || make(&from, &to, &config, fields)).await;
    let made = made.expect("invariant: making the plain form does not panic");
    let result = match made {
        // Another task was faster, for another replica, which may be reading what it made.
        Ok(()) if is_whole(&plain) => {
            let _ = staging::remove(&partial).await;
            return Ok(plain);
        }
        Ok(()) => staging::publish([CONFIG, TENSORS].into_iter(), &partial, &plain).await,
        Err(error) => Err(error),
    };
    let Err(error) = result else { return Ok(plain) };
    let _ = staging::remove(&partial).await;
    // Another task may have made it meanwhile, for another replica.
    if is_whole(&plain) { Ok(plain) } else { Err(error) }
}

/// It appeared in one rename.
fn is_whole(folder: &Path) -> bool {
    [CONFIG, TENSORS].iter().all(|name| folder.join(name).is_file())
}

fn make(
    staged: &Path,
    partial: &Path,
    config: &[u8],
    fields: Map<String, Value>,
) -> Result<(), StagingError> {
    let form = |error: &dyn std::fmt::Display| StagingError::Form(error.to_string());
    let scales = Scales::read(config).map_err(|error| form(&error))?;
    let bytes = read(&staged.join(TENSORS))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| form(&error))?;
    let mut highest = 1;
    let mut written = Vec::new();
    for (name, tensor) in tensors.iter() {
        let (data, shape) = (tensor.data(), tensor.shape());
        let data = match (module_of_b(name), shape, tensor.dtype()) {
            (None, ..) => Cow::Borrowed(data),
            (Some(module), &[_, rank], Dtype::F32) => {
                highest = highest.max(rank);
                Cow::Owned(scaled(data, scales.of(module, rank)))
            }
            _ => return Err(form(&format!("`{name}` is no matrix of float32"))),
        };
        written.push((name, tensor.dtype(), shape.to_vec(), data));
    }
    let views = written
        .iter()
        .map(|(name, dtype, shape, data)| Ok((*name, TensorView::new(*dtype, shape.clone(), data)?)));
    let views = views
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
        .map_err(|error| form(&error))?;
    fs::create_dir_all(partial).map_err(staging::failed("create", partial))?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let path = partial.join(TENSORS);
    safetensors::serialize_to_file(views, Some(metadata), &path)
        .map_err(|error| staging::failed("write", &path)(io::Error::other(error)))?;
    write_config(fields, highest, &partial.join(CONFIG))?;
    for path in [path, partial.join(CONFIG), partial.to_owned()] {
        let synced = fs::File::open(&path).and_then(|file| file.sync_all());
        synced.map_err(staging::failed("write", &path))?;
    }
    Ok(())
}

/// A scale of 1 for all modules; `rank` is the highest, for vLLM's own bound.
fn write_config(mut fields: Map<String, Value>, rank: usize, path: &Path) -> Result<(), StagingError> {
    for (name, value) in [
        ("r", json!(rank)),
        ("lora_alpha", json!(rank)),
        ("use_rslora", json!(false)),
    ] {
        fields.insert(name.to_owned(), value);
    }
    for name in PATTERNS {
        fields.insert(name.to_owned(), json!({}));
    }
    fs::write(path, Value::Object(fields).to_string()).map_err(staging::failed("write", path))
}

/// The module's full name, where a tensor is its `B`.
fn module_of_b(tensor: &str) -> Option<&str> {
    let stem = tensor
        .strip_suffix(".lora_B.weight")
        .or_else(|| tensor.strip_suffix(".lora_embedding_B"))?;
    Some(stem.strip_prefix("base_model.model.").unwrap_or(stem))
}

fn scaled(data: &[u8], scale: f64) -> Vec<u8> {
    let (numbers, _) = data.as_chunks();
    numbers
        .iter()
        .flat_map(|bytes| ((f64::from(f32::from_le_bytes(*bytes)) * scale) as f32).to_le_bytes())
        .collect()
}

fn read(path: &Path) -> Result<Vec<u8>, StagingError> {
    fs::read(path).map_err(staging::failed("read", path))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn write(folder: &Path, config: &Value) {
        let q = [1.0f32, 2.0].map(f32::to_le_bytes).concat();
        let v = [3.0f32].map(f32::to_le_bytes).concat();
        let of = |shape: [usize; 2], data| TensorView::new(Dtype::F32, shape.to_vec(), data).unwrap();
        let tensors = [
            (
                "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
                of([2, 1], &q),
            ),
            (
                "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight",
                of([1, 2], &q),
            ),
            (
                "base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight",
                of([1, 1], &v),
            ),
        ];
        safetensors::serialize_to_file(tensors, None, &folder.join(TENSORS)).unwrap();
        fs::write(folder.join(CONFIG), config.to_string()).unwrap();
    }

    #[tokio::test]
    async fn scales_go_into_b_where_modules_have_their_own() {
        let cache = tempfile::tempdir().unwrap();
        let staged = cache.path().join("0123abcd");
        fs::create_dir(&staged).unwrap();
        let config = json!({"r": 1, "lora_alpha": 4, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 0.5},
                            "target_modules": ["q_proj", "v_proj"]});
        write(&staged, &config);
        let plain = folder(&staged).await.unwrap();
        assert_eq!(plain, cache.path().join("0123abcd-plain"));
        assert_eq!(folder(&staged).await.unwrap(), plain);
        let bytes = read(&plain.join(TENSORS)).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let numbers = |name: &str| {
            let name = format!("base_model.model.model.layers.0.self_attn.{name}.weight");
            let data = tensors.tensor(&name).unwrap().data().to_vec();
            data.as_chunks()
                .0
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect::<Vec<f32>>()
        };
        assert_eq!(numbers("q_proj.lora_A"), [1.0, 2.0]);
        assert_eq!(numbers("q_proj.lora_B"), [2.0, 4.0]);
        assert_eq!(numbers("v_proj.lora_B"), [1.5]);
        let written: Value = serde_json::from_slice(&read(&plain.join(CONFIG)).unwrap()).unwrap();
        assert_eq!((&written["r"], &written["lora_alpha"]), (&json!(2), &json!(2)));
        assert_eq!(
            (&written["rank_pattern"], &written["alpha_pattern"]),
            (&json!({}), &json!({}))
        );
        assert_eq!(written["target_modules"], config["target_modules"]);
        // Nothing half-made is left.
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 2);
    }

    #[tokio::test]
    async fn an_adapter_with_one_scale_stays_as_it_is() {
        let staged = tempfile::tempdir().unwrap();
        write(
            staged.path(),
            &json!({"r": 1, "lora_alpha": 4, "rank_pattern": {}, "alpha_pattern": null}),
        );
        assert_eq!(folder(staged.path()).await.unwrap(), staged.path());
        write(staged.path(), &json!({"r": 1, "alpha_pattern": {"v_proj": 2}}));
        assert!(folder(staged.path()).await.unwrap_err().is_permanent());
    }
}
