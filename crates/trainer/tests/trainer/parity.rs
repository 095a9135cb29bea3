//! Against PEFT: the golden files hold tokens, labels and a 20-step training with its losses and final adapter.

use std::fs;

use serde_json::Value;
use tch::{Device, Kind};
use tunesmith_dataset::{Encoder, Example};
use tunesmith_torch_ext::MappedFile;

use crate::harness::{Job, golden};

const FAMILIES: [&str; 3] = ["llama", "mistral", "qwen"];
/// Largest allowed relative difference of a step's loss.
const TOLERANCE: f64 = 1e-3;

fn json(family: &str, name: &str) -> Value {
    let text = fs::read_to_string(golden(family).join("training").join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn tokens_and_loss_masks_are_those_of_trl() {
    for family in FAMILIES {
        let encoder = Encoder::load(&golden(family).join("base")).unwrap();
        let data = fs::read_to_string(golden(family).join("training/train.jsonl")).unwrap();
        let wanted = json(family, "examples.json");
        let wanted = wanted.as_array().unwrap();
        assert_eq!(data.lines().count(), wanted.len());
        for (line, wanted) in data.lines().zip(wanted) {
            let sequence = encoder.encode(&Example::parse(line.as_bytes()).unwrap()).unwrap();
            let ids: Vec<u64> = sequence.tokens.iter().map(|id| u64::from(*id)).collect();
            let supervised: Vec<bool> = wanted["labels"]
                .as_array()
                .unwrap()
                .iter()
                .map(|label| label.as_i64() != Some(-100))
                .collect();
            assert_eq!(serde_json::json!(ids), wanted["input_ids"], "{family}: {line}");
            assert_eq!(sequence.supervised, supervised, "{family}: {line}");
        }
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "the measured difference is a number to show")]
fn twenty_steps_are_those_of_peft() {
    let mut largest = (0.0, 0.0);
    for family in FAMILIES {
        let job = golden_job(family);
        job.finish();
        let losses = json(family, "losses.json");
        let wanted = losses["steps"].as_array().unwrap();
        let found = job.steps();
        assert_eq!((found.len(), wanted.len()), (20, 20));
        for (found, wanted) in found.iter().zip(wanted) {
            let number = |value: &Value, key: &str| value[key].as_f64().unwrap();
            let relative =
                |key| (number(found, key) - number(wanted, key)).abs() / number(wanted, key).abs().max(1e-9);
            for key in ["step", "tokens", "supervised_tokens"] {
                assert_eq!(found[key], wanted[key], "{family}");
            }
            assert!(
                (number(found, "lr") - number(wanted, "lr")).abs() < 1e-12,
                "{family} {found} {wanted}"
            );
            assert!(relative("loss") < TOLERANCE, "{family} {found} {wanted}");
            assert!(relative("grad_norm") < TOLERANCE, "{family} {found} {wanted}");
            largest = (
                relative("loss").max(largest.0),
                relative("grad_norm").max(largest.1),
            );
        }
        compare_adapters(family, &job);
    }
    println!(
        "largest relative difference: loss {:.2e}, gradient norm {:.2e}",
        largest.0, largest.1
    );
}

/// The training that the golden files describe.
fn golden_job(family: &str) -> Job {
    let mut job = Job::new();
    let folder = golden(family);
    let asked = &json(family, "losses.json")["hyperparameters"];
    job.set("base", folder.join("base").to_str().unwrap());
    job.set("data", folder.join("training/train.jsonl").to_str().unwrap());
    job.set(
        "init-adapter",
        folder.join("training/init-adapter").to_str().unwrap(),
    );
    for (key, argument) in [
        ("epochs", "epochs"),
        ("batch_size", "batch-size"),
        ("lr", "lr"),
        ("schedule", "schedule"),
        ("warmup_ratio", "warmup-ratio"),
        ("weight_decay", "weight-decay"),
        ("max_grad_norm", "max-grad-norm"),
        ("max_seq_len", "max-seq-len"),
        ("order", "order"),
        ("dtype", "dtype"),
    ] {
        job.set(argument, asked[key].to_string().trim_matches('"'));
    }
    job
}

/// The final tensors, whose names and shapes must be PEFT's.
fn compare_adapters(family: &str, job: &Job) {
    let wanted = golden(family).join("training/final-adapter/adapter_model.safetensors");
    let wanted = MappedFile::open(&wanted).unwrap();
    let found = MappedFile::open(&job.path("out").join("adapter_model.safetensors")).unwrap();
    assert_eq!(found.names(), wanted.names());
    for name in wanted.names() {
        let load = |file: &MappedFile| file.load(&name, Device::Cpu, Some(Kind::Float)).unwrap();
        let difference = (load(&found) - load(&wanted)).abs().max().double_value(&[]);
        assert!(difference < 1e-3, "{family} {name}: {difference}");
    }
}
