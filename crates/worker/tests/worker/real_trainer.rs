//! The real `tunesmith-trainer`, where it lies beside this test's executable or `TUNESMITH_TRAINER` names it (`make
//! test` builds it). What a drain interrupted ends with the same bytes as what nothing interrupted.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;
use tunesmith_store::{adapters::AdapterVersion, checkpoints, metrics};
use tunesmith_types::{
    hyperparameters::{HyperparametersRequest, TrainingDtype},
    ids::JobId,
    states::{JobState, RunOutcome},
};
use tunesmith_worker::WorkerSettings;

use crate::support::{BaseModelFiles, Platform};

pub(crate) fn trainer() -> Option<PathBuf> {
    let beside = std::env::current_exe()
        .unwrap()
        .ancestors()
        .nth(2)?
        .join("tunesmith-trainer");
    let named = std::env::var_os("TUNESMITH_TRAINER").map(PathBuf::from);
    named.or(Some(beside)).filter(|path| path.is_file())
}

pub(crate) fn examples() -> String {
    let animals = ["cat", "dog", "owl", "fox", "hen", "bee", "ant", "cow"];
    let lines = animals.iter().map(|animal| {
        let messages = json!([
            {"role": "user", "content": format!("What is the {animal} in?")},
            {"role": "assistant", "content": format!("The {animal} is in the box.")},
        ]);
        json!({"messages": messages}).to_string() + "\n"
    });
    lines.collect()
}

/// A model of two small layers with random weights.
pub(crate) fn make_base_model(trainer: &Path, folder: &Path) -> BaseModelFiles {
    let file = |name: &str| folder.join(name);
    std::fs::write(file("data.jsonl"), examples()).unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 320, "hidden_size": 32,
        "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "hidden_act": "silu", "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "attention_bias": false, "mlp_bias": false, "tie_word_embeddings": true, "initializer_range": 0.02,
        "torch_dtype": "float32",
    });
    std::fs::write(file("config.json"), config.to_string()).unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new(trainer)
            .args(arguments)
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    run(&[
        "tokenizer",
        "--data",
        "data.jsonl",
        "--vocab-size",
        "320",
        "--out",
        "tokenizer",
    ]);
    run(&[
        "init",
        "--config",
        "config.json",
        "--tokenizer",
        "tokenizer/tokenizer.json",
        "--out",
        "base",
    ]);
    for name in ["tokenizer_config.json", "chat_template.jinja"] {
        let source = folder.join("tokenizer").join(name);
        if source.exists() {
            std::fs::copy(source, folder.join("base").join(name)).unwrap();
        }
    }
    BaseModelFiles::read(&folder.join("base"))
}

pub(crate) fn settings(platform: &Platform, name: &str, trainer: &Path) -> WorkerSettings {
    let mut settings = platform.settings(name);
    settings.trainer.program = trainer.to_owned();
    settings.trainer.devices = vec!["cpu".into()];
    settings.trainer.threads = Some(1);
    // Company may change the last bits of a sum.
    settings.gang.most_jobs = 1;
    settings
}

async fn queue(platform: &Platform) -> JobId {
    queue_with_rank(platform, 2).await
}

async fn queue_with_rank(platform: &Platform, rank: u32) -> JobId {
    let request = HyperparametersRequest {
        rank: Some(rank),
        dropout: Some(0.1),
        max_steps: Some(400),
        batch_size: Some(4),
        checkpoint_every: Some(20),
        eval_fraction: Some(0.125),
        max_seq_len: Some(128),
        dtype: Some(TrainingDtype::Float32),
        ..Default::default()
    };
    platform.queue_dataset(examples(), &request, 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_job_ends_with_the_bytes_of_an_unbroken_one() {
    let Some(trainer) = trainer() else { return };
    let folder = tempfile::tempdir().unwrap();
    let platform = Platform::start_with(make_base_model(&trainer, folder.path())).await;

    let interrupted = queue(&platform).await;
    let first = platform.work(settings(&platform, "first", &trainer));
    platform.until_event(interrupted, "checkpoint").await;
    first.drain().await;
    let row = platform.job(interrupted).await;
    assert_eq!(
        (row.state, row.attempts),
        (JobState::Queued, 0),
        "{:?}",
        row.error
    );

    let second = platform.work(settings(&platform, "second", &trainer));
    let unbroken = queue(&platform).await;
    for job in [interrupted, unbroken] {
        let row = platform.ended(job).await;
        assert_eq!(
            (row.state, row.step),
            (JobState::Succeeded, 400),
            "{:?}",
            row.error
        );
    }
    let runs = platform.runs(interrupted).await;
    let outcomes: Vec<_> = runs.iter().map(|run| run.outcome.unwrap()).collect();
    assert_eq!(outcomes, [RunOutcome::Released, RunOutcome::Succeeded]);
    assert!(runs[1].resumed_from_step.unwrap() >= 20);

    let versions = platform.versions().await;
    assert_eq!(versions.len(), 2);
    let digests = |index: usize| {
        versions[index]
            .files
            .iter()
            .map(|file| &file.sha256)
            .collect::<Vec<_>>()
    };
    assert_eq!(digests(0), digests(1), "both files, byte for byte");
    second.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_a_gang_are_drained_and_go_on_together() {
    let Some(trainer) = trainer() else { return };
    let folder = tempfile::tempdir().unwrap();
    let platform = Platform::start_with(make_base_model(&trainer, folder.path())).await;
    let mut jobs = Vec::new();
    for rank in [2, 4, 8] {
        jobs.push(queue_with_rank(&platform, rank).await);
    }
    let together = |name: &str| {
        let mut settings = settings(&platform, name, &trainer);
        settings.gang.most_jobs = 3;
        settings
    };
    let first = platform.work(together("first"));
    for job in &jobs {
        platform.until_event(*job, "checkpoint").await;
    }
    first.drain().await;
    let second = platform.work(together("second"));
    for job in jobs {
        let row = platform.ended(job).await;
        assert_eq!(
            (row.state, row.step, row.attempts),
            (JobState::Succeeded, 400, 0),
            "{:?}",
            row.error
        );
        let runs = platform.runs(job).await;
        let outcomes: Vec<_> = runs.iter().map(|run| run.outcome.unwrap()).collect();
        assert_eq!(outcomes, [RunOutcome::Released, RunOutcome::Succeeded]);
        assert!(runs[1].resumed_from_step.unwrap() >= 20);
    }
    assert_eq!(platform.versions().await.len(), 3);
    second.drain().await;
}

/// Eleven checkpoints with dropout, of a job that begins with `parent`.
fn continued() -> HyperparametersRequest {
    HyperparametersRequest {
        rank: Some(2),
        dropout: Some(0.1),
        max_steps: Some(220),
        batch_size: Some(4),
        checkpoint_every: Some(20),
        eval_fraction: Some(0.125),
        eval_every: Some(20),
        load_best_model_at_end: Some(true),
        max_seq_len: Some(128),
        dtype: Some(TrainingDtype::Float32),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_begins_with_the_adapter_of_a_version_and_resumes_with_it() {
    let Some(trainer) = trainer() else { return };
    let folder = tempfile::tempdir().unwrap();
    let platform = Platform::start_with(make_base_model(&trainer, folder.path())).await;
    let first = platform.work(settings(&platform, "first", &trainer));
    let parent = queue(&platform).await;
    assert_eq!(platform.ended(parent).await.state, JobState::Succeeded);
    let parent = platform.versions().await.remove(0);

    let interrupted = platform.queue_child(parent.id, examples(), &continued()).await;
    platform.until_event(interrupted, "checkpoint").await;
    first.drain().await;
    assert_eq!(platform.job(interrupted).await.state, JobState::Queued);
    let kept = checkpoints::list(platform.store(), platform.organization, interrupted, 1)
        .await
        .unwrap();
    for extra in ["best.safetensors", "probes.json"] {
        assert!(kept[0].files.iter().any(|file| file.name == extra), "{extra}");
    }
    let second = platform.work(settings(&platform, "second", &trainer));
    let unbroken = platform.queue_child(parent.id, examples(), &continued()).await;
    let mut made = Vec::new();
    for job in [interrupted, unbroken] {
        let row = platform.ended(job).await;
        assert_eq!(row.state, JobState::Succeeded, "{:?}", row.error);
        let versions = platform.versions().await;
        made.push(
            versions
                .into_iter()
                .find(|version| version.job_id == Some(job))
                .unwrap(),
        );
    }
    let digests = |version: &AdapterVersion| -> Vec<String> {
        version.files.iter().map(|file| file.sha256.clone()).collect()
    };
    assert_eq!(digests(&made[0]), digests(&made[1]), "both files, byte for byte");
    let runs = platform.runs(interrupted).await;
    assert!(runs[1].resumed_from_step.unwrap() >= 20, "not from the beginning");
    for version in &made {
        assert_eq!(version.manifest["parent_version"], json!(parent.id));
        assert_eq!(version.parent_version_id, Some(parent.id));
    }
    let metrics = metrics::list(platform.store(), platform.organization, unbroken, None, 1)
        .await
        .unwrap();
    let (first, last) = (
        metrics[0].loss.unwrap(),
        parent.metrics["train_loss"].as_f64().unwrap(),
    );
    assert!(first < 2.0 * last, "{first} after {last}: it does not begin anew");
    second.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_whose_bytes_differ_is_not_trained_further() {
    let platform = Platform::start().await;
    let worker = platform.work(platform.settings("one"));
    let script = json!({"total": 2, "fresh": [["start"], ["finish"]]});
    platform.ended(platform.queue(script.clone()).await).await;
    let parent = platform.versions().await.remove(0);
    let file = &parent.files[0];
    let key = file.key.parse().unwrap();
    platform
        .blobs
        .client()
        .put_bytes(&key, b"other bytes".to_vec())
        .await
        .unwrap();
    let lines = format!("{script}\n");
    let job = platform.queue_child(parent.id, lines, &continued()).await;
    let error = platform.ended(job).await.error.unwrap();
    assert_eq!(error.code, "blob_corrupt");
    assert!(error.message.contains("support@1"), "{}", error.message);
    worker.drain().await;
}
