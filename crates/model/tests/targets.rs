//! Which modules an adapter sits on: PEFT's rules for names, patterns, ranks, alphas and blocks, and what is refused.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;

use serde_json::json;
use support::{assert_refused, golden};
use tch::{Device, Kind, Tensor, no_grad_guard};
use tunesmith_model::{
    Adapter, CausalLm, LoraSettings, ModelConfig, ModelError, PackedBatch, Precision, Site,
};
use tunesmith_types::hyperparameters::{TargetModules, TargetModulesRequest};

fn config(family: &str) -> ModelConfig {
    ModelConfig::from_folder(&golden(family).join("base")).unwrap()
}

/// `targets`: a list, or a string, as in `adapter_config.json`.
fn settings(targets: serde_json::Value) -> LoraSettings {
    let request: TargetModulesRequest = serde_json::from_value(targets).unwrap();
    LoraSettings {
        rank: 4,
        alpha: 8.0,
        use_rslora: false,
        dropout: 0.0,
        target_modules: TargetModules::new(request).unwrap(),
        rank_pattern: BTreeMap::new(),
        alpha_pattern: BTreeMap::new(),
        layers_to_transform: None,
    }
}

fn fresh(config: &ModelConfig, settings: LoraSettings) -> Result<Adapter, ModelError> {
    Adapter::fresh(config, settings, 5, Device::Cpu)
}

fn names(config: &ModelConfig, settings: LoraSettings) -> Vec<String> {
    let adapter = fresh(config, settings).unwrap();
    adapter
        .pairs()
        .iter()
        .map(|pair| pair.site.name(config))
        .collect()
}

#[test]
fn names_and_patterns_choose_modules() {
    let llama = config("llama");
    assert_eq!(
        names(&llama, settings(json!(["self_attn.v_proj"]))),
        [
            "model.layers.0.self_attn.v_proj",
            "model.layers.1.self_attn.v_proj"
        ]
    );
    assert_eq!(
        names(&llama, settings(json!(["model.layers.1.mlp.up_proj", "lm_head"]))),
        ["model.layers.1.mlp.up_proj", "lm_head"]
    );
    assert_eq!(
        names(
            &llama,
            settings(json!(r"model\.(embed_tokens|layers\.0\..*down_proj)"))
        ),
        ["model.embed_tokens", "model.layers.0.mlp.down_proj"]
    );
    assert_eq!(
        names(&llama, settings(json!("all-linear"))).len(),
        14,
        "no head, no embedding"
    );
    assert_eq!(
        names(&config("phi3"), settings(json!("all-linear")))[..4],
        ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"].map(|name| {
            let parent = if name.ends_with("up_proj") || name.starts_with("down") {
                "mlp"
            } else {
                "self_attn"
            };
            format!("model.layers.0.{parent}.{name}")
        })
    );
    for targets in [json!(["v_proj", "lm_head"]), json!("all-linear")] {
        let mut some = settings(targets);
        some.layers_to_transform = Some(vec![1]);
        let found = names(&llama, some);
        assert!(found.iter().all(|name| name.contains("layers.1.")), "{found:?}");
    }
}

#[test]
fn patterns_give_ranks_and_alphas() {
    let llama = config("llama");
    let mut some = settings(json!(["q_proj", "down_proj"]));
    some.rank_pattern = BTreeMap::from([("q_proj".to_owned(), 2), (r"layers\.1\.mlp\..*".to_owned(), 8)]);
    some.alpha_pattern = BTreeMap::from([("0.self_attn.q_proj".to_owned(), 1.0), ("proj".to_owned(), 3.0)]);
    let adapter = fresh(&llama, some).unwrap();
    let found: Vec<_> = adapter
        .pairs()
        .iter()
        .map(|pair| (pair.rank, pair.scale, pair.a.size()[0], pair.b.size()[1]))
        .collect();
    // `proj` is no whole part of a name, so it fits none.
    assert_eq!(
        found,
        [(2, 0.5, 2, 2), (4, 2.0, 4, 4), (2, 4.0, 2, 2), (8, 1.0, 8, 8)]
    );
    assert_eq!(adapter.module(1, 6).unwrap().rank, 8);
    assert!(adapter.module(1, 1).is_none() && adapter.head().is_none() && adapter.embedding().is_none());
}

#[test]
fn what_does_not_fit_is_refused() {
    let llama = config("llama");
    assert_refused(
        fresh(&llama, settings(json!(["qkv_proj"]))),
        "target_modules_match_nothing",
        "self_attn.q_proj, self_attn.k_proj",
    );
    let mut large = settings(json!(["q_proj", "k_proj"]));
    large.rank = 17;
    assert_refused(
        fresh(&llama, large),
        "rank_too_large",
        "rank 17 is above 16, the smaller dimension of `model.layers.0.self_attn.k_proj`",
    );
    let mut outside = settings(json!(["q_proj"]));
    outside.layers_to_transform = Some(vec![0, 2]);
    assert_refused(
        fresh(&llama, outside),
        "layer_out_of_range",
        "block 2; the model has blocks 0 to 1",
    );
    let mut both = settings(json!(".*q_proj"));
    both.layers_to_transform = Some(vec![0]);
    assert_refused(fresh(&llama, both), "lora_invalid", "layers_to_transform");
    let mut broken = settings(json!(["q_proj"]));
    broken.rank_pattern = BTreeMap::from([("(".to_owned(), 2)]);
    assert_refused(fresh(&llama, broken), "lora_invalid", "rank_pattern");
}

#[test]
fn the_order_of_a_files_patterns_is_not_lost_silently() {
    let folder = golden("llama").join("adapter");
    let config = config("llama");
    let with = |pattern: &str| {
        let copy = support::changed_copy(&folder, "adapter_config.json", &json!({"alpha_pattern": "HERE"}));
        let path = copy.path().join("adapter_config.json");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("\"HERE\"", pattern)).unwrap();
        Adapter::load(copy.path(), &config, Device::Cpu)
    };
    let scale = |adapter: &Adapter| adapter.module(0, 0).unwrap().scale;
    assert_eq!(scale(&with(r#"{"[qk]_proj": 4, "q_proj": 16}"#).unwrap()), 0.5);
    assert_eq!(scale(&with(r#"{"v_proj": 16, "q_proj": 4}"#).unwrap()), 0.5);
    assert_refused(
        with(r#"{"q_proj": 16, "[qk]_proj": 4}"#),
        "unsupported_adapter",
        "several keys fit `model.layers.0.self_attn.q_proj`",
    );
}

/// Every kind of site, with values that act.
fn adapter_of_everything(config: &ModelConfig) -> Adapter {
    let mut everything = settings(json!(r"lm_head|model\.embed_tokens|.*_proj"));
    everything.rank_pattern = BTreeMap::from([("lm_head".to_owned(), 3)]);
    let adapter = fresh(config, everything).unwrap();
    let _guard = no_grad_guard();
    tch::manual_seed(3);
    let noise = Tensor::randn(adapter.flat().size(), (Kind::Float, Device::Cpu)) * 0.05;
    let _ = adapter.flat().shallow_clone().g_add_(&noise);
    adapter
}

fn logits(model: &CausalLm, adapter: Option<&Adapter>) -> Tensor {
    let _guard = no_grad_guard();
    let tokens: Vec<u32> = (0..30).map(|place| place * 7 % 250).collect();
    let batch = PackedBatch::new(&tokens, &[11, 19], Device::Cpu).unwrap();
    let hidden = model.hidden(&batch, adapter, None).unwrap();
    model.adapted_logits(&hidden, adapter, None).unwrap()
}

#[test]
fn a_fresh_embedding_pair_begins_as_pefts_does() {
    let config = config("gemma2");
    let adapter = fresh(&config, settings(json!(["embed_tokens"]))).unwrap();
    let pair = adapter.embedding().unwrap();
    assert_eq!(
        (pair.site, pair.a.size(), pair.b.size()),
        (Site::Embedding, vec![4, 288], vec![32, 4])
    );
    assert_eq!(pair.a.abs().max().double_value(&[]), 0.0);
    assert!((pair.b.std(true).double_value(&[]) - 1.0).abs() < 0.2);
    assert_eq!(
        adapter.parameters()[0].0,
        "base_model.model.model.embed_tokens.lora_embedding_A"
    );
}

#[test]
fn every_site_merges_and_survives_a_folder() {
    for family in support::FAMILIES {
        let load = |folder: &std::path::Path| {
            CausalLm::load(folder, Device::Cpu, Precision::uniform(Kind::Float)).unwrap()
        };
        let base = golden(family).join("base");
        let (plain, mut merged) = (load(&base), load(&base));
        let adapter = adapter_of_everything(plain.config());
        let folder = tempfile::tempdir().unwrap();
        adapter.save(folder.path(), "base").unwrap();
        let adapter = Adapter::load(folder.path(), plain.config(), Device::Cpu).unwrap();
        assert_eq!(
            adapter.pairs().len(),
            plain.config().modules.len() * plain.config().layers + 2
        );

        let wanted = logits(&plain, Some(&adapter));
        let largest = wanted.abs().max().double_value(&[]);
        let apart = |found: &Tensor| (found - &wanted).abs().max().double_value(&[]) / largest;
        assert!(apart(&logits(&plain, None)) > 0.05, "{family}: the adapter acts");
        merged.merge(&adapter).unwrap();
        assert!(
            apart(&logits(&merged, None)) <= 1e-5,
            "{family}: {}",
            apart(&logits(&merged, None))
        );

        // A tied head and an adapted embedding are two tensors from then on.
        let folder = tempfile::tempdir().unwrap();
        merged.save(folder.path(), Kind::Float).unwrap();
        let saved = load(folder.path());
        assert!(!saved.config().tie_word_embeddings);
        assert!(logits(&saved, None).equal(&logits(&merged, None)), "{family}");
    }
}
