//! The inference endpoints as OpenAI's clients see them.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::bench::{Bench, json_of, text};

#[tokio::test]
async fn wrong_requests_never_reach_a_replica() {
    let bench = Bench::start().await;
    let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]);
    for (extra, param) in [
        (json!({"messages": []}), "messages"),
        (json!({"messages": image}), "messages[0].content[0].type"),
        (json!({"model": 5}), "model"),
        (json!({"stream": "yes"}), "stream"),
        (json!({"temperature": 3}), "temperature"),
        (json!({"top_logprobs": 2}), "top_logprobs"),
        (json!({"chat_template": "{{ evil }}"}), "chat_template"),
    ] {
        let (status, answer) = json_of(bench.chat("primer", extra).await).await;
        assert_eq!(
            (status.as_u16(), answer["error"]["param"].as_str()),
            (400, Some(param)),
            "{answer}"
        );
        assert_eq!(answer["error"]["type"], "invalid_request_error");
    }
    let answer = bench
        .send("POST", "/v1/completions", json!({"model": "primer"}))
        .await;
    let (status, answer) = json_of(answer).await;
    assert_eq!(
        (status.as_u16(), answer["error"]["param"].as_str()),
        (400, Some("prompt"))
    );
    assert!(!bench.replica.was_asked());
    bench.stop().await;
}

#[tokio::test]
async fn bodies_that_cannot_be_read_have_their_statuses() {
    let bench = Bench::start().await;
    let huge = "x".repeat(17 * 1024 * 1024);
    for (content_type, body, status, code) in [
        ("application/json", "{".to_owned(), 400, "invalid_request"),
        ("application/json", "[]".to_owned(), 400, "invalid_request"),
        ("text/plain", "{}".to_owned(), 415, "unsupported_media_type"),
        ("application/json", format!("\"{huge}\""), 413, "body_too_large"),
    ] {
        let response = bench.send_raw("/v1/chat/completions", content_type, body).await;
        let (found, answer) = json_of(response).await;
        assert_eq!(
            (found.as_u16(), answer["error"]["code"].as_str()),
            (status, Some(code)),
            "{answer}"
        );
    }
    bench.stop().await;
}

#[tokio::test]
async fn answers_have_openais_fields_under_the_public_name() {
    let bench = Bench::start().await;
    let version = bench.publish("tone", 1).await;
    bench.deploy("helpdesk", Some(version)).await;
    bench.settled("helpdesk").await;
    let (status, answer) = json_of(bench.chat("helpdesk", json!({})).await).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        (answer["object"].as_str(), answer["model"].as_str()),
        (Some("chat.completion"), Some("helpdesk"))
    );
    assert_eq!(answer["usage"]["total_tokens"], 7);
    let completion = json!({"model": "helpdesk", "prompt": [1, 2], "max_tokens": 2, "logprobs": 1});
    let (status, answer) = json_of(bench.send("POST", "/v1/completions", completion).await).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        (answer["object"].as_str(), answer["model"].as_str()),
        (Some("text_completion"), Some("helpdesk"))
    );
    assert_eq!(
        answer["choices"][0]["logprobs"]["tokens"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let (_, models) = json_of(bench.send("GET", "/v1/models", Value::Null).await).await;
    assert_eq!(models["object"], "list");
    for model in models["data"].as_array().unwrap() {
        assert!(model["id"].is_string() && model["created"].is_i64() && model["owned_by"].is_string());
        assert_eq!(model["object"], "model");
    }
    let (_, one) = json_of(bench.send("GET", "/v1/models/helpdesk", Value::Null).await).await;
    assert_eq!(
        (one["id"].as_str(), one["parent"].as_str()),
        (Some("helpdesk"), Some("primer"))
    );
    bench.stop().await;
}

#[tokio::test]
async fn a_full_replica_says_when_to_come_back() {
    let bench = Bench::start().await;
    bench.replica.faults(|faults| {
        faults.chat_error = Some((429, json!({"error": {"message": "queue_full"}})));
        faults.retry_after = Some("7");
    });
    let response = bench.chat("primer", json!({})).await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(response.headers()["retry-after"], "7");
    let (_, answer) = json_of(response).await;
    assert_eq!(answer["error"]["type"], "rate_limit_error");
    bench.stop().await;
}

#[tokio::test]
async fn a_model_that_is_being_made_ready_says_when_to_come_back() {
    let bench = Bench::start().await;
    bench
        .replica
        .faults(|faults| faults.stuck.insert("tone--".to_owned()));
    let version = bench.publish("tone", 1).await;
    bench.deploy("helpdesk", Some(version)).await;
    let response = bench.chat("helpdesk", json!({})).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key("retry-after"));
    let (_, answer) = json_of(response).await;
    assert_eq!(answer["error"]["code"], "model_starting");
    bench.stop().await;
}

#[tokio::test]
async fn an_error_within_a_stream_is_an_event_in_our_words() {
    let bench = Bench::start().await;
    for error in [
        json!({"error": {"message": "CUDA error in /opt/vllm/worker.py", "type": "InternalServerError", "code": 500}}),
        json!({"object": "error", "error": "served-base broke", "code": 500}),
    ] {
        bench
            .replica
            .faults(|faults| faults.stream_error = Some(error.clone()));
        let (status, stream) = text(bench.chat("primer", json!({"stream": true})).await).await;
        assert_eq!(status, StatusCode::OK);
        let events: Vec<&str> = stream.split("\n\n").filter(|event| !event.is_empty()).collect();
        let event: Value = serde_json::from_str(events[1].strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(event["error"]["code"], "upstream_error", "{stream}");
        assert!(
            !stream.contains("/opt") && !stream.contains("served-base"),
            "{stream}"
        );
    }
    bench.stop().await;
}

#[tokio::test]
async fn tools_reach_the_replica_and_calls_the_caller() {
    let bench = Bench::start().await;
    let tools = json!([{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]);
    let call = json!({"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}});
    let fields = json!({
        "tools": tools, "tool_choice": "required", "parallel_tool_calls": false,
        "messages": [
            {"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": null, "tool_calls": [call]},
            {"role": "tool", "content": "2", "tool_call_id": "c1"},
        ],
    });
    let (status, answer) = json_of(bench.chat("primer", fields.clone()).await).await;
    assert_eq!(status, StatusCode::OK);
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(
        choice["message"]["tool_calls"][0]["function"],
        json!({"name": "add", "arguments": "{\"a\": 1}"})
    );
    let sent = bench.replica.last_body();
    for field in ["tools", "tool_choice", "parallel_tool_calls"] {
        assert_eq!(sent[field], fields[field]);
    }
    assert_eq!(sent["messages"][1]["tool_calls"][0], call);
    assert_eq!(sent["messages"][2], fields["messages"][2]);

    let (status, stream) = text(
        bench
            .chat("primer", json!({"tools": tools, "stream": true}))
            .await,
    )
    .await;
    assert_eq!(status, StatusCode::OK);
    let chunks: Vec<Value> = stream
        .split("\n\n")
        .filter_map(|event| serde_json::from_str(event.strip_prefix("data: ")?).ok())
        .collect();
    let calls: Vec<&Value> = chunks
        .iter()
        .flat_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"].as_array())
        .map(|calls| &calls[0])
        .collect();
    assert_eq!(
        (&calls[0]["id"], &calls[0]["function"]["name"]),
        (&json!("call_1"), &json!("add"))
    );
    let arguments: String = calls
        .iter()
        .filter_map(|call| call["function"]["arguments"].as_str())
        .collect();
    assert_eq!(arguments, "{\"a\": 1}");
    assert_eq!(
        chunks.last().unwrap()["choices"][0]["finish_reason"],
        "tool_calls"
    );
    assert!(
        stream.ends_with("data: [DONE]\n\n") && stream.contains("\"model\":\"primer\""),
        "{stream}"
    );
    bench.stop().await;
}
