//! The golden models of `crates/model`: tiny, seeded, with the logits that transformers and PEFT gave.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tch::{Device, Kind, Tensor};
use tunesmith_model::{CausalLm, Precision, SequenceStep};
use tunesmith_torch_ext::MappedFile;

/// Families with golden files.
pub(crate) const FAMILIES: [&str; 3] = ["llama", "mistral", "qwen"];
/// Largest allowed difference of a log-probability, float32.
pub(crate) const TOLERANCE: f64 = 2e-4;

/// A folder of a family: `base`, `adapter`, `training/init-adapter` or `training/final-adapter`.
pub(crate) fn folder(family: &str, name: &str) -> PathBuf {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    crates.join("model/tests/golden").join(family).join(name)
}

/// A token sequence with the log-probabilities of what follows each position, without and with the adapter.
pub(crate) struct Case {
    pub(crate) tokens: Vec<i64>,
    pub(crate) base: Tensor,
    pub(crate) adapter: Tensor,
}

/// The golden sequences of a family.
pub(crate) fn cases(family: &str) -> Vec<Case> {
    let file = MappedFile::open(&folder(family, "logits.safetensors")).unwrap();
    let load = |name: String| file.load(&name, Device::Cpu, None).unwrap();
    let logprobs = |name: String| load(name).log_softmax(-1, Kind::Double);
    (0..3)
        .map(|number| Case {
            tokens: load(format!("tokens.{number}")).try_into().unwrap(),
            base: logprobs(format!("base.{number}")),
            adapter: logprobs(format!("adapter.{number}")),
        })
        .collect()
}

/// The base model of a family under another limit of positions, so that a request can run for as long as a test wants.
pub(crate) fn endless(family: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let base = folder(family, "base");
    for entry in base.read_dir().unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let path = copy.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["max_position_embeddings"] = 1_000_000.into();
    std::fs::write(path, config.to_string()).unwrap();
    copy
}

/// The golden llama with tokenizer and chat template in the dialect of a well-known model.
pub(crate) fn speaking(dialect: &str) -> tempfile::TempDir {
    let copy = endless("llama");
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let dialects = crates.join("dataset/tests/golden/templates");
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        std::fs::copy(dialects.join(dialect).join(name), copy.path().join(name)).unwrap();
    }
    // These ids are of the other tokenizer.
    let path = copy.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["bos_token_id"] = Value::Null;
    config["eos_token_id"] = Value::Null;
    std::fs::write(path, config.to_string()).unwrap();
    copy
}

/// Log-probabilities `[vocabulary]` of the token after `prompt`, from one pass over that.
pub(crate) fn next_logprobs(folder: &Path, prompt: &[u32]) -> Tensor {
    let model = CausalLm::load(folder, Device::Cpu, Precision::uniform(Kind::Float)).unwrap();
    let mut cache = model.new_cache(prompt.len()).unwrap();
    let mut steps = [SequenceStep {
        tokens: prompt,
        cache: &mut cache,
        adapter: None,
        all_scores: false,
    }];
    model
        .step(&mut steps)
        .unwrap()
        .log_softmax(-1, Kind::Double)
        .get(0)
}
