//! Small inputs: a tiny base model with its own tokenizer, and chat datasets.

use std::path::PathBuf;

use serde_json::{Value, json};

/// The folder of a seeded Llama with two layers, made by `scripts/parity`.
pub(crate) fn tiny_base_model() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../crates/model/tests/golden/llama/base")
}

/// `count` different chat examples.
pub(crate) fn chat_lines(count: usize) -> String {
    (0..count)
        .map(|number| {
            let line = json!({"messages": [
                {"role": "user", "content": format!("item {number}")},
                {"role": "assistant", "content": format!("box {}", number % 7)},
            ]});
            format!("{line}\n")
        })
        .collect()
}

/// A job request of `steps` quick steps.
pub(crate) fn train_request(dataset: &str, adapter: &str, steps: u64, checkpoint_every: u64) -> Value {
    json!({
        "base_model": "tiny", "dataset": dataset, "adapter": adapter,
        "hyperparameters": {
            "rank": 4, "learning_rate": 0.01, "max_steps": steps, "batch_size": 2, "max_seq_len": 64,
            "checkpoint_every": checkpoint_every, "eval_fraction": 0.1, "dtype": "float32", "dropout": 0.1, "seed": 7,
        },
    })
}
