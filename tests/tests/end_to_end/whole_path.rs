//! A dataset goes in; an adapter is trained, versioned, downloaded, promoted, and answers.

use std::collections::BTreeMap;
use std::io::Read;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{Client, Platform, chat_lines, train_request};

#[tokio::test]
async fn from_a_dataset_to_a_served_adapter() {
    let platform = Platform::start_with_tiny_model().await;
    let client = &platform.client;
    let dataset = client.upload("boxes", &chat_lines(70)).await;
    assert_eq!(dataset["status"], "valid", "{dataset}");

    let job = client
        .post("/v1/jobs", &train_request("boxes", "boxes", 60, 20))
        .await
        .ok();
    assert_eq!(
        job["hyperparameters"]["alpha"], 8.0,
        "every value is decided: {job}"
    );
    let job = client.finish(job["id"].as_str().unwrap()).await;
    assert_eq!(job["status"], "succeeded", "{job}");
    assert_metrics(client, job["id"].as_str().unwrap()).await;

    let version = client.get("/v1/adapters/boxes/versions/1").await.ok();
    assert_eq!(
        version["manifest"]["dataset_sha256"], dataset["sha256"],
        "{version}"
    );
    assert_download(client, &version).await;
    assert_child(client, &version).await;
    assert_deployment(client).await;
    platform.stop().await;
}

async fn assert_metrics(client: &Client, job: &str) {
    let metrics = client
        .get(&format!("/v1/jobs/{job}/metrics?limit=100"))
        .await
        .ok();
    let rows = metrics["data"].as_array().unwrap();
    assert_eq!(rows.len(), 60);
    let loss_at = |step: u64| {
        rows.iter().find(|row| row["step"] == step).unwrap()["loss"]
            .as_f64()
            .unwrap()
    };
    assert!(loss_at(60) < loss_at(1), "{} then {}", loss_at(1), loss_at(60));
    let request = client
        .request("GET", &format!("/v1/jobs/{job}/metrics"))
        .header("accept", "text/event-stream");
    let stream = client.send(request).await;
    let text = stream.body.as_str().unwrap();
    assert_eq!(text.matches("event: metric").count(), 60, "{text}");
    assert!(text.contains("succeeded"), "the stream ends with the job's state");
}

/// Trained further, the adapter begins where it ended, and the registry knows both ends.
async fn assert_child(client: &Client, parent: &Value) {
    let mut request = train_request("boxes", "boxes", 10, 5);
    request["parent_version"] = json!("boxes@latest");
    let job = client.post("/v1/jobs", &request).await.ok();
    assert_eq!(job["parent_version"]["id"], parent["id"], "{job}");
    let job = client.finish(job["id"].as_str().unwrap()).await;
    assert_eq!(job["status"], "succeeded", "{job}");
    let first_loss = async |job: &Value| {
        let path = format!("/v1/jobs/{}/metrics?limit=1", job.as_str().unwrap());
        client.get(&path).await.ok()["data"][0]["loss"].as_f64().unwrap()
    };
    let (fresh, continued) = (first_loss(&parent["job_id"]).await, first_loss(&job["id"]).await);
    assert!(continued < 0.5 * fresh, "{continued} and {fresh}");
    let lineage = client.get("/v1/adapters/boxes/versions/2/lineage").await.ok();
    let versions = &lineage["versions"];
    assert_eq!(versions[0]["children"], json!([versions[1]["id"]]), "{lineage}");
    assert_eq!(versions[1]["parent"], parent["id"], "{lineage}");
    let checkpoint = format!("/v1/jobs/{}/checkpoints/5/publish", job["id"].as_str().unwrap());
    let kept = client.post(&checkpoint, &json!({"adapter": "kept"})).await.ok();
    assert_eq!(kept["parent_version_id"], parent["id"], "{kept}");
    assert!(
        !kept["manifest"]["probes"].as_array().unwrap().is_empty(),
        "{kept}"
    );
}

async fn assert_download(client: &Client, version: &Value) {
    let bytes = client.bytes("/v1/adapters/boxes/versions/1/download").await;
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry
            .path()
            .unwrap()
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        files.insert(name, content);
    }
    let config: Value = serde_json::from_slice(&files["adapter_config.json"]).unwrap();
    assert_eq!(
        (config["peft_type"].as_str(), config["r"].as_u64()),
        (Some("LORA"), Some(4))
    );
    assert!(files.contains_key("adapter_model.safetensors"));
    let links = client.get("/v1/adapters/boxes/versions/1/files").await.ok();
    for link in links["data"].as_array().unwrap() {
        let content = reqwest::get(link["url"].as_str().unwrap())
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap();
        let digest = hex::encode(Sha256::digest(&content));
        assert_eq!(link["sha256"], digest);
        assert_eq!(files[link["name"].as_str().unwrap()], content);
        assert!(version["files"].to_string().contains(&digest), "{version}");
    }
}

async fn assert_deployment(client: &Client) {
    let deployment = client.deploy("boxes", "tiny").await;
    let chat = |model: &str, stream: bool| json!({"model": model, "messages": [{"role": "user", "content": "item 3"}], "max_tokens": 8, "temperature": 0, "stream": stream});
    let tuned = client.post("/v1/chat/completions", &chat("boxes", false)).await;
    assert_eq!(tuned.headers["x-tunesmith-version"], "boxes@1", "{deployment}");
    let tuned = tuned.ok();
    assert_eq!(tuned["model"], "boxes");
    let text = tuned["choices"][0]["message"]["content"].as_str().unwrap();
    let base = client.post("/v1/chat/completions", &chat("tiny", false)).await;
    assert_eq!(base.headers["x-tunesmith-version"], "base");
    assert_ne!(
        base.ok()["choices"][0]["message"]["content"].as_str().unwrap(),
        text
    );

    let streamed = client.post("/v1/chat/completions", &chat("boxes", true)).await;
    let chunks = streamed
        .body
        .as_str()
        .unwrap()
        .lines()
        .filter_map(|line| line.strip_prefix("data: "));
    let mut joined = String::new();
    for chunk in chunks.filter(|chunk| *chunk != "[DONE]") {
        let chunk: Value = serde_json::from_str(chunk).unwrap();
        assert_eq!(chunk["model"], "boxes");
        joined += chunk["choices"][0]["delta"]["content"].as_str().unwrap_or("");
    }
    assert_eq!(joined, text);
    let models = client.get("/v1/models").await.ok().to_string();
    assert!(
        models.contains("\"boxes\"") && models.contains("\"tiny\""),
        "{models}"
    );
}

#[tokio::test]
async fn a_queued_and_a_running_job_are_cancelled() {
    let platform = Platform::start_with_tiny_model().await;
    let client = &platform.client;
    client.upload("data", &chat_lines(40)).await;
    let running = client
        .post("/v1/jobs", &train_request("data", "one", 100_000, 0))
        .await
        .ok();
    let running = running["id"].as_str().unwrap();
    client.reach_step(running, 5).await;
    // Of another number format, so it cannot join the first one's gang.
    let mut request = train_request("data", "two", 10, 0);
    request["hyperparameters"]["dtype"] = json!("bfloat16");
    let queued = client.post("/v1/jobs", &request).await.ok();
    let queued = queued["id"].as_str().unwrap();
    let answer = client
        .post(&format!("/v1/jobs/{queued}/cancel"), &json!({}))
        .await
        .ok();
    assert_eq!(answer["status"], "cancelled");
    client
        .post(&format!("/v1/jobs/{running}/cancel"), &json!({}))
        .await
        .ok();
    let job = client.finish(running).await;
    assert_eq!(job["status"], "cancelled", "{job}");
    assert_eq!(
        client.get("/v1/adapters").await.ok()["data"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
    let again = client
        .post(&format!("/v1/jobs/{running}/cancel"), &json!({}))
        .await;
    assert_eq!(again.status, 409, "{}", again.body);
    assert_eq!(again.headers["x-should-retry"], "false");
    platform.stop().await;
}

#[tokio::test]
async fn an_idempotent_request_makes_one_job() {
    let platform = Platform::start_with_tiny_model().await;
    let client = &platform.client;
    client.upload("data", &chat_lines(40)).await;
    let send = |steps| {
        let request = client
            .request("POST", "/v1/jobs")
            .header("idempotency-key", "once");
        client.send(request.json(&train_request("data", "once", steps, 0)))
    };
    let (first, second) = (send(4).await.ok(), send(4).await.ok());
    assert_eq!(first["id"], second["id"]);
    assert_eq!(send(5).await.status, 422);
    assert_eq!(
        client.get("/v1/jobs").await.ok()["data"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    platform.stop().await;
}
