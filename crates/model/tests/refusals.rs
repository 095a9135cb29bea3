//! Weights, adapters and batches that must be refused, each misfit by name.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;

use serde_json::json;
use support::{assert_refused, changed_copy};
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;
use tunesmith_model::{
    Adapter, CausalLm, KvCache, ModelConfig, ModelError, PackedBatch, Precision, SequenceStep,
};
use tunesmith_torch_ext::{MappedFile, write_tensor_file};

const FLOAT: Precision = Precision::uniform(Kind::Float);

fn golden() -> std::path::PathBuf {
    support::golden("llama")
}

fn model() -> CausalLm {
    CausalLm::load(&golden().join("base"), Device::Cpu, FLOAT).unwrap()
}

/// Rewrites a safetensors file with one tensor removed, renamed or replaced.
fn change_tensors(path: &Path, change: impl Fn(&str, Tensor) -> Option<(String, Tensor)>) {
    let file = MappedFile::open(path).unwrap();
    let tensors: Vec<(String, Tensor)> = file
        .names()
        .into_iter()
        .filter_map(|name| change(&name, file.load(&name, Device::Cpu, None).unwrap()))
        .collect();
    drop(file);
    write_tensor_file(path, &tensors).unwrap();
}

#[test]
fn weights() {
    let load = |folder: &TempDir| CausalLm::load(folder.path(), Device::Cpu, FLOAT);
    let copy = || changed_copy(&golden().join("base"), "config.json", &json!({}));

    let folder = copy();
    change_tensors(
        &folder.path().join("model.safetensors"),
        |name, tensor| match name {
            "model.norm.weight" => None,
            "model.layers.1.mlp.up_proj.weight" => Some((name.to_owned(), tensor.tr())),
            "model.layers.0.self_attn.q_proj.weight" => {
                Some(("model.layers.0.self_attn.q_norm".to_owned(), tensor))
            }
            _ => Some((name.to_owned(), tensor)),
        },
    );
    let error = load(&folder).unwrap_err();
    let ModelError::WeightsMismatch { problems, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(
        problems[..],
        [
            "`model.layers.0.self_attn.q_proj.weight` is missing",
            "`model.layers.1.mlp.up_proj.weight` is [32, 64], expected [64, 32]",
            "`model.norm.weight` is missing",
            "`model.layers.0.self_attn.q_norm` is unexpected",
        ]
    );

    let folder = copy();
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    assert_refused(
        load(&folder),
        "model_weights_missing",
        "neither model.safetensors nor",
    );
    let index = json!({"weight_map": {"model.norm.weight": "../elsewhere.safetensors"}});
    fs::write(
        folder.path().join("model.safetensors.index.json"),
        index.to_string(),
    )
    .unwrap();
    assert_refused(
        load(&folder),
        "model_weights_invalid",
        "`../elsewhere.safetensors`",
    );

    let folder = copy();
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert_refused(
        load(&folder),
        "model_weights_invalid",
        "not a whole safetensors file",
    );
}

#[test]
fn weights_of_every_family() {
    for (family, name) in [
        ("qwen", "model.layers.0.self_attn.k_proj.bias"),
        ("qwen3", "model.layers.1.self_attn.q_norm.weight"),
        ("gemma2", "model.layers.2.pre_feedforward_layernorm.weight"),
        ("gemma3", "model.layers.0.post_feedforward_layernorm.weight"),
        ("phi3", "model.layers.0.mlp.gate_up_proj.weight"),
    ] {
        let base = support::golden(family).join("base");
        let without = changed_copy(&base, "config.json", &json!({}));
        change_tensors(&without.path().join("model.safetensors"), |found, tensor| {
            (found != name).then(|| (found.to_owned(), tensor))
        });
        let load = |folder: &TempDir| CausalLm::load(folder.path(), Device::Cpu, FLOAT);
        assert_refused(
            load(&without),
            "model_weights_invalid",
            &format!("`{name}` is missing"),
        );

        let longer = changed_copy(&base, "config.json", &json!({}));
        change_tensors(&longer.path().join("model.safetensors"), |found, tensor| {
            let tensor = if found == name {
                Tensor::cat(&[&tensor, &tensor], 0)
            } else {
                tensor
            };
            Some((found.to_owned(), tensor))
        });
        assert_refused(load(&longer), "model_weights_invalid", &format!("`{name}` is ["));
    }
}

#[test]
fn a_tied_head_stored_twice_is_harmless() {
    let folder = changed_copy(&golden().join("base"), "config.json", &json!({}));
    change_tensors(&folder.path().join("model.safetensors"), |name, tensor| {
        Some((name.to_owned(), tensor))
    });
    let path = folder.path().join("model.safetensors");
    let file = MappedFile::open(&path).unwrap();
    let mut tensors: Vec<_> = file
        .names()
        .into_iter()
        .map(|name| (name.clone(), file.load(&name, Device::Cpu, None).unwrap()))
        .collect();
    drop(file);
    let embedding = tensors
        .iter()
        .find(|(name, _)| name.contains("embed"))
        .unwrap()
        .1
        .copy();
    tensors.push(("lm_head.weight".to_owned(), embedding));
    tensors.push((
        "model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(),
        Tensor::from_slice(&[1.0f32]),
    ));
    write_tensor_file(&path, &tensors).unwrap();
    CausalLm::load(folder.path(), Device::Cpu, FLOAT).unwrap();
}

#[test]
fn adapters_of_another_kind() {
    let config = model().config().clone();
    let cases = [
        (json!({"peft_type": "IA3"}), "unsupported_adapter", "\"IA3\""),
        (
            json!({"use_dora": true}),
            "unsupported_adapter",
            "`use_dora` is true",
        ),
        (
            json!({"use_something_new": true}),
            "unsupported_adapter",
            "`use_something_new`",
        ),
        (
            json!({"init_lora_weights": "pissa_niter_4"}),
            "unsupported_adapter",
            "`init_lora_weights`",
        ),
        (json!({"bias": "all"}), "unsupported_adapter", "`bias` is \"all\""),
        (
            json!({"modules_to_save": ["lm_head"]}),
            "unsupported_adapter",
            "`modules_to_save`",
        ),
        (
            json!({"rank_pattern": {"q_proj": 2}}),
            "adapter_invalid",
            "q_proj.lora_A.weight` is [8, 32], expected [2, 32]",
        ),
        (
            json!({"layers_to_transform": [0]}),
            "adapter_invalid",
            "layers.1.mlp.down_proj.lora_A.weight` is unexpected",
        ),
        (
            json!({"target_modules": ["lm_head"]}),
            "adapter_invalid",
            "`base_model.model.lm_head.lora_A.weight` is missing",
        ),
        (
            json!({"target_modules": []}),
            "unsupported_adapter",
            "has 0 names",
        ),
        (json!({"r": 0}), "unsupported_adapter", "between 1 and 1024"),
        (
            json!({"lora_dropout": 1.0}),
            "unsupported_adapter",
            "`lora_dropout`",
        ),
        (
            json!({"r": null}),
            "model_config_invalid",
            "adapter_config.json is not valid",
        ),
        (json!({"r": 4}), "adapter_invalid", "is [8, 32], expected [4, 32]"),
        (
            json!({"target_modules": ["q_proj"]}),
            "adapter_invalid",
            "k_proj.lora_A.weight` is unexpected",
        ),
    ];
    for (changes, code, words) in cases {
        let folder = changed_copy(&golden().join("adapter"), "adapter_config.json", &changes);
        assert_refused(Adapter::load(folder.path(), &config, Device::Cpu), code, words);
    }
}

#[test]
fn adapters_that_do_not_fit() {
    let config = model().config().clone();
    let load = |folder: &TempDir| Adapter::load(folder.path(), &config, Device::Cpu);

    let folder = changed_copy(&golden().join("adapter"), "adapter_config.json", &json!({}));
    change_tensors(
        &folder.path().join("adapter_model.safetensors"),
        |name, tensor| {
            Some((
                name.to_owned(),
                if name.contains("layers.1.mlp.down_proj.lora_B") {
                    tensor / 0.0
                } else {
                    tensor
                },
            ))
        },
    );
    assert_refused(
        load(&folder),
        "adapter_invalid",
        "layers.1.mlp.down_proj.lora_B.weight` has values that are not",
    );

    let folder = changed_copy(&golden().join("adapter"), "adapter_config.json", &json!({}));
    change_tensors(
        &folder.path().join("adapter_model.safetensors"),
        |name, tensor| (!name.contains("layers.1.mlp.down_proj.lora_B")).then(|| (name.to_owned(), tensor)),
    );
    assert_refused(
        load(&folder),
        "adapter_invalid",
        "layers.1.mlp.down_proj.lora_B.weight` is missing",
    );

    let other = ModelConfig::from_folder(&golden().join("../qwen/base")).unwrap();
    let error = Adapter::load(&golden().join("adapter"), &other, Device::Cpu).unwrap_err();
    assert_eq!(
        error.code(),
        "adapter_invalid",
        "an adapter of another base: {error}"
    );
}

#[test]
fn other_spellings_of_the_same_targets_are_read() {
    let config = model().config().clone();
    for targets in [
        json!("all-linear"),
        json!(".*(_proj)"),
        json!([
            "self_attn.q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "mlp.gate_proj",
            "up_proj",
            "down_proj"
        ]),
    ] {
        let folder = changed_copy(
            &golden().join("adapter"),
            "adapter_config.json",
            &json!({ "target_modules": targets }),
        );
        let adapter = Adapter::load(folder.path(), &config, Device::Cpu).unwrap();
        assert_eq!(adapter.pairs().len(), 7 * config.layers);
    }
}

#[test]
fn batches() {
    let model = model();
    let batch = |tokens: &[u32], lengths: &[usize]| PackedBatch::new(tokens, lengths, Device::Cpu);
    assert_refused(batch(&[], &[]), "invalid_batch", "no tokens");
    assert_refused(batch(&[1, 2], &[2, 0]), "invalid_batch", "document 1 is empty");
    assert_refused(batch(&[1, 2], &[1]), "invalid_batch", "lengths add up to 1");
    let outside = batch(&[1, 288], &[2]).unwrap();
    assert_refused(
        model.hidden(&outside, None, None),
        "invalid_batch",
        "token id 288 is outside the vocabulary of 288",
    );

    let mut cache: KvCache = model.new_cache(8).unwrap();
    assert_refused(model.step(&mut []), "invalid_batch", "no sequences");
    for tokens in [&[][..], &[1, 2, 9999][..]] {
        let mut steps = [SequenceStep {
            tokens,
            cache: &mut cache,
            adapter: None,
            all_scores: false,
        }];
        assert_refused(model.step(&mut steps), "invalid_batch", "");
    }
    assert!(cache.is_empty(), "a refused step leaves the cache as it was");
}
