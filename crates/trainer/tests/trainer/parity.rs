//! Against PEFT, for every family that has golden files: tokens, labels, and a training with the gradient of its first
//! step, its losses and its final adapter.

use std::fs;

use serde_json::Value;
use tch::{Device, Kind, Tensor, no_grad_guard};
use tunesmith_dataset::{Corpus, Encoder, Example};
use tunesmith_model::{Adapter, CausalLm, Precision, Segment};
use tunesmith_torch_ext::MappedFile;
use tunesmith_trainer::documents::Documents;

use crate::harness::{Job, adapter_difference, golden, relative_difference};

/// Largest allowed relative differences: of each step's loss and gradient norm, of the first step's loss, of each tensor
/// of the first gradient and of the final adapter (Frobenius).
const STEP: f64 = 1e-3;
const GRADIENT_NORM: f64 = 1e-3;
const FIRST_STEP: f64 = 5e-6;
const FIRST_GRADIENT: f64 = 1e-5;
const FINAL_ADAPTER: f64 = 1e-2;

fn families() -> Vec<String> {
    let mut families: Vec<String> = fs::read_dir(golden(""))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("training/losses.json").exists())
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    families.sort();
    assert!(families.len() >= 3, "{families:?}");
    families
}

fn json(family: &str, name: &str) -> Value {
    let text = fs::read_to_string(golden(family).join("training").join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn tokens_and_loss_masks_are_those_of_trl() {
    for family in &families() {
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
#[expect(clippy::print_stdout, reason = "the measured differences are numbers to show")]
fn the_training_is_that_of_peft() {
    for family in &families() {
        let job = golden_job(family);
        job.finish();
        let losses = json(family, "losses.json");
        let wanted = losses["steps"].as_array().unwrap();
        let found = job.steps();
        assert_eq!(found.len(), wanted.len(), "{family}");
        let mut largest = (0.0f64, 0.0f64);
        for (index, (found, wanted)) in found.iter().zip(wanted).enumerate() {
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
            let most = if index == 0 { FIRST_STEP } else { STEP };
            assert!(relative("loss") < most, "{family} {found} {wanted}");
            assert!(relative("grad_norm") < GRADIENT_NORM, "{family} {found} {wanted}");
            largest = (
                largest.0.max(relative("loss")),
                largest.1.max(relative("grad_norm")),
            );
        }
        let wanted = golden(family).join("training/final-adapter");
        let difference = adapter_difference(&job.path("out"), &wanted);
        assert!(difference < FINAL_ADAPTER, "{family}: {difference}");
        println!(
            "{family}: {} steps, largest relative difference of loss {:.1e}, gradient norm {:.1e}, final tensors {difference:.1e}",
            found.len(),
            largest.0,
            largest.1
        );
    }
}

#[test]
fn the_first_gradient_is_that_of_peft() {
    for family in &families() {
        let folder = golden(family);
        let training = folder.join("training");
        let model =
            CausalLm::load(&folder.join("base"), Device::Cpu, Precision::uniform(Kind::Float)).unwrap();
        let adapter = Adapter::load(&training.join("init-adapter"), model.config(), Device::Cpu).unwrap();
        let documents = first_documents(family);
        let gradient = Tensor::zeros(adapter.flat().size(), (Kind::Float, Device::Cpu));
        let segment = Segment {
            adapter: Some(&adapter),
            gradient: Some(&gradient),
            scale: 1.0 / documents.weight_sum,
            dropout: None,
            documents: (0..documents.len())
                .map(|index| documents.document(index))
                .collect(),
        };
        model.train_pass(&[segment]).unwrap();
        // The adapter's tensors are views of its flat buffer, so they lend the gradient their names.
        let _guard = no_grad_guard();
        adapter.flat().shallow_clone().copy_(&gradient);
        let wanted = MappedFile::open(&training.join("first-gradient.safetensors")).unwrap();
        for (name, found) in adapter.parameters() {
            let wanted = wanted.load(&name, Device::Cpu, None).unwrap();
            let difference = relative_difference(&found.detach(), &wanted);
            assert!(difference < FIRST_GRADIENT, "{family} {name}: {difference}");
        }
    }
}

/// The examples of the first step, as the golden training takes them: in the order of the file.
fn first_documents(family: &str) -> Documents {
    let asked = &json(family, "losses.json")["hyperparameters"];
    let encoder = Encoder::load(&golden(family).join("base")).unwrap();
    let data = fs::read_to_string(golden(family).join("training/train.jsonl")).unwrap();
    let mut corpus = Corpus::default();
    for line in data.lines().take(asked["batch_size"].as_u64().unwrap() as usize) {
        let sequence = encoder.encode(&Example::parse(line.as_bytes()).unwrap());
        corpus.push(&sequence.unwrap()).unwrap();
    }
    Documents::gather(&corpus, 0..corpus.len()).unwrap()
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
