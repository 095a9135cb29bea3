//! kill -9 of the trainer and of the worker in the middle of a job: the job goes on from its last checkpoint and the
//! adapter has the same bytes as that of an unbroken run.

use serde_json::Value;

use crate::support::{Client, Parts, Platform, chat_lines, children_of, kill_hard, train_request};

const STEPS: u64 = 900;

/// sha256 of the weights of version 1 of `adapter`.
async fn weights(client: &Client, adapter: &str) -> Value {
    let version = client
        .get(&format!("/v1/adapters/{adapter}/versions/1"))
        .await
        .ok();
    let files = version["files"].as_array().unwrap();
    files
        .iter()
        .find(|file| file["name"] == "adapter_model.safetensors")
        .unwrap()["sha256"]
        .clone()
}

async fn train(client: &Client, adapter: &str) -> String {
    let job = client
        .post("/v1/jobs", &train_request("data", adapter, STEPS, 40))
        .await
        .ok();
    job["id"].as_str().unwrap().to_owned()
}

async fn assert_resumed(client: &Client, job: &str) {
    let job = client.finish(job).await;
    assert_eq!(job["status"], "succeeded", "{job}");
    let events = client
        .get(&format!(
            "/v1/jobs/{}/events?limit=100",
            job["id"].as_str().unwrap()
        ))
        .await
        .ok();
    assert!(events.to_string().contains("resumed"), "{events}");
}

#[tokio::test]
async fn kill_9_of_the_trainer_changes_no_byte() {
    let platform = Platform::start_with_tiny_model().await;
    let client = &platform.client;
    client.upload("data", &chat_lines(40)).await;
    client.finish(&train(client, "unbroken").await).await;

    let job = train(client, "broken").await;
    client.reach_step(&job, 100).await;
    let trainers = children_of(platform.pid(), "tunesmith-trainer");
    assert_eq!(trainers.len(), 1);
    kill_hard(trainers[0]);
    assert_resumed(client, &job).await;
    assert_eq!(weights(client, "unbroken").await, weights(client, "broken").await);
    platform.stop().await;
}

#[tokio::test]
async fn kill_9_of_the_worker_changes_no_byte() {
    let parts = Parts::start().await;
    let client = &parts.client;
    let worker = parts.start_worker();
    client.upload("data", &chat_lines(40)).await;
    client.finish(&train(client, "unbroken").await).await;

    let job = train(client, "broken").await;
    client.reach_step(&job, 100).await;
    let trainers = children_of(worker.pid(), "tunesmith-trainer");
    assert_eq!(trainers.len(), 1);
    worker.kill().await;
    crate::support::wait_until("the end of the orphaned trainer", || {
        let alive = crate::support::is_alive(trainers[0]);
        async move { (!alive).then_some(()) }
    })
    .await;

    let second = parts.start_worker();
    assert_resumed(client, &job).await;
    assert_eq!(weights(client, "unbroken").await, weights(client, "broken").await);
    second.stop().await;
    parts.stop().await;
}
