//! Golden probes beside a finished adapter, and the merged model that is proved on them.

use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tch::{Device, Kind};
use tunesmith_model::{Adapter, CausalLm, ModelConfig, PackedBatch, Precision};
use tunesmith_torch_ext::MappedFile;
use tunesmith_trainer::merge::{VERIFICATION_FILE, Verification};
use tunesmith_types::probe::Probe;

use crate::harness::{Job, executable, golden};

fn job() -> Job {
    let mut job = Job::new();
    job.set("max-steps", "6").set("batch-size", "4").set("rank", "4");
    job.set("checkpoint-every", "3").set("seed", "7");
    job
}

fn probes(job: &Job) -> Vec<Probe> {
    serde_json::from_slice(&fs::read(job.path("out").join(Probe::FILE)).unwrap()).unwrap()
}

/// Log-probabilities of the probe's completion by a pass over prompt and completion at once.
fn by_one_pass(model: &CausalLm, adapter: Option<&Adapter>, probe: &Probe) -> Vec<f64> {
    let _guard = tch::no_grad_guard();
    let tokens = [&probe.prompt[..], &probe.completion].concat();
    let batch = PackedBatch::new(&tokens, &[tokens.len()], Device::Cpu).unwrap();
    let hidden = model.hidden(&batch, adapter, None).unwrap();
    let scores = model.adapted_logits(&hidden, adapter, None).unwrap();
    let scores = scores.log_softmax(-1, Kind::Double);
    let first = probe.prompt.len() as i64 - 1;
    let places = probe.completion.iter().enumerate();
    places
        .map(|(place, token)| scores.double_value(&[first + place as i64, i64::from(*token)]))
        .collect()
}

#[test]
fn probes_say_what_adapter_and_base_answer() {
    let job = job();
    job.finish();
    let probes = probes(&job);
    assert!((3..=4).contains(&probes.len()), "{probes:?}");
    let base = golden("llama").join("base");
    let model = CausalLm::load(&base, Device::Cpu, Precision::uniform(Kind::Float)).unwrap();
    let adapter = Adapter::load(&job.path("out"), model.config(), Device::Cpu).unwrap();
    let mut effect: f64 = 0.0;
    for probe in &probes {
        assert!(probe.prompt.len() <= 64 && probe.completion.len() <= Probe::MOST_TOKENS);
        let adapted = by_one_pass(&model, Some(&adapter), probe);
        let plain = by_one_pass(&model, None, probe);
        for (found, wanted) in [(&probe.logprobs, &adapted), (&probe.base_logprobs, &plain)] {
            assert_eq!(found.len(), probe.completion.len());
            for (found, wanted) in found.iter().zip(wanted) {
                assert!((found - wanted).abs() < 1e-4, "{found} {wanted}");
            }
        }
        effect = effect.max((adapted[0] - plain[0]).abs());
    }
    assert!(effect > 0.01, "the adapter acts: {effect}");
}

#[test]
fn a_resumed_run_leaves_the_same_probes() {
    let unbroken = job();
    unbroken.finish();
    let mut resumed = job();
    let first = unbroken.path("out").join("checkpoints");
    let mut checkpoints: Vec<_> = fs::read_dir(first)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    checkpoints.sort();
    resumed.set("resume", checkpoints[0].to_str().unwrap());
    resumed.finish();
    assert_eq!(unbroken.adapter_bytes(), resumed.adapter_bytes());
    let bytes = |job: &Job| fs::read(job.path("out").join(Probe::FILE)).unwrap();
    assert_eq!(bytes(&unbroken), bytes(&resumed));
}

#[test]
fn each_checkpoint_has_the_probes_of_its_own_adapter() {
    let job = job();
    job.finish();
    let base = golden("llama").join("base");
    let model = CausalLm::load(&base, Device::Cpu, Precision::uniform(Kind::Float)).unwrap();
    for step in ["step-00000003", "step-00000006"] {
        let folder = job.path("out").join("checkpoints").join(step);
        let adapter = Adapter::load(&folder, model.config(), Device::Cpu).unwrap();
        let recorded = Probe::parse_list(&fs::read(folder.join(Probe::FILE)).unwrap()).unwrap();
        assert_eq!(recorded.len(), probes(&job).len());
        for probe in &recorded {
            let adapted = by_one_pass(&model, Some(&adapter), probe);
            for (found, wanted) in probe.logprobs.iter().zip(adapted) {
                assert!((found - wanted).abs() < 1e-4, "{step}: {found} {wanted}");
            }
        }
        if step == "step-00000006" {
            assert_eq!(recorded, probes(&job), "the last one is what is delivered");
        }
    }
}

fn merge(base: &Path, job: &Job, more: &[&str]) -> Output {
    let mut command = executable();
    command.arg("merge").arg("--base").arg(base);
    command.arg("--adapter").arg(job.path("out"));
    command.arg("--out").arg(job.path("merged")).args(more);
    command.stdin(Stdio::null()).output().unwrap()
}

fn verification(job: &Job) -> Verification {
    serde_json::from_slice(&fs::read(job.path("merged").join(VERIFICATION_FILE)).unwrap()).unwrap()
}

#[test]
fn a_merged_model_has_the_names_of_the_base_and_the_scores_of_the_adapter() {
    let job = job();
    job.finish();
    let base = golden("llama").join("base");
    let output = merge(&base, &job, &["--max-shard-bytes", "60000"]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let merged = job.path("merged");
    let index: Value =
        serde_json::from_slice(&fs::read(merged.join("model.safetensors.index.json")).unwrap()).unwrap();
    let places = index["weight_map"].as_object().unwrap();
    let wanted = MappedFile::open(&base.join("model.safetensors")).unwrap();
    let mut names: Vec<&String> = places.keys().collect();
    names.sort();
    assert_eq!(names, wanted.names().iter().collect::<Vec<_>>());
    let mut files: Vec<&str> = places.values().map(|file| file.as_str().unwrap()).collect();
    files.sort_unstable();
    files.dedup();
    assert!(
        files.len() > 1 && files[0].starts_with("model-00001-of-"),
        "{files:?}"
    );
    let bytes: u64 = names
        .iter()
        .map(|name| 4 * wanted.shape(name).unwrap().iter().product::<i64>() as u64)
        .sum();
    assert_eq!(index["metadata"]["total_size"], json!(bytes));
    assert!(merged.join("tokenizer.json").is_file());
    let found = verification(&job);
    assert!(found.max_logit_difference <= found.tolerance);
    assert!(
        found.adapter_effect > 100.0 * found.tolerance,
        "the merge carries the adapter: {found:?}"
    );
    assert_eq!(found.rounded_logit_difference, found.max_logit_difference);
    // In another format: proved before the rounding just as sharply, and the rounding is measured.
    let output = merge(&base, &job, &["--dtype", "bfloat16"]);
    assert!(output.status.success());
    let file = MappedFile::open(&merged.join("model.safetensors")).unwrap();
    assert_eq!(file.kind("model.norm.weight").unwrap(), Kind::BFloat16);
    assert!(!merged.join("model.safetensors.index.json").exists());
    let rounded = verification(&job);
    assert_eq!(
        (rounded.dtype.as_str(), rounded.equal_tensors),
        ("bfloat16", names.len())
    );
    assert_eq!(
        (rounded.max_logit_difference, rounded.tolerance),
        (found.max_logit_difference, found.tolerance)
    );
    assert!(
        rounded.rounded_logit_difference > rounded.tolerance,
        "{rounded:?}"
    );
}

#[test]
fn an_adapter_of_the_head_unties_the_merged_model() {
    let base = golden("llama").join("base");
    let config = ModelConfig::from_folder(&base).unwrap();
    let mut job = job();
    job.set("targets", "q_proj,embed_tokens,lm_head");
    job.finish();
    let output = merge(&base, &job, &[]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let merged = ModelConfig::from_folder(&job.path("merged")).unwrap();
    assert!(!merged.tie_word_embeddings);
    let file = MappedFile::open(&job.path("merged/model.safetensors")).unwrap();
    assert!(
        file.contains("lm_head.weight"),
        "tied before: {}",
        config.tie_word_embeddings
    );
}

#[test]
fn a_merge_without_an_adapter_or_a_base_says_so_and_leaves_nothing() {
    let job = job();
    let output = merge(&golden("llama").join("base"), &job, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("adapter_config.json"));
    assert!(!job.path("merged").exists());
}
