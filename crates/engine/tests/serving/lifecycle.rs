//! Start, health, overload, disconnection and end.

use std::{path::Path, process::Command};

use futures::StreamExt;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{
    golden,
    server::{Server, running},
};

fn endless(stream: bool) -> Value {
    json!({"model": "base", "prompt": "Hello", "max_tokens": 900_000, "ignore_eos": true, "stream": stream})
}

fn terminate(server: &Server) {
    kill(
        Pid::from_raw(i32::try_from(server.id()).unwrap()),
        Signal::SIGTERM,
    )
    .unwrap();
}

#[tokio::test]
async fn a_server_says_that_it_is_there() {
    let server = Server::shared();
    assert_eq!(server.ready["pid"], server.id());
    for path in ["/health", "/ping"] {
        assert_eq!(server.get(path).await.status(), StatusCode::OK);
    }
    let version: Value = server.get("/version").await.json().await.unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    let list: Value = server.get("/v1/models").await.json().await.unwrap();
    assert_eq!(list["object"], "list");
    let base = &list["data"][0];
    assert_eq!(
        (&base["id"], &base["object"], &base["parent"]),
        (&json!("base"), &json!("model"), &Value::Null)
    );
    let metrics = server.get("/metrics").await;
    assert!(
        metrics.headers()["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/plain; version=0.0.4")
    );
    assert!(
        metrics
            .text()
            .await
            .unwrap()
            .contains("vllm:lora_requests_info{max_lora=\"64\"")
    );
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_place() {
    let base = golden::endless("llama");
    let server = Server::start(base.path(), &["--max-sequences", "1", "--max-waiting", "1"]);
    let stream = running(server.post("/v1/completions", &endless(true)).await).await;
    server
        .await_metric("vllm:num_requests_running{model_name=\"base\"} 1")
        .await;
    drop(stream);
    server
        .await_metric("vllm:request_success_total{finished_reason=\"abort\",model_name=\"base\"} 1")
        .await;
    server
        .await_metric("vllm:num_requests_running{model_name=\"base\"} 0")
        .await;
    let short = json!({"model": "base", "prompt": "Hello", "max_tokens": 2});
    server.ask("/v1/completions", &short).await;
}

#[tokio::test]
async fn a_full_queue_is_answered_at_the_door() {
    let base = golden::endless("llama");
    let server = Server::start(base.path(), &["--max-sequences", "1", "--max-waiting", "1"]);
    let running = running(server.post("/v1/completions", &endless(true)).await).await;
    // Headers come when the place in the queue is taken; the text comes when it runs.
    let waiting = server.post("/v1/completions", &endless(true)).await;
    assert_eq!(waiting.status(), StatusCode::OK);
    let refused = server.post("/v1/completions", &endless(false)).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["retry-after"], "1");
    let error: Value = refused.json().await.unwrap();
    assert_eq!(
        (&error["error"]["type"], &error["error"]["code"]),
        (&json!("rate_limit_error"), &json!("queue_full"))
    );
    server
        .await_metric("vllm:num_requests_waiting{model_name=\"base\"} 1")
        .await;
    // The one that runs leaves, the one that waits begins.
    drop(running);
    let _stream = crate::server::running(waiting).await;
}

#[tokio::test]
async fn a_signal_lets_running_requests_end() {
    let base = golden::endless("llama");
    let mut server = Server::start(base.path(), &["--drain-seconds", "60"]);
    let body =
        json!({"model": "base", "prompt": "Hi", "max_tokens": 600, "ignore_eos": true, "stream": true});
    let mut stream = running(server.post("/v1/completions", &body).await).await;
    terminate(&server);
    let mut last = String::new();
    while let Some(text) = stream.next().await {
        last = text.unwrap();
    }
    assert!(last.ends_with("data: [DONE]\n\n"), "{last}");
    assert_eq!(server.wait().code(), Some(0));
}

#[tokio::test]
async fn a_signal_does_not_wait_for_ever() {
    let base = golden::endless("llama");
    let mut server = Server::start(base.path(), &["--drain-seconds", "0"]);
    let stream = running(server.post("/v1/completions", &endless(true)).await).await;
    terminate(&server);
    assert_eq!(server.wait().code(), Some(0));
    let rest: Vec<_> = stream.collect().await;
    assert!(
        rest.last().is_some_and(Result::is_err),
        "the stream is cut, not ended"
    );
}

#[tokio::test]
async fn the_end_of_standard_input_ends_the_server() {
    let base = golden::endless("llama");
    let server = Server::start(base.path(), &[]);
    let _stream = running(server.post("/v1/completions", &endless(true)).await).await;
    assert_eq!(server.abandon().code(), Some(0));
}

#[test]
fn a_base_model_that_cannot_be_loaded_ends_with_a_reason() {
    let empty = tempfile::tempdir().unwrap();
    let broken = golden::endless("llama");
    std::fs::write(broken.path().join("model.safetensors"), b"not a tensor file").unwrap();
    let bad_adapter = format!("a={}", empty.path().display());
    let table: [(&Path, &[&str], &str); 4] = [
        (Path::new("/nowhere"), &[], "cannot open the base model /nowhere"),
        (empty.path(), &[], "tokenizer.json"),
        (broken.path(), &[], "the base model cannot be loaded"),
        (
            &golden::folder("llama", "base"),
            &["--adapter", &bad_adapter],
            "cannot load the adapter a",
        ),
    ];
    for (base, arguments, words) in table {
        let output = Command::new(env!("CARGO_BIN_EXE_tunesmith-engine"))
            .args(["serve", "--listen", "127.0.0.1:0", "--base"])
            .arg(base)
            .args(arguments)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(words), "{text}");
    }
}
