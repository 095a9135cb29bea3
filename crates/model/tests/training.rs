//! What training leans on: gradients of every kind of leaf, packing, dropout, and mixed precision.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor, no_grad_guard};
use tunesmith_model::{
    Adapter, CausalLm, DropoutKey, LoraSettings, ModelConfig, PackedBatch, Precision, digest,
    expected_tensors,
};
use tunesmith_types::hyperparameters::TargetModules;

const FLOAT: Precision = Precision::uniform(Kind::Float);
const TOKENS: [u32; 9] = [5, 9, 200, 31, 7, 5, 9, 17, 3];
const LENGTHS: [usize; 3] = [4, 2, 3];

fn golden(family: &str) -> std::path::PathBuf {
    support::golden(family).join("base")
}

fn config(family: &str) -> ModelConfig {
    ModelConfig::from_folder(&golden(family)).unwrap()
}

fn settings(dropout: f64) -> LoraSettings {
    LoraSettings {
        rank: 4,
        alpha: 8.0,
        use_rslora: false,
        dropout,
        target_modules: TargetModules::all_linear(),
        rank_pattern: BTreeMap::new(),
        alpha_pattern: BTreeMap::new(),
        layers_to_transform: None,
    }
}

/// Mean cross-entropy of each document's next tokens.
fn loss(model: &CausalLm, adapter: Option<&Adapter>, dropout: Option<DropoutKey>) -> Tensor {
    let batch = PackedBatch::new(&TOKENS, &LENGTHS, Device::Cpu).unwrap();
    let hidden = model.hidden(&batch, adapter, dropout).unwrap();
    let rows = Tensor::from_slice(&[0i64, 1, 2, 4, 6, 7]);
    let targets = Tensor::from_slice(&[9i64, 200, 31, 5, 17, 3]);
    model
        .logits(&hidden.index_select(0, &rows))
        .unwrap()
        .to_kind(Kind::Float)
        .cross_entropy_for_logits(&targets)
}

#[test]
fn a_fresh_adapter_changes_nothing_and_is_reproducible() {
    for family in support::FAMILIES {
        let model = CausalLm::load(&golden(family), Device::Cpu, FLOAT).unwrap();
        tch::manual_seed(1);
        let first = Adapter::fresh(model.config(), settings(0.0), 42, Device::Cpu).unwrap();
        tch::manual_seed(2);
        let second = Adapter::fresh(model.config(), settings(0.0), 42, Device::Cpu).unwrap();
        for ((name, a), (_, b)) in first.parameters().into_iter().zip(second.parameters()) {
            assert!(a.equal(b), "{name}");
            if name.contains("lora_A") {
                let bound = 1.0 / (a.size()[1] as f64).sqrt();
                let largest = a.abs().max().double_value(&[]);
                assert!(
                    largest <= bound && largest > bound * 0.8,
                    "{name}: {largest} within {bound}"
                );
            }
        }
        let _guard = no_grad_guard();
        let (plain, tuned) = (loss(&model, None, None), loss(&model, Some(&first), None));
        assert!(plain.equal(&tuned), "{family}");
    }
}

#[test]
fn adapter_gradients_are_those_of_finite_differences() {
    let model = CausalLm::load(&golden("llama"), Device::Cpu, FLOAT).unwrap();
    let folder = golden("llama").join("../adapter");
    let adapter = Adapter::load(&folder, model.config(), Device::Cpu).unwrap();
    adapter.set_trainable(true).unwrap();
    loss(&model, Some(&adapter), None).backward();
    for (name, tensor) in adapter.parameters() {
        let gradient = tensor.grad();
        assert_eq!(gradient.kind(), Kind::Float);
        let _guard = no_grad_guard();
        // Along the gradient itself the change is largest, so rounding matters least.
        let direction = &gradient / gradient.norm();
        let at = |step: f64| -> f64 {
            let mut view = tensor.detach();
            let _ = view.f_add_(&(&direction * step)).unwrap();
            let value = loss(&model, Some(&adapter), None).double_value(&[]);
            let _ = view.f_sub_(&(&direction * step)).unwrap();
            value
        };
        let (numeric, exact) = ((at(1e-2) - at(-1e-2)) / 2e-2, gradient.norm().double_value(&[]));
        assert!(
            (numeric - exact).abs() <= 0.02 * exact + 1e-4,
            "{name}: {numeric} against {exact}"
        );
    }
}

#[test]
fn all_weights_can_be_trained() {
    for (family, precision) in [("qwen", FLOAT), ("mistral", Precision::master(Kind::BFloat16))] {
        let model = CausalLm::load(&golden(family), Device::Cpu, precision).unwrap();
        model.set_trainable(true).unwrap();
        let before = loss(&model, None, None);
        before.backward();
        let names: Vec<String> = model.parameters().into_iter().map(|(name, _)| name).collect();
        let expected: Vec<String> = expected_tensors(model.config())
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, expected);
        let _guard = no_grad_guard();
        for (name, weight) in model.trainable() {
            let gradient = weight.grad();
            assert_eq!(
                (weight.kind(), gradient.kind()),
                (Kind::Float, Kind::Float),
                "{name}"
            );
            assert!(gradient.abs().max().double_value(&[]) > 0.0, "{name}");
            let _ = weight.detach().f_sub_(&(gradient * 0.01)).unwrap();
        }
        assert!(
            loss(&model, None, None).double_value(&[]) < before.double_value(&[]),
            "{family}"
        );
    }
}

/// Gradients of all weights for Σ hidden · pull, through `pass`, which goes back from a gradient of the hidden rows.
fn gradients_of_all(model: &CausalLm, pass: impl FnOnce(&PackedBatch)) -> Vec<(String, Tensor)> {
    pass(&PackedBatch::new(&TOKENS, &LENGTHS, Device::Cpu).unwrap());
    let gradients = model.trainable().into_iter().filter_map(|(name, weight)| {
        let gradient = weight.grad();
        let copy = gradient.defined().then(|| (name, gradient.copy()));
        weight.shallow_clone().zero_grad();
        copy
    });
    gradients.collect()
}

#[test]
fn recomputed_blocks_give_the_same_gradients() {
    for family in support::FAMILIES {
        for precision in [FLOAT, Precision::master(Kind::BFloat16)] {
            let model = CausalLm::load(&golden(family), Device::Cpu, precision).unwrap();
            model.set_trainable(true).unwrap();
            let width = model.config().hidden_size;
            let pull = Tensor::arange(TOKENS.len() as i64 * width, (Kind::Float, Device::Cpu))
                .sin()
                .reshape([-1, width])
                .to_kind(precision.compute);
            let wanted = gradients_of_all(&model, |batch| {
                let hidden = model.hidden(batch, None, None).unwrap();
                (hidden * &pull).sum(Kind::Float).backward();
            });
            let found = gradients_of_all(&model, |batch| {
                let pass = model.hidden_recomputed(batch).unwrap();
                let hidden = model.hidden(batch, None, None).unwrap();
                assert!(pass.hidden().equal(&hidden), "{family}");
                pass.backward(&pull).unwrap();
            });
            assert!(wanted.len() > 8, "{family}");
            assert_eq!(wanted.len(), found.len(), "{family}");
            for ((name, wanted), (_, found)) in wanted.iter().zip(&found) {
                assert!(
                    wanted.equal(found) && wanted.abs().max().double_value(&[]) > 0.0,
                    "{family} {name}"
                );
            }
        }
    }
}

#[test]
fn bfloat16_bases_give_float32_gradients() {
    let model = CausalLm::load(&golden("llama"), Device::Cpu, Precision::uniform(Kind::BFloat16)).unwrap();
    let exact = CausalLm::load(&golden("llama"), Device::Cpu, FLOAT).unwrap();
    let [half, full] = [&model, &exact].map(|model| {
        let adapter =
            Adapter::load(&golden("llama").join("../adapter"), model.config(), Device::Cpu).unwrap();
        adapter.set_trainable(true).unwrap();
        loss(model, Some(&adapter), None).backward();
        let gradients: Vec<Tensor> = adapter
            .parameters()
            .iter()
            .map(|(_, tensor)| tensor.grad().reshape([-1]))
            .collect();
        Tensor::cat(&gradients, 0)
    });
    assert_eq!(half.kind(), Kind::Float);
    let similarity = Tensor::cosine_similarity(&half, &full, 0, 1e-12).double_value(&[]);
    assert!(similarity > 0.98, "{similarity}");
}

#[test]
fn dropout_repeats_by_its_key_and_is_off_without_one() {
    let model = CausalLm::load(&golden("llama"), Device::Cpu, FLOAT).unwrap();
    let mut adapter =
        Adapter::load(&golden("llama").join("../adapter"), model.config(), Device::Cpu).unwrap();
    let _guard = no_grad_guard();
    let value = |adapter: &Adapter, key| loss(&model, Some(adapter), key).double_value(&[]);
    let key = DropoutKey {
        seed: 1,
        step: 2,
        micro_batch: 0,
    };
    let plain = value(&adapter, Some(key));
    adapter.set_dropout(0.5);
    assert_eq!(value(&adapter, None), plain);
    assert_ne!(value(&adapter, Some(key)), plain);
    assert_eq!(value(&adapter, Some(key)), value(&adapter, Some(key)));
    assert_ne!(
        value(&adapter, Some(key)),
        value(&adapter, Some(DropoutKey { step: 3, ..key }))
    );
}

#[test]
fn fresh_models_are_reproducible_and_survive_a_folder() {
    for family in support::FAMILIES {
        let fresh = || CausalLm::fresh(config(family), 9, Device::Cpu, FLOAT).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fresh().save(folder.path(), Kind::Float).unwrap();
        let loaded = CausalLm::load(folder.path(), Device::Cpu, FLOAT).unwrap();
        for ((name, a), (_, b)) in fresh().parameters().into_iter().zip(loaded.parameters()) {
            assert!(a.equal(&b), "{name}");
        }
        let saved = ModelConfig::from_folder(folder.path()).unwrap();
        assert_eq!(
            ModelConfig {
                source: config(family).source,
                ..saved
            },
            config(family)
        );
    }
}

#[test]
fn the_base_digest_is_that_of_sha256sum() {
    let folder = golden("llama");
    let output = std::process::Command::new("sh")
        .args([
            "-c",
            "sha256sum config.json *.safetensors | LC_ALL=C sort -k2 | sha256sum",
        ])
        .current_dir(&folder)
        .output()
        .unwrap();
    let expected = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        digest::base_model_digest(&folder).unwrap(),
        expected.split_whitespace().next().unwrap()
    );
    assert!(
        digest::chat_template(&folder)
            .unwrap()
            .unwrap()
            .contains("start_header_id")
    );
    assert_eq!(
        digest::template_digest(""),
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
    assert_eq!(digest::tokenizer_digest(&folder).unwrap().len(), 64);
}
