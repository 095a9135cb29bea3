//! Exports are asked for once, and have files only when a worker has made them.

use std::time::Duration;

use serde_json::json;
use tunesmith_store::exports;

use crate::jobs::{ready, request};
use crate::support::{App, claim, finish_job};

const PATH: &str = "/v1/adapters/boxes/versions/1/exports";

#[tokio::test]
async fn an_export_is_asked_for_once_and_taken_home() {
    let app = App::start().await;
    let client = ready(&app, "first").await;
    client.post("/v1/jobs", &request("boxes")).await.ok(201);
    finish_job(&app.state, &claim(&app.state).await).await;

    let asked = client.post(PATH, &json!({"format": "gguf"})).await.ok(202);
    assert_eq!(
        (&asked["status"], &asked["dtype"], &asked["version"]),
        (&json!("queued"), &json!("float32"), &json!("boxes@1"))
    );
    let again = json!({"format": "gguf", "dtype": "float32"});
    assert_eq!(client.post(PATH, &again).await.ok(202), asked);
    let path = format!("/v1/exports/{}", asked["id"].as_str().unwrap());
    assert_eq!(client.get(&path).await.ok(200), asked);
    let early = client.get(&format!("{path}/files")).await;
    assert_eq!(early.status, 409, "{}", early.body);

    let minute = Duration::from_secs(60);
    let claimed = exports::claim(&app.state.store, minute, minute, "worker").await;
    let claimed = claimed.unwrap().unwrap();
    let files = &claimed.version.files;
    exports::complete(
        &app.state.store,
        &claimed.token,
        files,
        &json!({"method": "none"}),
    )
    .await
    .unwrap();
    let files = client.get(&format!("{path}/files")).await.ok(200);
    for file in files["data"].as_array().unwrap() {
        let answer = reqwest::get(file["url"].as_str().unwrap()).await.unwrap();
        assert!(answer.status().is_success());
    }
    let listed = client.get(PATH).await.ok(200);
    assert_eq!(listed["data"][0]["status"], "succeeded");
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_form_that_does_not_go_with_its_number_format_is_refused() {
    let app = App::start().await;
    let client = ready(&app, "first").await;
    client.post("/v1/jobs", &request("boxes")).await.ok(201);
    finish_job(&app.state, &claim(&app.state).await).await;
    for body in [
        json!({"format": "gguf", "dtype": "bfloat16"}),
        json!({"format": "peft", "dtype": "float16"}),
        json!({"format": "onnx"}),
        json!({"format": "peft", "shards": 2}),
        json!({}),
    ] {
        let answer = client.post(PATH, &body).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.body);
    }
    let absent = "/v1/adapters/boxes/versions/2/exports";
    let answer = client.post(absent, &json!({"format": "peft"})).await;
    assert_eq!(answer.status, 404, "{}", answer.body);
}
