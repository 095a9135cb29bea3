//! Whether a job's adapter fits its base model: what the model's shape tells before any training.

use std::collections::BTreeSet;

use tunesmith_types::error::ParameterError;
use tunesmith_types::hyperparameters::{Hyperparameters, ModuleSelection, TargetForm, is_named};

use super::model_check::{ModelModules, Module};

/// Checks blocks, targets, patterns and ranks against the layers that the model has.
///
/// # Errors
/// The first field that names what the model does not have, or a rank that a layer cannot use.
pub(super) fn check(hyperparameters: &Hyperparameters, model: &ModelModules) -> Result<(), ParameterError> {
    check_blocks(hyperparameters, model)?;
    let selection = ModuleSelection::new(hyperparameters);
    let selected: Vec<(String, Module)> = model.iter().filter(|(name, _)| selection.selects(name)).collect();
    check_targets(hyperparameters, model, &selected)?;
    check_patterns(hyperparameters, &selection, &selected)?;
    check_ranks(&selection, &selected)
}

fn check_blocks(hyperparameters: &Hyperparameters, model: &ModelModules) -> Result<(), ParameterError> {
    let blocks = hyperparameters.layers_to_transform.iter().flatten();
    match blocks.max() {
        Some(last) if *last >= model.blocks => Err(ParameterError::new(
            "layers_to_transform",
            format!(
                "`layers_to_transform` names block {last}, but the base model has {} blocks, counted from 0.",
                model.blocks
            ),
        )),
        _ => Ok(()),
    }
}

/// Every name must be one of the model's, so that a misspelt target is not trained without being noticed.
fn check_targets(
    hyperparameters: &Hyperparameters,
    model: &ModelModules,
    selected: &[(String, Module)],
) -> Result<(), ParameterError> {
    let refuse = |what: &str| {
        let known: Vec<&str> = model
            .of_block
            .iter()
            .map(|module| module.name)
            .chain(["lm_head", "embed_tokens"])
            .collect();
        let blocks = match hyperparameters.layers_to_transform {
            Some(_) => " within `layers_to_transform`",
            None => "",
        };
        Err(ParameterError::new(
            "target_modules",
            format!(
                "`target_modules`: {what} no layer of the base model{blocks}; it has {}.",
                known.join(", ")
            ),
        ))
    };
    match hyperparameters.target_modules.form() {
        TargetForm::AllLinear => Ok(()),
        TargetForm::Pattern(_) if !selected.is_empty() => Ok(()),
        TargetForm::Pattern(pattern) => refuse(&format!(
            "the expression `{pattern:.80}` matches the whole name (such as `model.layers.0.self_attn.o_proj`) of"
        )),
        TargetForm::Names(names) => {
            let is_found = |name: &&String| selected.iter().any(|(module, _)| is_named(module, name));
            match names.iter().find(|name| !is_found(name)) {
                None => Ok(()),
                Some(name) => refuse(&format!("`{name:.80}` names")),
            }
        }
    }
}

/// Every entry must decide something.
fn check_patterns(
    hyperparameters: &Hyperparameters,
    selection: &ModuleSelection<'_>,
    selected: &[(String, Module)],
) -> Result<(), ParameterError> {
    let idle = |field: &str, key: &str| {
        Err(ParameterError::new(
            field,
            format!(
                "`{field}`: `{key:.80}` decides nothing: it matches the name of no module that gets an adapter, or \
                 another entry matches the same ones before it."
            ),
        ))
    };
    let modules = || selected.iter().map(|(name, _)| name.as_str());
    let ranks: BTreeSet<&str> = modules()
        .filter_map(|name| Some(selection.rank_key(name)?.0))
        .collect();
    let alphas: BTreeSet<&str> = modules()
        .filter_map(|name| Some(selection.alpha_key(name)?.0))
        .collect();
    if let Some(key) = hyperparameters
        .rank_pattern
        .keys()
        .find(|key| !ranks.contains(key.as_str()))
    {
        return idle("rank_pattern", key);
    }
    match hyperparameters
        .alpha_pattern
        .keys()
        .find(|key| !alphas.contains(key.as_str()))
    {
        Some(key) => idle("alpha_pattern", key),
        None => Ok(()),
    }
}

/// B·A has no greater rank than the smaller side of the layer.
fn check_ranks(selection: &ModuleSelection<'_>, selected: &[(String, Module)]) -> Result<(), ParameterError> {
    for (name, module) in selected {
        let most = module.inputs.min(module.outputs);
        let rank = selection.rank(name).get();
        if u64::from(rank) > most {
            let field = match selection.rank_key(name) {
                Some(_) => "rank_pattern",
                None => "rank",
            };
            return Err(ParameterError::new(
                field,
                format!(
                    "`{field}` gives `{name}` the rank {rank}, but this layer is {} × {}, so a rank above {most} is of \
                     no use; lower it, or give such layers less with `rank_pattern`.",
                    module.outputs, module.inputs
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};
    use tunesmith_types::hyperparameters::HyperparametersRequest;

    use super::*;

    fn model(family: &str) -> ModelModules {
        let config = json!({
            "model_type": family, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 300,
            "max_position_embeddings": 64,
        });
        ModelModules::read(&config).unwrap()
    }

    fn judge(family: &str, request: &Value) -> Result<(), ParameterError> {
        let request: HyperparametersRequest = serde_json::from_value(request.clone()).unwrap();
        check(&request.resolve(None).unwrap(), &model(family))
    }

    #[test]
    fn what_fits_is_taken() {
        let table = [
            ("llama", json!({})),
            (
                "llama",
                json!({"target_modules": ["self_attn.q_proj", "lm_head", "embed_tokens"], "rank": 64}),
            ),
            ("llama", json!({"target_modules": r".*layers\.1\..*(q|v)_proj"})),
            (
                "llama",
                json!({"layers_to_transform": [1], "rank_pattern": {"v_proj": 4}, "alpha_pattern": {"1.mlp.up_proj": 4}}),
            ),
            ("llama", json!({"rank": 32, "rank_pattern": {"[kv]_proj": 16}})),
            ("gemma2", json!({"target_modules": ["gate_proj"], "rank": 64})),
            (
                "phi3",
                json!({"target_modules": ["qkv_proj", "gate_up_proj"], "rank": 64}),
            ),
        ];
        for (family, request) in table {
            assert_eq!(judge(family, &request), Ok(()), "{family} {request}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_at_its_field() {
        let table = [
            (
                "llama",
                json!({"layers_to_transform": [0, 2]}),
                "layers_to_transform",
                "2 blocks",
            ),
            (
                "phi3",
                json!({"target_modules": ["q_proj"]}),
                "target_modules",
                "self_attn.qkv_proj",
            ),
            (
                "qwen3",
                json!({"target_modules": ["q_proj", "qkv_proj"]}),
                "target_modules",
                "`qkv_proj`",
            ),
            (
                "llama",
                json!({"target_modules": ["mlp.q_proj"]}),
                "target_modules",
                "`mlp.q_proj`",
            ),
            (
                "llama",
                json!({"target_modules": "layers.*q_proj"}),
                "target_modules",
                "whole name",
            ),
            (
                "llama",
                json!({"target_modules": ["lm_head"], "layers_to_transform": [0]}),
                "target_modules",
                "within `layers_to_transform`",
            ),
            (
                "llama",
                json!({"rank_pattern": {"qkv_proj": 4}}),
                "rank_pattern",
                "`qkv_proj` decides nothing",
            ),
            (
                "llama",
                json!({"target_modules": ["q_proj"], "alpha_pattern": {"v_proj": 4}}),
                "alpha_pattern",
                "`v_proj` decides nothing",
            ),
            (
                "llama",
                json!({"rank": 17}),
                "rank",
                "16 × 64, so a rank above 16",
            ),
            (
                "llama",
                json!({"rank_pattern": {"q_proj": 65}}),
                "rank_pattern",
                "64 × 64",
            ),
        ];
        for (family, request, field, words) in table {
            let error = judge(family, &request).unwrap_err();
            assert_eq!(error.param, field, "{family} {request}: {error}");
            assert!(error.message.contains(words), "{family} {request}: {error}");
        }
    }
}
