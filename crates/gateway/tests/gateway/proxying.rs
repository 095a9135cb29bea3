//! Names, streams, and what other organizations see.

use futures::StreamExt;
use serde_json::json;
use tokio::sync::oneshot;

use crate::bench::{Bench, chat_body, json_of, text};

#[tokio::test]
async fn a_base_model_answers_without_a_deployment() {
    let bench = Bench::start().await;
    let response = bench.chat("primer", json!({})).await;
    assert_eq!(response.headers()["x-tunesmith-version"], "base");
    let (_, answer) = json_of(response).await;
    assert_eq!(answer["model"], "primer");
    assert_eq!(bench.replica.last_body()["model"], crate::vllm::BASE_NAME);
    bench.deploy("plain", None).await;
    bench.settled("plain").await;
    let response = bench.chat("plain", json!({})).await;
    assert_eq!(response.headers()["x-tunesmith-version"], "base");
    bench.stop().await;
}

#[tokio::test]
async fn every_chunk_of_a_stream_carries_the_public_name() {
    let bench = Bench::start().await;
    let version = bench.publish("tone", 1).await;
    bench.deploy("helpdesk", Some(version)).await;
    bench.settled("helpdesk").await;
    let response = bench.chat("helpdesk", json!({"stream": true})).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["x-tunesmith-version"], "tone@1");
    let (_, stream) = text(response).await;
    assert_eq!(stream.matches("\"model\":\"helpdesk\"").count(), 2, "{stream}");
    assert!(
        !stream.contains("tone--") && stream.ends_with("data: [DONE]\n\n"),
        "{stream}"
    );
    bench.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_generation() {
    let bench = Bench::start().await;
    let (guard, gone) = oneshot::channel::<()>();
    bench.replica.faults(|faults| faults.endless = Some(guard));
    let response = bench.chat("primer", json!({"stream": true})).await;
    let mut body = response.into_body().into_data_stream();
    assert!(body.next().await.unwrap().unwrap().starts_with(b"data: "));
    drop(body);
    assert!(
        gone.await.is_err(),
        "the replica drops its side of a closed connection"
    );
    bench.stop().await;
}

#[tokio::test]
async fn another_organization_finds_nothing() {
    let bench = Bench::start().await;
    bench.deploy("helpdesk", None).await;
    bench.settled("helpdesk").await;
    let stranger = bench.stranger().await;
    for model in ["helpdesk", "primer", "nothing", "../x", "tone--v1-00000000"] {
        let response = bench
            .send_as(
                stranger,
                "POST",
                "/v1/chat/completions",
                chat_body(model, json!({})),
            )
            .await;
        let (status, answer) = json_of(response).await;
        assert_eq!(
            (status.as_u16(), answer["error"]["code"].as_str()),
            (404, Some("model_not_found")),
            "{model}"
        );
    }
    let (_, models) = json_of(bench.send_as(stranger, "GET", "/v1/models", json!({})).await).await;
    assert_eq!(models["data"], json!([]));
    let (_, models) = json_of(bench.send("GET", "/v1/models", json!({})).await).await;
    let names: Vec<&str> = models["data"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|model| model["id"].as_str())
        .collect();
    assert_eq!(names, ["helpdesk", "primer"]);
    let (status, _) = json_of(
        bench
            .send_as(stranger, "GET", "/v1/models/helpdesk", json!({}))
            .await,
    )
    .await;
    assert_eq!(status.as_u16(), 404);
    bench.stop().await;
}
