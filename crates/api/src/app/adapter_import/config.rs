//! `adapter_config.json` of somebody else: what it asks for, or why that is refused; and the plain one that is written.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tunesmith_types::hyperparameters::{
    AlphaPattern, Hyperparameters, HyperparametersRequest, ModuleSelection, RankPattern, TargetForm,
    TargetModulesRequest,
};
use tunesmith_types::peft;

use crate::app::job_targets;
use crate::app::model_check::ModelModules;

/// The fields that matter; [`variants`] looks at the others.
#[derive(Deserialize)]
struct PeftConfig {
    r: u32,
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: Option<f64>,
    #[serde(default)]
    use_rslora: Option<bool>,
    target_modules: TargetModulesRequest,
    #[serde(default)]
    rank_pattern: Option<RankPattern>,
    #[serde(default)]
    alpha_pattern: Option<AlphaPattern>,
    #[serde(default)]
    layers_to_transform: Option<Blocks>,
}

/// PEFT allows one number, or a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Blocks {
    One(u32),
    Many(Vec<u32>),
}

/// Reads a configuration for a model of these layers.
pub(super) fn read(text: &[u8], model: &ModelModules) -> Result<Hyperparameters, Vec<String>> {
    let unreadable =
        |error: serde_json::Error| vec![format!("adapter_config.json is not readable: {error}.")];
    let fields: Map<String, Value> = serde_json::from_slice(text).map_err(unreadable)?;
    let mut problems = variants(&fields);
    if fields.get("peft_type") != Some(&json!("LORA")) {
        problems.push("adapter_config.json: `peft_type` must be `LORA`.".to_owned());
        return Err(problems);
    }
    let fitting = serde_json::from_slice(text)
        .map_err(unreadable)
        .and_then(|config| {
            let hyperparameters = resolve(config)?;
            job_targets::check(&hyperparameters, model).map_err(said)?;
            check_alphas(&hyperparameters, model)?;
            Ok(hyperparameters)
        });
    match fitting {
        Ok(hyperparameters) if problems.is_empty() => Ok(hyperparameters),
        Ok(_) => Err(problems),
        Err(more) => {
            problems.extend(more);
            Err(problems)
        }
    }
}

fn said(error: tunesmith_types::error::ParameterError) -> Vec<String> {
    vec![format!("adapter_config.json: {}", error.message)]
}

fn resolve(config: PeftConfig) -> Result<Hyperparameters, Vec<String>> {
    let blocks = match config.layers_to_transform {
        None => Vec::new(),
        Some(Blocks::One(block)) => vec![block],
        Some(Blocks::Many(blocks)) => blocks,
    };
    let request = HyperparametersRequest {
        rank: Some(config.r),
        alpha: Some(config.lora_alpha),
        dropout: config.lora_dropout,
        use_rslora: config.use_rslora,
        target_modules: Some(config.target_modules),
        rank_pattern: config.rank_pattern,
        alpha_pattern: config.alpha_pattern,
        layers_to_transform: (!blocks.is_empty()).then_some(blocks),
        ..HyperparametersRequest::default()
    };
    request.resolve(None).map_err(said)
}

fn variants(fields: &Map<String, Value>) -> Vec<String> {
    let mut problems = Vec::new();
    let mut refuse =
        |field: &str, reason: &str| problems.push(format!("adapter_config.json: `{field:.60}`: {reason}"));
    for (field, value) in fields {
        // PEFT switches its variants on with fields such as `use_dora`; new ones will come.
        let variant = field.starts_with("use_") && field != "use_rslora";
        if (variant || peft::REFUSED_FIELDS.contains(&field.as_str())) && !is_off(value) {
            refuse(field, why_refused(field));
        }
    }
    let pattern = fields.get("layers_pattern").filter(|value| !is_off(value));
    if pattern.is_some_and(|pattern| *pattern != json!("layers") && *pattern != json!(["layers"])) {
        refuse("layers_pattern", "blocks are in `layers`.");
    }
    let bias = fields.get("bias").filter(|bias| !is_off(bias));
    if bias.is_some_and(|bias| *bias != json!("none")) {
        refuse(
            "bias",
            "only `none` is taken: an adapter does not change the base model's biases.",
        );
    }
    let beginning = fields
        .get("init_lora_weights")
        .and_then(Value::as_str)
        .unwrap_or("");
    let beginning = beginning.to_ascii_lowercase();
    if peft::REFUSED_BEGINNINGS
        .iter()
        .any(|refused| beginning.starts_with(refused))
    {
        refuse(
            "init_lora_weights",
            "it changes the base model's weights too; convert the adapter to plain LoRA with PEFT first.",
        );
    }
    problems
}

fn why_refused(field: &str) -> &'static str {
    match field {
        "modules_to_save" => "only plain LoRA is taken; name the module in `target_modules` instead.",
        _ => "only plain LoRA is taken.",
    }
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// PEFT tries the keys in the order of the file, we in the order of their letters: where several fit, they must agree.
/// A rank that is taken from the wrong key shows in the shapes of the tensors; an alpha shows nowhere.
fn check_alphas(hyperparameters: &Hyperparameters, model: &ModelModules) -> Result<(), Vec<String>> {
    let mut decided: BTreeMap<String, (String, f64)> = BTreeMap::new();
    let all = ModuleSelection::new(hyperparameters);
    for (key, alpha) in &hyperparameters.alpha_pattern {
        let mut alone = hyperparameters.clone();
        alone.alpha_pattern = BTreeMap::from([(key.clone(), *alpha)]);
        let selection = ModuleSelection::new(&alone);
        for (name, _) in model.iter().filter(|(name, _)| all.selects(name)) {
            if selection.alpha_key(&name).is_none() {
                continue;
            }
            match decided.get(&name) {
                Some((other, decided)) if *decided != alpha.get() => {
                    return Err(vec![format!(
                        "adapter_config.json: `alpha_pattern`: `{other:.60}` and `{key:.60}` both fit `{name}`; make them \
                         exclude one another."
                    )]);
                }
                _ => decided.insert(name, (key.clone(), alpha.get())),
            };
        }
    }
    Ok(())
}

/// The configuration that is stored: the fields that PEFT has had since its early versions.
pub(super) fn write(hyperparameters: &Hyperparameters, model: &ModelModules, base_model: &str) -> Value {
    let alphas = hyperparameters.alpha_pattern.iter();
    let alphas: BTreeMap<&String, Value> = alphas.map(|(key, alpha)| (key, number(alpha.get()))).collect();
    json!({
        "alpha_pattern": alphas,
        "auto_mapping": null,
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": null,
        "layers_to_transform": hyperparameters.layers_to_transform,
        "lora_alpha": number(hyperparameters.alpha.get()),
        "lora_dropout": hyperparameters.dropout,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": hyperparameters.rank,
        "rank_pattern": hyperparameters.rank_pattern,
        "revision": null,
        "target_modules": targets(hyperparameters, model),
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": hyperparameters.use_rslora,
    })
}

/// Whole where it is, as PEFT writes it.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 {
        json!(value as i64)
    } else {
        json!(value)
    }
}

/// PEFT takes `layers_to_transform` with a list of names only.
fn targets(hyperparameters: &Hyperparameters, model: &ModelModules) -> Value {
    if hyperparameters.layers_to_transform.is_none()
        || hyperparameters.target_modules.form() != TargetForm::AllLinear
    {
        return json!(hyperparameters.target_modules);
    }
    let names = model
        .of_block
        .iter()
        .filter_map(|module| module.name.rsplit('.').next());
    json!(names.collect::<BTreeSet<_>>())
}

/// What the manifest says of it: that of a job, as far as it is known.
pub(super) fn facts(hyperparameters: &Hyperparameters) -> Value {
    json!({
        "rank": hyperparameters.rank,
        "alpha": hyperparameters.alpha,
        "dropout": hyperparameters.dropout,
        "use_rslora": hyperparameters.use_rslora,
        "target_modules": hyperparameters.target_modules,
        "rank_pattern": hyperparameters.rank_pattern,
        "alpha_pattern": hyperparameters.alpha_pattern,
        "layers_to_transform": hyperparameters.layers_to_transform,
        "use_dora": false,
        "bias": "none",
        "modules_to_save": null,
    })
}
