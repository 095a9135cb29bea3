#![allow(clippy::unwrap_used)]
use std::collections::HashMap;

use safetensors::tensor::TensorView;

use super::*;

const RANK: usize = 2;

fn shape() -> BaseShape {
    BaseShape {
        architecture: "llama",
        heads: 2,
        kv_heads: 1,
        is_tied: false,
    }
}

/// Numbers that are all different.
fn numbers(rows: usize, columns: usize, seed: f32) -> Vec<f32> {
    (0..rows * columns)
        .map(|place| ((place as f32 + seed) * 0.37).sin())
        .collect()
}

fn write_adapter(folder: &Path, config: &Value, modules: &[(&str, usize, usize, usize)]) {
    fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    let mut data: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for (place, (module, rank, inputs, outputs)) in modules.iter().enumerate() {
        let bytes = |values: Vec<f32>| values.into_iter().flat_map(f32::to_le_bytes).collect();
        let (a, b) = if *module == "model.embed_tokens" {
            ("lora_embedding_A", "lora_embedding_B")
        } else {
            ("lora_A.weight", "lora_B.weight")
        };
        let seed = place as f32;
        data.push((
            format!("base_model.model.{module}.{a}"),
            vec![*rank, *inputs],
            bytes(numbers(*rank, *inputs, seed)),
        ));
        data.push((
            format!("base_model.model.{module}.{b}"),
            vec![*outputs, *rank],
            bytes(numbers(*outputs, *rank, 100.0 + seed)),
        ));
    }
    let views = data
        .iter()
        .map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(
        views,
        None::<HashMap<String, String>>,
        &folder.join("adapter_model.safetensors"),
    )
    .unwrap();
}

type Read = (HashMap<String, HeadValue>, HashMap<String, Matrix>, Value);

fn converted(folder: &Path, shape: &BaseShape, stored: Stored) -> Result<Read, Failure> {
    let path = folder.join(FILE);
    let verification = convert(folder, &path, shape, "support@7", stored)?;
    let (head, matrices) = gguf_file::read(&fs::read(path).unwrap()).unwrap();
    let matrices = matrices.into_iter().map(|matrix| (matrix.name.clone(), matrix));
    Ok((head.into_iter().collect(), matrices.collect(), verification))
}

#[test]
fn queries_and_keys_of_a_llama_are_interleaved_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({"lora_alpha": 4, "r": RANK});
    let modules = [
        ("model.layers.0.self_attn.q_proj", RANK, 6, 8),
        ("model.layers.0.self_attn.k_proj", RANK, 6, 4),
        ("model.layers.11.mlp.down_proj", RANK, 10, 6),
    ];
    write_adapter(folder.path(), &config, &modules);
    let (head, matrices, verification) = converted(folder.path(), &shape(), Stored::Float32).unwrap();
    assert_eq!(head["general.architecture"], HeadValue::Text("llama".to_owned()));
    assert_eq!(head["general.type"], HeadValue::Text("adapter".to_owned()));
    assert_eq!(head["adapter.type"], HeadValue::Text("lora".to_owned()));
    assert_eq!(head["adapter.lora.alpha"], HeadValue::Number(4.0));
    assert_eq!(matrices.len(), 6);
    let row = |matrix: &Matrix, row: usize| matrix.values[row * RANK..(row + 1) * RANK].to_vec();
    let plain = |outputs, seed| Matrix {
        name: String::new(),
        rows: outputs,
        columns: RANK,
        values: numbers(outputs, RANK, seed),
    };
    // Two heads of four rows: the halves (0 1 | 2 3) become 0 2 1 3.
    let (found, wanted) = (&matrices["blk.0.attn_q.weight.lora_b"], plain(8, 100.0));
    for (place, from) in [0, 2, 1, 3, 4, 6, 5, 7].into_iter().enumerate() {
        assert_eq!(row(found, place), row(&wanted, from));
    }
    // One head of four rows.
    let (found, wanted) = (&matrices["blk.0.attn_k.weight.lora_b"], plain(4, 101.0));
    for (place, from) in [0, 2, 1, 3].into_iter().enumerate() {
        assert_eq!(row(found, place), row(&wanted, from));
    }
    let down = &matrices["blk.11.ffn_down.weight.lora_b"];
    assert_eq!(down.values, plain(6, 102.0).values);
    assert_eq!(
        matrices["blk.0.attn_q.weight.lora_a"].values,
        numbers(RANK, 6, 0.0)
    );
    assert!(verification["max_relative_difference"].as_f64().unwrap() < 1e-6);

    let qwen = BaseShape {
        architecture: "qwen2",
        ..shape()
    };
    let (_, matrices, _) = converted(folder.path(), &qwen, Stored::Float32).unwrap();
    assert_eq!(
        matrices["blk.0.attn_q.weight.lora_b"].values,
        plain(8, 100.0).values
    );
}

#[test]
fn scales_of_their_own_are_folded_into_b() {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({"lora_alpha": 8, "r": RANK, "use_rslora": true, "alpha_pattern": {"up_proj": 3}});
    let modules = [
        ("model.layers.0.mlp.gate_proj", RANK, 6, 8),
        ("model.layers.0.mlp.up_proj", 4, 6, 8),
    ];
    write_adapter(folder.path(), &config, &modules);
    for stored in [Stored::Float32, Stored::Float16] {
        let (head, matrices, _) = converted(folder.path(), &shape(), stored).unwrap();
        let HeadValue::Number(alpha) = head["adapter.lora.alpha"] else {
            panic!("{head:?}")
        };
        for (name, rank, wanted, seed) in [
            ("ffn_gate", 2.0, 8.0 / 2_f32.sqrt(), 100.0),
            ("ffn_up", 4.0, 3.0 / 2.0, 101.0),
        ] {
            let b = &matrices[&format!("blk.0.{name}.weight.lora_b")];
            let original = numbers(8, b.columns, seed);
            for (found, original) in b.values.iter().zip(original) {
                assert!(
                    (alpha / rank * found - wanted * original).abs() < 4e-3 * wanted,
                    "{name}"
                );
            }
        }
    }
}

#[test]
fn an_embedding_is_turned_round_and_a_tied_one_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({"lora_alpha": 4, "r": RANK});
    let modules = [("lm_head", RANK, 6, 12), ("model.embed_tokens", RANK, 12, 6)];
    write_adapter(folder.path(), &config, &modules);
    let (_, matrices, _) = converted(folder.path(), &shape(), Stored::Float32).unwrap();
    let a = &matrices["token_embd.weight.lora_a"];
    assert_eq!((a.rows, a.columns), (12, RANK));
    assert!(matrices.contains_key("output.weight.lora_b"));
    let tied = BaseShape {
        is_tied: true,
        ..shape()
    };
    let failure = converted(folder.path(), &tied, Stored::Float32).unwrap_err();
    assert_eq!(failure.code, "gguf_unsupported");
    assert!(!failure.retryable);
}

#[test]
fn what_llama_cpp_cannot_say_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let modules = [("model.layers.0.mlp.up_proj", RANK, 6, 8)];
    let pattern = json!({"lora_alpha": 8, "r": RANK, "alpha_pattern": {".*up.*": 3}});
    write_adapter(folder.path(), &pattern, &modules);
    let failure = converted(folder.path(), &shape(), Stored::Float32).unwrap_err();
    assert!(failure.message.contains("alpha_pattern"), "{}", failure.message);
    let odd = [("model.layers.0.self_attn.qk_norm", RANK, 6, 8)];
    write_adapter(folder.path(), &json!({"lora_alpha": 8, "r": RANK}), &odd);
    let failure = converted(folder.path(), &shape(), Stored::Float32).unwrap_err();
    assert!(failure.message.contains("qk_norm"), "{}", failure.message);
    assert!(BaseShape::of(&json!({"architectures": ["BertModel"]})).is_err());
}
