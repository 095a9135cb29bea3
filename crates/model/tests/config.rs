//! `config.json` as real models have it, and what must be refused.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use support::{assert_refused, changed_copy, golden};
use tunesmith_model::{Activation, Family, ModelConfig, ModelError, RopeScaling};

fn read(changes: &Value) -> Result<ModelConfig, ModelError> {
    ModelConfig::from_folder(changed_copy(&golden("llama").join("base"), "config.json", changes).path())
}

#[test]
fn both_spellings_of_rope_are_read() {
    let expected = RopeScaling::Llama3 {
        factor: 4.0,
        low_factor: 1.0,
        high_factor: 4.0,
        original_positions: 64.0,
    };
    let older = read(&json!({})).unwrap();
    assert_eq!(
        (&older.ropes[0].scaling, older.ropes[0].theta),
        (&expected, 10_000.0)
    );
    let mut parameters = older.source["rope_scaling"].clone();
    parameters["rope_theta"] = json!(5e5);
    let newer =
        read(&json!({"rope_scaling": null, "rope_theta": null, "rope_parameters": parameters})).unwrap();
    assert_eq!((&newer.ropes[0].scaling, newer.ropes[0].theta), (&expected, 5e5));
    let linear = read(&json!({"rope_scaling": {"type": "linear", "factor": 2.0}})).unwrap();
    assert_eq!(linear.ropes[0].scaling, RopeScaling::Linear { factor: 2.0 });
    assert_eq!(
        read(&json!({"rope_scaling": null})).unwrap().ropes[0].scaling,
        RopeScaling::Default
    );
}

#[test]
fn absent_fields_take_transformers_defaults() {
    let config =
        read(&json!({"head_dim": null, "num_key_value_heads": null, "tie_word_embeddings": null})).unwrap();
    assert_eq!(
        (config.head_dim, config.kv_heads, config.tie_word_embeddings),
        (8, 4, false)
    );
    let by_type = read(&json!({"architectures": null})).unwrap();
    assert_eq!(by_type.family, Family::Llama);
}

#[test]
fn windows_follow_the_family() {
    let windows = |changes: Value| read(&changes).unwrap().windows;
    let qwen = json!({"architectures": ["Qwen2ForCausalLM"], "sliding_window": 8});
    let with = |base: &Value, field: &str, value: Value| {
        let mut changed = base.clone();
        changed[field] = value;
        changed
    };
    assert_eq!(
        windows(json!({"sliding_window": 8})),
        [None, None],
        "llama has none"
    );
    assert_eq!(
        windows(json!({"architectures": ["MistralForCausalLM"], "sliding_window": 8})),
        [Some(8), Some(8)]
    );
    assert_eq!(
        windows(qwen.clone()),
        [None, None],
        "off unless use_sliding_window"
    );
    let on = with(&qwen, "use_sliding_window", json!(true));
    assert_eq!(windows(with(&on, "max_window_layers", json!(1))), [None, Some(8)]);
    let types = json!(["sliding_attention", "full_attention"]);
    assert_eq!(windows(with(&on, "layer_types", types)), [Some(8), None]);
}

#[test]
fn biases_follow_the_family() {
    let biases = |changes: Value| {
        let config = read(&changes).unwrap();
        (config.qkv_bias, config.output_bias, config.mlp_bias)
    };
    assert_eq!(biases(json!({})), (false, false, false));
    assert_eq!(
        biases(json!({"attention_bias": true, "mlp_bias": true})),
        (true, true, true)
    );
    assert_eq!(
        biases(json!({"architectures": ["Qwen2ForCausalLM"]})),
        (true, false, false)
    );
    assert_eq!(
        biases(json!({"architectures": ["MistralForCausalLM"]})),
        (false, false, false)
    );
}

fn read_as(family: &str, changes: &Value) -> Result<ModelConfig, ModelError> {
    ModelConfig::from_folder(changed_copy(&golden(family).join("base"), "config.json", changes).path())
}

#[test]
fn families_differ_where_they_should() {
    let all = support::FAMILIES.map(|family| read_as(family, &json!({})).unwrap());
    let [llama, _, _, qwen3, gemma2, gemma3, phi3] = &all;
    assert!(!llama.qk_norm && qwen3.qk_norm && !gemma2.qk_norm && gemma3.qk_norm);
    assert_eq!(
        (llama.activation, gemma2.activation),
        (Activation::Silu, Activation::GeluTanh)
    );
    assert_eq!(
        (gemma2.attention_softcap, gemma2.final_softcap),
        (Some(6.0), Some(8.0))
    );
    assert_eq!((gemma3.attention_softcap, gemma3.final_softcap), (None, None));
    assert_eq!((gemma2.norm_offset, gemma2.sandwich_norms), (1.0, true));
    assert_eq!(gemma2.embedding_scale, Some(32f64.sqrt()));
    assert_eq!(gemma2.attention_scale, 20f64.powf(-0.5));
    assert_eq!(gemma2.windows, [Some(10), None, Some(10)]);
    assert_eq!(
        (gemma3.rope_of_layer.as_slice(), gemma3.ropes.len()),
        ([1, 0, 1].as_slice(), 2)
    );
    assert_eq!((gemma3.ropes[0].theta, gemma3.ropes[1].theta), (1e6, 1e4));
    assert_eq!(
        gemma3.ropes[1].scaling,
        RopeScaling::Default,
        "only the global rope is stretched"
    );
    let paths: Vec<&str> = phi3.modules.iter().map(|module| module.path).collect();
    assert_eq!(
        paths,
        [
            "self_attn.qkv_proj",
            "self_attn.o_proj",
            "mlp.gate_up_proj",
            "mlp.down_proj"
        ]
    );
    assert_eq!((phi3.head_dim, phi3.ropes[0].rotary_dim), (8, 6));
}

#[test]
fn gemma_takes_transformers_defaults() {
    let absent = json!({"attn_logit_softcapping": null, "final_logit_softcapping": null, "head_dim": null,
        "query_pre_attn_scalar": null, "sliding_window": null, "tie_word_embeddings": null, "hidden_activation": null});
    let gemma2 = read_as("gemma2", &absent).unwrap();
    assert_eq!(
        (gemma2.attention_softcap, gemma2.final_softcap),
        (Some(50.0), Some(30.0))
    );
    assert_eq!((gemma2.head_dim, gemma2.attention_scale), (256, 0.0625));
    assert_eq!(gemma2.windows, [Some(4096), None, Some(4096)]);
    assert!(gemma2.tie_word_embeddings);
    let layers = json!({"layer_types": null, "num_hidden_layers": 7, "sliding_window_pattern": null});
    let windows = read_as("gemma3", &layers).unwrap().windows;
    assert_eq!(
        windows.iter().position(Option::is_none),
        Some(5),
        "every sixth block sees all: {windows:?}"
    );
}

#[test]
fn longrope_scales_by_the_length_it_reaches() {
    let factor = |changes: Value| match &read_as("phi3", &changes).unwrap().ropes[0].scaling {
        RopeScaling::LongRope {
            attention_factor,
            original_positions,
            ..
        } => (*attention_factor, *original_positions),
        other => panic!("{other:?}"),
    };
    let by_ratio = (1.0 + (256f64 / 24.0).ln() / 24f64.ln()).sqrt();
    assert_eq!(factor(json!({})), (by_ratio, 24.0));
    assert_eq!(
        factor(json!({"original_max_position_embeddings": null})),
        (1.0, 4096.0)
    );
    let few = json!({"rope_scaling": {"type": "su", "short_factor": [1.0], "long_factor": [1.0, 1.0, 1.0]}});
    assert_refused(
        read_as("phi3", &few),
        "model_config_invalid",
        "3 positive numbers in `short_factor`",
    );
    assert_refused(
        read_as("phi3", &json!({"partial_rotary_factor": 0.4})),
        "model_config_invalid",
        "leaves 3 of 8 dimensions",
    );
}

#[test]
fn what_is_not_built_in_is_refused() {
    let yarn = json!({"rope_type": "yarn", "factor": 4.0});
    let partial = json!({"rope_type": "default", "partial_rotary_factor": 0.5});
    let mixed = json!({"architectures": ["MistralForCausalLM"], "layer_types": ["full_attention", "chunked_attention"]});
    let cases = [
        (json!({"hidden_act": "gelu"}), "`hidden_act` is \"gelu\""),
        (json!({ "rope_scaling": yarn }), "\"yarn\""),
        (
            json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
            "\"dynamic\"",
        ),
        (
            json!({ "rope_scaling": partial }),
            "`partial_rotary_factor` is 0.5",
        ),
        (json!({"quantization_config": {"quant_method": "awq"}}), "\"awq\""),
        (mixed, "\"chunked_attention\""),
    ];
    for (changes, words) in cases {
        assert_refused(read(&changes), "unsupported_model_feature", words);
    }
    for (changes, words) in [
        (json!({"architectures": ["GPT2LMHeadModel"]}), "`GPT2LMHeadModel`"),
        (
            json!({"architectures": ["Gemma3ForConditionalGeneration"], "vocab_size": null}),
            "`Gemma3ForConditionalGeneration`",
        ),
        (json!({"architectures": null, "model_type": null}), "(none named)"),
    ] {
        assert_refused(read(&changes), "unsupported_architecture", words);
    }
}

#[test]
fn contradictions_are_named() {
    let mistral = json!({"architectures": ["MistralForCausalLM"], "sliding_window": 0});
    let cases = [
        (
            json!({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}),
            "`low_freq_factor`",
        ),
        (
            json!({"rope_scaling": {"type": "linear", "factor": -1.0}}),
            "`factor`",
        ),
        (json!({"num_key_value_heads": 3}), "4 query heads"),
        (
            json!({"num_attention_heads": 0, "head_dim": null}),
            "`num_attention_heads` is 0",
        ),
        (json!({"head_dim": 7}), "odd"),
        (json!({"vocab_size": -5}), "`vocab_size` is -5"),
        (json!({"num_hidden_layers": 100_000}), "over 1024"),
        (json!({"rms_norm_eps": 0.0}), "`rms_norm_eps`"),
        (json!({"hidden_size": null}), "hidden_size"),
        (json!({"vocab_size": "many"}), "config.json is not valid"),
        (mistral, "sliding_window"),
    ];
    for (changes, words) in cases {
        assert_refused(read(&changes), "model_config_invalid", words);
    }
    let empty = tempfile::tempdir().unwrap();
    assert_refused(
        ModelConfig::from_folder(empty.path()),
        "model_unreadable",
        "config.json",
    );
}
