//! Wrong input ends with one clear message and a stable code, before any training.

use std::fs;
use std::path::Path;

use tch::{Device, Kind};
use tunesmith_model::{CausalLm, Precision};
use tunesmith_types::trainer::TrainerEvent;

use crate::harness::{Job, golden};

/// A copy of the tiny base model that can be broken.
fn own_base(job: &mut Job) -> std::path::PathBuf {
    let base = job.path("base");
    copy_folder(&golden("llama").join("base"), &base);
    job.set("base", base.to_str().unwrap());
    base
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

const PAIR: &str = r#"{"messages":[{"role":"user","content":"u"},{"role":"assistant","content":"a"}]}"#;

type Spoil = fn(&mut Job);

/// How the input is spoilt, the code, and a part of the message.
#[expect(clippy::too_many_lines, reason = "a table")]
fn table() -> Vec<(Spoil, &'static str, &'static str)> {
    vec![
        (
            |job| {
                job.set("base", "/nowhere");
            },
            "model_unreadable",
            "/nowhere",
        ),
        (
            |job| fs::remove_file(own_base(job).join("model.safetensors")).unwrap(),
            "model_weights_missing",
            "model.safetensors",
        ),
        (
            |job| fs::write(own_base(job).join("model.safetensors"), b"not tensors").unwrap(),
            "model_weights_invalid",
            "model.safetensors",
        ),
        (
            |job| {
                edit(
                    &own_base(job).join("config.json"),
                    "LlamaForCausalLM",
                    "MambaForCausalLM",
                )
            },
            "unsupported_architecture",
            "MambaForCausalLM",
        ),
        (
            |job| edit(&own_base(job).join("config.json"), "{", "["),
            "model_config_invalid",
            "config.json",
        ),
        (
            |job| fs::remove_file(own_base(job).join("tokenizer.json")).unwrap(),
            "tokenizer_missing",
            "tokenizer.json",
        ),
        (
            |job| fs::write(own_base(job).join("tokenizer.json"), "{}").unwrap(),
            "tokenizer_invalid",
            "tokenizer.json",
        ),
        (
            |job| fs::write(own_base(job).join("tokenizer_config.json"), "{}").unwrap(),
            "chat_template_missing",
            "no chat template",
        ),
        (
            |job| fs::write(own_base(job).join("chat_template.jinja"), "{% if %}").unwrap(),
            "chat_template_failed",
            "not valid",
        ),
        (
            |job| {
                job.set("data", "/nowhere.jsonl");
            },
            "data_unreadable",
            "/nowhere.jsonl",
        ),
        (
            |job| {
                job.set_file("data", &format!("{PAIR}\n{{\"messages\":3}}\n"));
            },
            "invalid_dataset",
            "line 2",
        ),
        (
            |job| {
                job.set_file("data", "{oops\n");
            },
            "invalid_dataset",
            "not valid JSON",
        ),
        (
            |job| {
                job.set_file("data", "\n\n");
            },
            "invalid_dataset",
            "no examples",
        ),
        (
            |job| {
                job.set_file("data", PAIR).set("max-seq-len", "8");
            },
            "nothing_supervised",
            "raise --max-seq-len",
        ),
        (
            |job| {
                job.set("max-seq-len", "16").set("over-long", "fail");
            },
            "example_too_long",
            "the most is 16",
        ),
        (
            |job| {
                job.set("rank", "257");
            },
            "invalid_hyperparameter",
            "`rank`",
        ),
        (
            |job| {
                job.set("lr", "0");
            },
            "invalid_hyperparameter",
            "`learning_rate`",
        ),
        (
            |job| {
                job.set("targets", "q_proj,head");
            },
            "invalid_hyperparameter",
            "`head`",
        ),
        (
            |job| {
                job.set("max-seq-len", "100000");
            },
            "invalid_hyperparameter",
            "the base model's limit",
        ),
        (
            |job| {
                job.set("early-stopping-patience", "3");
            },
            "invalid_hyperparameter",
            "`early_stopping_patience`",
        ),
        (
            |job| {
                job.set(
                    "data",
                    golden("llama").join("training/train.jsonl").to_str().unwrap(),
                );
                job.flag("load-best-model-at-end");
            },
            "invalid_hyperparameter",
            "evaluation",
        ),
        (
            |job| {
                job.set("rank-pattern", "q_proj:3");
            },
            "invalid_hyperparameter",
            "`rank_pattern`",
        ),
        (
            |job| {
                job.set("alpha-pattern", "q_proj=0");
            },
            "invalid_hyperparameter",
            "`alpha_pattern`",
        ),
        (
            |job| {
                job.set("batch-tokens", "3");
            },
            "invalid_hyperparameter",
            "`batch_tokens`",
        ),
        (
            |job| {
                job.set("loraplus-lr-ratio", "0.5");
            },
            "invalid_hyperparameter",
            "`loraplus_lr_ratio`",
        ),
        (
            |job| {
                job.set("device", "cuda:99");
            },
            "device_unavailable",
            "cuda:99",
        ),
        (
            |job| {
                job.set("device", "tpu");
            },
            "device_unavailable",
            "tpu",
        ),
        (
            |job| {
                job.set("init-adapter", "/nowhere");
            },
            "model_unreadable",
            "/nowhere",
        ),
        (
            |job| {
                job.set("init-adapter", golden("qwen").join("adapter").to_str().unwrap());
            },
            "adapter_invalid",
            "does not fit",
        ),
        (
            |job| {
                job.set("resume", "/nowhere");
            },
            "checkpoint_invalid",
            "/nowhere",
        ),
    ]
}

#[test]
fn table_of_wrong_input() {
    for (spoil, code, part) in table() {
        let mut job = Job::new();
        job.set("max-steps", "1");
        spoil(&mut job);
        let output = job.run();
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{code}: {words}");
        assert!(words.contains(&format!("[{code}]")), "wanted {code}: {words}");
        assert!(words.contains(part), "wanted `{part}`: {words}");
        assert!(!job.path("out").exists(), "{code} left something behind");
    }
}

#[test]
fn wrong_usage_is_another_exit_code() {
    let mut job = Job::new();
    job.set("schedule", "sideways");
    assert_eq!(job.run().status.code(), Some(2));
}

#[test]
fn a_loss_that_is_not_finite_fails_and_says_so() {
    let mut job = Job::new();
    let base = own_base(&mut job);
    let model = CausalLm::load(&base, Device::Cpu, Precision::uniform(Kind::Float)).unwrap();
    for (name, tensor) in model.parameters() {
        if name == "model.norm.weight" {
            let _ = tensor.shallow_clone().fill_(f64::from(f32::MAX));
        }
    }
    model.save(&base, Kind::Float).unwrap();
    let mut child = job.supervise();
    let event = child.until(|event| matches!(event, TrainerEvent::Failed { .. }));
    let TrainerEvent::Failed { code, message } = event else {
        unreachable!()
    };
    assert_eq!(code, "non_finite_loss");
    assert!(message.starts_with("step 1: the loss is not finite"), "{message}");
    assert_eq!(child.wait().code(), Some(1));
}

#[test]
fn a_checkpoint_of_another_job_is_refused() {
    let mut job = Job::new();
    job.set("max-steps", "2").set("checkpoint-every", "1");
    job.finish();
    let failed = |job: &Job, code: &str, part: &str| {
        let output = job.run();
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words}");
        assert!(
            words.contains(&format!("[{code}]")) && words.contains(part),
            "{words}"
        );
    };
    failed(&job, "checkpoints_exist", "--resume");
    let checkpoints = job.path("out/checkpoints");
    job.set("resume", checkpoints.join("step-00000001").to_str().unwrap());
    job.set("seed", "9");
    failed(&job, "checkpoint_mismatch", "seed is 0 there and 9 here");
    job.remove("seed");
    fs::write(checkpoints.join("step-00000001/optimizer.safetensors"), "cut").unwrap();
    failed(&job, "checkpoint_invalid", "optimizer.safetensors");
    fs::write(checkpoints.join("step-00000001/state.json"), "{").unwrap();
    failed(&job, "checkpoint_invalid", "state.json");
}
