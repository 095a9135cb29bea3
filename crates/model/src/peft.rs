//! PEFT's folder: `adapter_config.json` and `adapter_model.safetensors`, read with suspicion and written plainly.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor, no_grad_guard};
use tunesmith_torch_ext::{MappedFile, write_tensor_file};
use tunesmith_types::hyperparameters::{TargetForm, TargetModules, TargetModulesRequest};
use tunesmith_types::peft;

use crate::adapter::{Adapter, LoraSettings, Side, Storage, tensor_name};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::modules::Site;
use crate::save::write_json;
use crate::targets::{Pattern, Target};

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
    target_modules: TargetModulesRequest,
    #[serde(default)]
    rank_pattern: Option<Ordered<i64>>,
    #[serde(default)]
    alpha_pattern: Option<Ordered<f64>>,
    #[serde(default)]
    layers_to_transform: Option<Layers>,
}

/// A JSON object in the order of the file, in which PEFT tries its keys.
struct Ordered<V>(Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Ordered<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
            type Value = Ordered<V>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Ordered(entries))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

fn sorted<V>(pattern: Option<Ordered<V>>) -> BTreeMap<String, V> {
    pattern.into_iter().flat_map(|ordered| ordered.0).collect()
}

/// Here keys are tried in the order of their letters. Where that makes a difference, the adapter is refused.
fn check_order<V: Copy + PartialEq>(
    config: &ModelConfig,
    field: &'static str,
    pattern: Option<&Ordered<V>>,
) -> Result<(), ModelError> {
    let Some(Ordered(entries)) = pattern else {
        return Ok(());
    };
    let letters: BTreeMap<&String, &V> = entries.iter().map(|(key, value)| (key, value)).collect();
    let by_letters = Pattern::compile(field, letters)?;
    let by_file = Pattern::compile(field, entries.iter().map(|(key, value)| (key, value)))?;
    let names = Site::all(config).into_iter().map(|site| site.name(config));
    match names
        .into_iter()
        .find(|name| by_letters.value(name) != by_file.value(name))
    {
        Some(name) => Err(unsupported(
            field,
            &json!(entries.iter().map(|(key, _)| key).collect::<Vec<_>>()),
            &format!(
                "several keys fit `{name}`, and which comes first decides; make them exclude one another"
            ),
        )),
        None => Ok(()),
    }
}

/// PEFT allows one number, or a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Layers {
    One(u32),
    Many(Vec<u32>),
}

impl PeftConfig {
    fn settings(self) -> Result<LoraSettings, ModelError> {
        let shown = json!(self.target_modules);
        let target_modules = TargetModules::new(self.target_modules)
            .map_err(|error| unsupported("target_modules", &shown, &error.to_string()))?;
        let mut layers = match self.layers_to_transform {
            None => Vec::new(),
            Some(Layers::One(layer)) => vec![layer],
            Some(Layers::Many(layers)) => layers,
        };
        layers.sort_unstable();
        layers.dedup();
        Ok(LoraSettings {
            rank: self.r,
            alpha: self.lora_alpha,
            use_rslora: self.use_rslora,
            dropout: self.lora_dropout,
            target_modules,
            rank_pattern: sorted(self.rank_pattern),
            alpha_pattern: sorted(self.alpha_pattern),
            layers_to_transform: (!layers.is_empty()).then_some(layers),
        })
    }
}

impl Adapter {
    /// Reads a PEFT folder made for a model of this shape. Tensors become float32 on `device`.
    ///
    /// # Errors
    /// The folder asks for a variant of LoRA that is not built in, or its tensors do not fit the configuration or the
    /// model, or are not finite: every misfit is named.
    pub fn load(folder: &Path, config: &ModelConfig, device: Device) -> Result<Self, ModelError> {
        Self::read(folder, config, Storage::training(device))
    }

    /// The same as [`Self::load`] and then [`Self::frozen`], in one pass over the file.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_frozen(
        folder: &Path,
        config: &ModelConfig,
        device: Device,
        kind: Kind,
    ) -> Result<Self, ModelError> {
        Self::read(folder, config, Storage::serving(device, kind))
    }

    fn read(folder: &Path, config: &ModelConfig, storage: Storage) -> Result<Self, ModelError> {
        let peft = read_config(&folder.join(CONFIG_FILE))?;
        check_order(config, "rank_pattern", peft.rank_pattern.as_ref())?;
        check_order(config, "alpha_pattern", peft.alpha_pattern.as_ref())?;
        let settings = peft.settings()?;
        let targets = Target::resolve(config, &settings)?;
        let file = MappedFile::open(&folder.join(TENSOR_FILE))?;
        check_tensors(folder, config, &targets, &file)?;
        let adapter = Self::from_targets(config, settings, &targets, storage, |target, side, place| {
            let name = tensor_name(&target.site.name(config), target.site, side);
            Ok(file.load_into(&name, place)?)
        })?;
        // One quick look at all; only where its sum overflows, for whatever reason, is each tensor looked at.
        if adapter
            .flat()
            .f_sum(Kind::Float)?
            .f_double_value(&[])?
            .is_finite()
        {
            return Ok(adapter);
        }
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
        let alphas: BTreeMap<&str, Value> = settings
            .alpha_pattern
            .iter()
            .map(|(key, &alpha)| (key.as_str(), number(alpha)))
            .collect();
        json!({
            "alpha_pattern": alphas,
            "auto_mapping": null,
            "base_model_name_or_path": base_model,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "layers_pattern": null,
            "layers_to_transform": settings.layers_to_transform,
            "lora_alpha": number(settings.alpha),
            "lora_dropout": settings.dropout,
            "modules_to_save": null,
            "peft_type": "LORA",
            "r": settings.rank,
            "rank_pattern": settings.rank_pattern,
            "revision": null,
            "target_modules": self.written_targets(),
            "task_type": "CAUSAL_LM",
            "use_dora": false,
            "use_rslora": settings.use_rslora,
        })
    }

    /// PEFT takes `layers_to_transform` with a list of names only.
    fn written_targets(&self) -> Value {
        let settings = self.settings();
        if settings.layers_to_transform.is_none() || settings.target_modules.form() != TargetForm::AllLinear {
            return json!(settings.target_modules);
        }
        let modules: BTreeSet<String> = self
            .parameters()
            .iter()
            .filter_map(|(name, _)| Some(name.split_once(".lora_")?.0.rsplit('.').next()?.to_owned()))
            .collect();
        json!(modules)
    }
}

/// Whole where it is, as PEFT writes it.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 {
        json!(value as i64)
    } else {
        json!(value)
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
    let config: PeftConfig = serde_json::from_str(&text).map_err(json)?;
    if config.peft_type != "LORA" {
        return Err(unsupported(
            "peft_type",
            &json!(config.peft_type),
            "only \"LORA\" is built in",
        ));
    }
    let ranks = config.rank_pattern.iter().flat_map(|ranks| &ranks.0);
    if let Some((field, rank)) = std::iter::once(("r", config.r))
        .chain(ranks.map(|(_, rank)| ("rank_pattern", *rank)))
        .find(|(_, rank)| !(1..=LARGEST_RANK).contains(rank))
    {
        return Err(unsupported(
            field,
            &json!(rank),
            "the rank must be between 1 and 1024",
        ));
    }
    let alphas = config.alpha_pattern.iter().flat_map(|alphas| &alphas.0);
    if let Some((field, alpha)) = std::iter::once(("lora_alpha", config.lora_alpha))
        .chain(alphas.map(|(_, alpha)| ("alpha_pattern", *alpha)))
        .find(|(_, alpha)| !alpha.is_finite())
    {
        return Err(unsupported(field, &json!(alpha), "it must be a finite number"));
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

fn refuse_variants(map: &Map<String, Value>) -> Result<(), ModelError> {
    for (field, value) in map {
        // PEFT switches its variants on with fields such as `use_dora`; new ones will come.
        let is_variant = field.starts_with("use_") && field != "use_rslora";
        if (is_variant || peft::REFUSED_FIELDS.contains(&field.as_str())) && !is_off(value) {
            return Err(unsupported(field, value, "only plain LoRA is built in"));
        }
    }
    // The one pattern that every family's blocks have; PEFT looks for others where it is absent, and finds the same.
    if let Some(pattern) = map.get("layers_pattern").filter(|value| !is_off(value))
        && *pattern != json!("layers")
        && *pattern != json!(["layers"])
    {
        return Err(unsupported("layers_pattern", pattern, "blocks are in `layers`"));
    }
    let text = |field: &str| map.get(field).and_then(Value::as_str);
    if let Some(bias) = text("bias").filter(|bias| *bias != "none") {
        return Err(unsupported("bias", &json!(bias), "only \"none\" is built in"));
    }
    if let Some(method) = text("init_lora_weights")
        && peft::REFUSED_BEGINNINGS
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

fn check_tensors(
    folder: &Path,
    config: &ModelConfig,
    targets: &[Target],
    file: &MappedFile,
) -> Result<(), ModelError> {
    let mut problems = Vec::new();
    let mut unexpected: BTreeSet<String> = file.names().into_iter().collect();
    let mut check = |name: &str, expected: &[i64], optional: bool| -> Result<(), ModelError> {
        if !unexpected.remove(name) {
            if !optional {
                problems.push(format!("`{name}` is missing"));
            }
            return Ok(());
        }
        let found = file.shape(name)?;
        if found != expected {
            problems.push(format!("`{name}` is {found:?}, expected {expected:?}"));
        }
        Ok(())
    };
    for target in targets {
        let module = target.site.name(config);
        for side in [Side::A, Side::B] {
            check(
                &tensor_name(&module, target.site, side),
                &target.shape(config, side),
                false,
            )?;
        }
        // PEFT stores the base model's own weight beside an adapter of the embedding or the head.
        if matches!(target.site, Site::Embedding | Site::Head) {
            let name = format!("base_model.model.{module}.base_layer.weight");
            check(&name, &[config.vocab_size, config.hidden_size], true)?;
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
    Ok(tensor.f_sum(Kind::Double)?.f_double_value(&[])?.is_finite())
}
