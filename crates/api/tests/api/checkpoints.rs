//! Checkpoints that become versions, over HTTP.

use serde_json::{Value, json};
use tunesmith_blobs::BlobKey;
use tunesmith_blobs::keys::RunPlace;
use tunesmith_store::files::StoredFile;
use tunesmith_store::manifest::canonical_digest;
use tunesmith_store::queue::{self, ClaimedJob, NewCheckpoint};

use crate::jobs::{ready, request};
use crate::support::{App, claim, finish_job, metric};

/// A safetensors file with one LoRA pair of `value`.
fn adapter(value: f32) -> Vec<u8> {
    let header = json!({
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight":
            {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]},
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight":
            {"dtype": "F32", "shape": [2, 1], "data_offsets": [8, 16]},
    })
    .to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    for number in [0.5, -0.5, 1.0, value] {
        file.extend_from_slice(&f32::to_le_bytes(number));
    }
    file
}

/// What the adapter of a checkpoint answers.
fn probes() -> Value {
    json!([{"prompt": [1, 2], "completion": [3], "logprobs": [-0.5], "base_logprobs": [-2.5]}])
}

/// Saves a checkpoint, as a worker does.
async fn save(app: &App, job: &ClaimedJob, step: u64, rank: u32, value: f32) {
    save_with(app, job, step, rank, value, Some(probes())).await;
}

async fn save_with(app: &App, job: &ClaimedJob, step: u64, rank: u32, value: f32, probes: Option<Value>) {
    let place = RunPlace {
        job: job.token.job_id,
        epoch: job.token.epoch,
        lease: job.token.lease_id,
    };
    let config = json!({"peft_type": "LORA", "r": rank}).to_string().into_bytes();
    let mut contents = vec![
        ("adapter_config.json", config),
        ("adapter_model.safetensors", adapter(value)),
        ("optimizer.safetensors", b"moments".to_vec()),
        ("state.json", b"{}".to_vec()),
    ];
    contents.extend(probes.map(|probes| ("probes.json", probes.to_string().into_bytes())));
    let mut files = Vec::new();
    for (name, content) in contents {
        let key = BlobKey::checkpoint_file(place, step, name).unwrap();
        let stored = app.state.blobs.put_bytes(&key, content).await.unwrap();
        files.push(StoredFile {
            name: name.to_owned(),
            key: key.to_string(),
            sha256: stored.sha256.to_string(),
            bytes: stored.bytes,
        });
    }
    let checkpoint = NewCheckpoint {
        step: i64::try_from(step).unwrap(),
        files,
        config_hash: "c".repeat(64),
    };
    queue::record_checkpoint(&app.state.store, &job.token, &checkpoint)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_kept_checkpoint_becomes_a_version_once() {
    let app = App::start().await;
    let client = ready(&app, "first").await;
    let job = client.post("/v1/jobs", &request("boxes")).await.ok(201);
    let claimed = claim(&app.state).await;
    let rank = u32::try_from(job["hyperparameters"]["rank"].as_u64().unwrap()).unwrap();
    queue::record_metrics(
        &app.state.store,
        &claimed.token,
        &[metric(1), metric(2), metric(3)],
    )
    .await
    .unwrap();
    save(&app, &claimed, 2, rank, 1.0).await;
    save(&app, &claimed, 3, rank, f32::NAN).await;
    save(&app, &claimed, 4, rank + 1, 1.0).await;
    save_with(&app, &claimed, 6, rank, 1.0, Some(json!([{"prompt": []}]))).await;
    save_with(&app, &claimed, 7, rank, 1.0, None).await;
    let checkpoints = format!("/v1/jobs/{}/checkpoints", job["id"].as_str().unwrap());
    let publish = |step: &str| format!("{checkpoints}/{step}/publish");

    let version = client.post(&publish("2"), &json!({})).await.ok(201);
    assert_eq!(
        (
            &version["reference"],
            &version["checkpoint_step"],
            &version["job_id"]
        ),
        (&json!("boxes@1"), &json!(2), &job["id"])
    );
    let manifest = &version["manifest"];
    assert_eq!(manifest["probes"], probes());
    assert_eq!(
        (
            &manifest["job"],
            &manifest["checkpoint_step"],
            &manifest["parent_version"]
        ),
        (&job["id"], &json!(2), &Value::Null)
    );
    for field in [
        "base_digest",
        "tokenizer_digest",
        "template_digest",
        "dataset_sha256",
        "hyperparameters",
    ] {
        assert!(!manifest[field].is_null(), "{field}");
    }
    assert_eq!(
        (&manifest["metrics"]["steps"], &manifest["metrics"]["train_loss"]),
        (&json!(2), &json!(1.0))
    );
    assert_eq!(canonical_digest(manifest).as_str(), version["digest"]);
    let files = client.get("/v1/adapters/boxes/versions/1/files").await.ok(200);
    let names: Vec<_> = files["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["adapter_config.json", "adapter_model.safetensors"]);

    assert_eq!(client.post(&publish("2"), &json!({})).await.ok(200), version);
    client
        .post(&publish("2"), &json!({"adapter": "other"}))
        .await
        .fails(409, "checkpoint_published", Some("adapter"));
    for step in ["3", "4", "6"] {
        client
            .post(&publish(step), &json!({}))
            .await
            .fails(409, "checkpoint_invalid", None);
    }
    for step in ["5", "-1", "x"] {
        client
            .post(&publish(step), &json!({}))
            .await
            .fails(404, "checkpoint_not_found", None);
    }
    client.post(&publish("2"), &json!({"adapter": "No"})).await.fails(
        400,
        "invalid_parameter",
        Some("adapter"),
    );

    // One of an older trainer, without probes.
    let older = client
        .post(&publish("7"), &json!({"adapter": "older"}))
        .await
        .ok(201);
    assert_eq!(older["manifest"]["probes"], json!([]));

    // The job's own version comes after it, and one call shows all.
    finish_job(&app.state, &claimed).await;
    let lineage = client
        .get(&format!("/v1/jobs/{}/lineage", job["id"].as_str().unwrap()))
        .await
        .ok(200);
    let made: Vec<_> = lineage["versions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|version| (&version["reference"], &version["checkpoint_step"]))
        .collect();
    assert_eq!(
        made,
        [
            (&json!("boxes@1"), &json!(2)),
            (&json!("older@1"), &json!(7)),
            (&json!("boxes@2"), &Value::Null)
        ]
    );
    client.delete("/v1/adapters/boxes/versions/1").await.ok(200);
    client
        .post(&publish("2"), &json!({}))
        .await
        .fails(410, "version_deleted", None);
    // The job may still resume from it.
    let kept = tunesmith_store::checkpoints::find(
        &app.state.store,
        claimed.organization_id,
        claimed.token.job_id,
        2,
    )
    .await
    .unwrap();
    for file in kept.files {
        let key = file.key.parse().unwrap();
        assert!(
            app.state.blobs.head(&key).await.unwrap().is_some(),
            "{}",
            file.name
        );
    }
}
