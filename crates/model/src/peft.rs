//! PEFT's folder: `adapter_config.json` and `adapter_model.safetensors`, read with suspicion and written plainly.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::modules::{LinearLayer, targeted};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor, no_grad_guard};
use tunesmith_torch_ext::{MappedFile, write_tensor_file};
use tunesmith_types::hyperparameters::TargetModules;

use crate::adapter::{Adapter, LoraPair, LoraSettings, Side, tensor_name, tensor_shape};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::save::write_json;

const CONFIG_FILE: &str = "adapter_config.json";
const TENSOR_FILE: &str = "adapter_model.safetensors";
/// Real ones have a few kilobytes.
const LARGEST_CONFIG: u64 = 1 << 20;
const LARGEST_RANK: i64 = 1024;

/// The fields that matter; [`refuse_variants`] looks at the others.
#[derive(Deserialize)]
struct PeftConfig {
    peft_type: String,
    r: i64,
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: f64,
    #[serde(default)]
    use_rslora: bool,
    target_modules: TargetNames,
}

/// PEFT allows a list of names, or one string that is a keyword or a regular expression.
#[derive(Deserialize)]
#[serde(untagged)]
enum TargetNames {
    List(Vec<String>),
    Pattern(String),
}

impl Adapter {
    /// Reads a PEFT folder made for a model of this shape. Tensors become float32 on `device`.
    ///
    /// # Errors
    /// The folder asks for a variant of LoRA that is not built in, or its tensors do not fit the configuration or the
    /// model, or are not finite: every misfit is named.
    pub fn load(folder: &Path, config: &ModelConfig, device: Device) -> Result<Self, ModelError> {
        let peft = read_config(&folder.join(CONFIG_FILE))?;
        let file = MappedFile::open(&folder.join(TENSOR_FILE))?;
        let settings = LoraSettings {
            rank: peft.r,
            alpha: peft.lora_alpha,
            use_rslora: peft.use_rslora,
            dropout: peft.lora_dropout,
            target_modules: resolve_targets(&peft.target_modules, &file)?,
        };
        check_tensors(folder, config, &settings, &file)?;
        let adapter = Self::from_pairs(config, settings, |layer, linear| {
            let load = |side| file.load(&tensor_name(layer, linear, side), device, Some(Kind::Float));
            Ok(LoraPair {
                a: load(Side::A)?,
                b: load(Side::B)?,
            })
        })?;
        let problems = adapter
            .parameters()
            .into_iter()
            .filter_map(|(name, tensor)| match is_finite(tensor) {
                Ok(true) => None,
                Ok(false) => Some(Ok(format!("`{name}` has values that are not finite"))),
                Err(error) => Some(Err(error)),
            })
            .collect::<Result<Vec<_>, _>>()?;
        if problems.is_empty() {
            Ok(adapter)
        } else {
            Err(mismatch(folder, problems))
        }
    }

    /// Writes a PEFT folder, float32, into `folder`, which must exist. The same adapter gives the same bytes.
    ///
    /// # Errors
    /// A file could not be written.
    pub fn save(&self, folder: &Path, base_model: &str) -> Result<(), ModelError> {
        let _guard = no_grad_guard();
        let tensors = self
            .parameters()
            .into_iter()
            .map(|(name, tensor)| Ok((name, tensor.f_detach()?.f_to_kind(Kind::Float)?)))
            .collect::<Result<Vec<_>, ModelError>>()?;
        write_tensor_file(&folder.join(TENSOR_FILE), &tensors)?;
        write_json(&folder.join(CONFIG_FILE), &self.peft_config(base_model))
    }

    /// The fields that PEFT has had since its early versions, so that older tools read the file too.
    fn peft_config(&self, base_model: &str) -> Value {
        let settings = self.settings();
        let alpha = settings.alpha;
        let alpha = if alpha.fract() == 0.0 {
            json!(alpha as i64)
        } else {
            json!(alpha)
        };
        json!({
            "alpha_pattern": {},
            "auto_mapping": null,
            "base_model_name_or_path": base_model,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "layers_pattern": null,
            "layers_to_transform": null,
            "lora_alpha": alpha,
            "lora_dropout": settings.dropout,
            "modules_to_save": null,
            "peft_type": "LORA",
            "r": settings.rank,
            "rank_pattern": {},
            "revision": null,
            "target_modules": settings.target_modules,
            "task_type": "CAUSAL_LM",
            "use_dora": false,
            "use_rslora": settings.use_rslora,
        })
    }
}

fn read_config(path: &Path) -> Result<PeftConfig, ModelError> {
    let io = |source| ModelError::Io {
        path: path.to_path_buf(),
        source,
    };
    let json = |source| ModelError::Json {
        path: path.to_path_buf(),
        source,
    };
    let mut text = String::new();
    File::open(path)
        .map_err(io)?
        .take(LARGEST_CONFIG)
        .read_to_string(&mut text)
        .map_err(io)?;
    let map: Map<String, Value> = serde_json::from_str(&text).map_err(json)?;
    refuse_variants(&map)?;
    let config: PeftConfig = serde_json::from_value(Value::Object(map)).map_err(json)?;
    if config.peft_type != "LORA" {
        return Err(unsupported(
            "peft_type",
            &json!(config.peft_type),
            "only \"LORA\" is built in",
        ));
    }
    if !(1..=LARGEST_RANK).contains(&config.r) {
        return Err(unsupported(
            "r",
            &json!(config.r),
            "the rank must be between 1 and 1024",
        ));
    }
    if !config.lora_alpha.is_finite() {
        return Err(unsupported(
            "lora_alpha",
            &json!(config.lora_alpha),
            "it must be a finite number",
        ));
    }
    if !(0.0..1.0).contains(&config.lora_dropout) {
        return Err(unsupported(
            "lora_dropout",
            &json!(config.lora_dropout),
            "it must be in 0 to below 1",
        ));
    }
    Ok(config)
}

fn unsupported(field: &str, value: &Value, reason: &str) -> ModelError {
    ModelError::UnsupportedAdapter {
        field: field.to_owned(),
        value: value.to_string(),
        reason: reason.to_owned(),
    }
}

/// Fields that change an adapter's effect in a way that is not built in, unless they are absent, null, false or empty.
/// Fields that only say how training began or where files lay do not matter.
const REFUSED: [&str; 16] = [
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
    "layers_pattern",
    "layer_replication",
    "fan_in_fan_out",
    "lora_bias",
    "trainable_token_indices",
    "target_parameters",
    "exclude_modules",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "velora_config",
    "monteclora_config",
];

/// Ways to begin a training that also change the base model's weights: the adapter is wrong on the weights as published.
const REFUSED_BEGINNINGS: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

fn refuse_variants(map: &Map<String, Value>) -> Result<(), ModelError> {
    for (field, value) in map {
        // PEFT switches its variants on with fields such as `use_dora`; new ones will come.
        let is_variant = field.starts_with("use_") && field != "use_rslora";
        if (is_variant || REFUSED.contains(&field.as_str())) && !is_off(value) {
            return Err(unsupported(
                field,
                value,
                "only plain LoRA with one rank for all layers is built in",
            ));
        }
    }
    let text = |field: &str| map.get(field).and_then(Value::as_str);
    if let Some(bias) = text("bias").filter(|bias| *bias != "none") {
        return Err(unsupported("bias", &json!(bias), "only \"none\" is built in"));
    }
    if let Some(method) = text("init_lora_weights")
        && REFUSED_BEGINNINGS
            .iter()
            .any(|refused| method.starts_with(refused))
    {
        let reason = "it changes the base weights too; convert the adapter to plain LoRA with PEFT first";
        return Err(unsupported("init_lora_weights", &json!(method), reason));
    }
    Ok(())
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// The adapted layers: from the list, by the last part of each name; for a pattern, from the tensors that are there.
fn resolve_targets(names: &TargetNames, file: &MappedFile) -> Result<TargetModules, ModelError> {
    let last_part = |name: &str| name.rsplit('.').next().unwrap_or(name).to_owned();
    let found: Vec<String> = match names {
        TargetNames::List(names) => names.iter().map(|name| last_part(name)).collect(),
        TargetNames::Pattern(pattern) if pattern == "all-linear" => vec![pattern.clone()],
        TargetNames::Pattern(_) => {
            let names = file.names();
            let known = LinearLayer::ALL.into_iter().map(LinearLayer::as_str);
            known
                .filter(|known| names.iter().any(|name| name.contains(&format!(".{known}."))))
                .map(str::to_owned)
                .collect()
        }
    };
    TargetModules::parse(&found).map_err(|error| ModelError::UnsupportedAdapter {
        field: "target_modules".to_owned(),
        value: format!("{found:?}"),
        reason: error.to_string(),
    })
}

fn check_tensors(
    folder: &Path,
    config: &ModelConfig,
    settings: &LoraSettings,
    file: &MappedFile,
) -> Result<(), ModelError> {
    let mut problems = Vec::new();
    let mut unexpected: BTreeSet<String> = file.names().into_iter().collect();
    for layer in 0..config.layers {
        for linear in targeted(&settings.target_modules) {
            for side in [Side::A, Side::B] {
                let name = tensor_name(layer, linear, side);
                if !unexpected.remove(&name) {
                    problems.push(format!("`{name}` is missing"));
                    continue;
                }
                let (found, expected) = (
                    file.shape(&name)?,
                    tensor_shape(config, linear, settings.rank, side),
                );
                if found != expected {
                    problems.push(format!("`{name}` is {found:?}, expected {expected:?}"));
                }
            }
        }
    }
    problems.extend(
        unexpected
            .into_iter()
            .map(|name| format!("`{name}` is unexpected")),
    );
    if problems.is_empty() {
        Ok(())
    } else {
        Err(mismatch(folder, problems))
    }
}

fn mismatch(folder: &Path, problems: Vec<String>) -> ModelError {
    ModelError::AdapterMismatch {
        folder: PathBuf::from(folder),
        problems,
    }
}

fn is_finite(tensor: &Tensor) -> Result<bool, ModelError> {
    // A sum is finite only if every term is, up to an overflow that no adapter comes near.
    Ok(tensor
        .f_abs()?
        .f_sum(Kind::Double)?
        .f_double_value(&[])?
        .is_finite())
}
