//! Exports: made once by whoever holds the lease, and verified before they count.

use std::time::Duration;

use serde_json::json;
use tunesmith_store::{
    StoreError,
    adapters::AdapterVersion,
    exports::{self, Export},
};
use tunesmith_types::{
    hyperparameters::{HyperparametersRequest, TrainingDtype},
    ids::ExportId,
    states::{ExportDtype, ExportFormat, ExportState, JobState},
};

use crate::{
    real_trainer::{examples, make_base_model, settings, trainer},
    support::Platform,
};

async fn request(
    platform: &Platform,
    version: &AdapterVersion,
    format: ExportFormat,
    dtype: ExportDtype,
) -> Export {
    exports::request(platform.store(), platform.organization, version.id, format, dtype)
        .await
        .unwrap()
}

async fn ended(platform: &Platform, export: ExportId) -> Export {
    loop {
        let row = exports::get(platform.store(), platform.organization, export)
            .await
            .unwrap();
        if matches!(row.state, ExportState::Succeeded | ExportState::Failed) {
            return row;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A version that the scripted child has made.
async fn scripted_version(platform: &Platform) -> AdapterVersion {
    let worker = platform.work(platform.settings("trains"));
    let script = json!({"total": 2, "fresh": [["start"], ["steps", 2], ["finish"]]});
    platform.ended(platform.queue(script).await).await;
    worker.drain().await;
    platform.versions().await.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trained_version_is_exported_in_every_form() {
    let Some(trainer) = trainer() else { return };
    let folder = tempfile::tempdir().unwrap();
    let platform = Platform::start_with(make_base_model(&trainer, folder.path())).await;
    let worker = platform.work(settings(&platform, "one", &trainer));
    let hyperparameters = HyperparametersRequest {
        rank: Some(4),
        max_steps: Some(30),
        batch_size: Some(4),
        max_seq_len: Some(128),
        learning_rate: Some(0.01),
        dtype: Some(TrainingDtype::Float32),
        ..Default::default()
    };
    let job = platform.queue_dataset(examples(), &hyperparameters, 1).await;
    let row = platform.ended(job).await;
    assert_eq!(row.state, JobState::Succeeded, "{:?}", row.error);
    let version = platform.versions().await.remove(0);
    assert!(!version.manifest["probes"].as_array().unwrap().is_empty());

    let table = [
        (ExportFormat::Peft, ExportDtype::Auto, "adapter.tar"),
        (ExportFormat::Merged, ExportDtype::Auto, "model.safetensors"),
        (ExportFormat::Merged, ExportDtype::Bfloat16, "model.safetensors"),
        (ExportFormat::Gguf, ExportDtype::Float32, "adapter.gguf"),
        (ExportFormat::Gguf, ExportDtype::Float16, "adapter.gguf"),
    ];
    for (format, dtype, file) in table {
        let asked = request(&platform, &version, format, dtype).await;
        let export = ended(&platform, asked.id).await;
        assert_eq!(
            export.state,
            ExportState::Succeeded,
            "{format}: {:?}",
            export.error
        );
        let file = export.files.iter().find(|found| found.name == file).unwrap();
        let bytes = platform.read(file).await;
        let verification = export.verification.as_ref().unwrap();
        match format {
            ExportFormat::Peft => {
                let text = String::from_utf8_lossy(&bytes);
                assert!(text.contains("library_name: peft") && text.contains("base_model: \"tiny\""));
            }
            ExportFormat::Merged => {
                let number = |field: &str| verification[field].as_f64().unwrap();
                assert!(
                    number("max_logit_difference") <= number("tolerance"),
                    "{verification}"
                );
                assert!(
                    number("adapter_effect") > 10.0 * number("tolerance"),
                    "{verification}"
                );
                assert!(
                    number("tolerance") <= 1.01e-4 * number("largest_logit"),
                    "{verification}"
                );
                assert!(number("equal_tensors") > 10.0, "{verification}");
                assert!(
                    number("rounded_logit_difference") < number("adapter_effect"),
                    "{verification}"
                );
                let names: Vec<&str> = export.files.iter().map(|file| file.name.as_str()).collect();
                for needed in ["config.json", "tokenizer.json", "verification.json"] {
                    assert!(names.contains(&needed), "{names:?}");
                }
            }
            ExportFormat::Gguf => {
                assert!(bytes.starts_with(b"GGUF\x03\0\0\0"));
                assert_eq!(verification["modules"], json!(14));
            }
        }
        assert_eq!(
            request(&platform, &version, format, dtype).await,
            export,
            "made once"
        );
    }
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_whose_worker_went_silent_is_made_by_another_and_counts_once() {
    let platform = Platform::start().await;
    let version = scripted_version(&platform).await;
    let asked = request(&platform, &version, ExportFormat::Peft, ExportDtype::Auto).await;
    let (ttl, grace) = (Duration::from_millis(300), Duration::from_millis(50));
    let silent = exports::claim(platform.store(), ttl, grace, "silent")
        .await
        .unwrap()
        .unwrap();
    assert_eq!((silent.token.export_id, silent.attempts), (asked.id, 1));
    exports::renew(platform.store(), &silent.token, ttl)
        .await
        .unwrap();
    let nobody = exports::claim(platform.store(), ttl, grace, "early")
        .await
        .unwrap();
    assert!(nobody.is_none(), "it is held");

    let mut settings = platform.settings("other");
    settings.queue.takeover_grace = grace;
    let worker = platform.work(settings);
    let export = ended(&platform, asked.id).await;
    assert_eq!(export.state, ExportState::Succeeded, "{:?}", export.error);
    let late = exports::complete(platform.store(), &silent.token, &[], &json!({})).await;
    assert!(matches!(late, Err(StoreError::LeaseLost)));
    let late = exports::renew(platform.store(), &silent.token, ttl).await;
    assert!(matches!(late, Err(StoreError::LeaseLost)));
    worker.drain().await;
    assert_eq!(ended(&platform, asked.id).await, export);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_cannot_be_made_says_why_and_may_be_asked_for_again() {
    let platform = Platform::start().await;
    let version = scripted_version(&platform).await;
    let worker = platform.work(platform.settings("one"));
    // The scripted base model has no architecture.
    let asked = request(&platform, &version, ExportFormat::Gguf, ExportDtype::Float32).await;
    let export = ended(&platform, asked.id).await;
    assert_eq!(export.state, ExportState::Failed);
    assert_eq!(export.error.unwrap().code, "gguf_unsupported");
    assert!(export.files.is_empty());
    worker.drain().await;
    let again = request(&platform, &version, ExportFormat::Gguf, ExportDtype::Float32).await;
    assert_eq!((again.id, again.state), (asked.id, ExportState::Queued));
    assert!(again.error.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_silences_every_worker_fails() {
    let platform = Platform::start().await;
    let version = scripted_version(&platform).await;
    let asked = request(&platform, &version, ExportFormat::Peft, ExportDtype::Auto).await;
    let (ttl, grace) = (Duration::from_millis(1), Duration::ZERO);
    for attempt in 1..=3 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let claimed = exports::claim(platform.store(), ttl, grace, "silent")
            .await
            .unwrap()
            .unwrap();
        assert_eq!(claimed.attempts, attempt);
    }
    let mut settings = platform.settings("last");
    settings.queue.takeover_grace = grace;
    let worker = platform.work(settings);
    let export = ended(&platform, asked.id).await;
    assert_eq!(export.state, ExportState::Failed);
    assert_eq!(export.error.unwrap().code, "poison");
    worker.drain().await;
}
