//! More adapters than there is memory for: evicted, read back, and refused where their files are others by then.

use std::path::Path;

use futures::{StreamExt, future::join_all};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    golden,
    server::{Server, running},
};

const COMPLETIONS: &str = "/v1/completions";
const WEIGHTS: &str = "adapter_model.safetensors";

fn greedy(model: &str) -> Value {
    json!({"model": model, "prompt": "Hello", "temperature": 0, "max_tokens": 12, "ignore_eos": true})
}

async fn answer(server: &Server, model: &str) -> String {
    let answer = server.ask(COMPLETIONS, &greedy(model)).await;
    answer["choices"][0]["text"].as_str().unwrap().to_owned()
}

/// The two golden adapters, `tuned` and `other`, where they may be changed.
fn copies() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (name, source) in [("tuned", "adapter"), ("other", "training/final-adapter")] {
        let (source, copy) = (golden::folder("llama", source), root.path().join(name));
        std::fs::create_dir(&copy).unwrap();
        for file in ["adapter_config.json", WEIGHTS] {
            std::fs::copy(source.join(file), copy.join(file)).unwrap();
        }
    }
    root
}

/// A server with room for one adapter, which is `other`; `tuned` is evicted.
async fn crowded(base: &Path, folders: &Path) -> Server {
    // The file is larger than its tensors by the header alone.
    let sizes = ["tuned", "other"].map(|name| folders.join(name).join(WEIGHTS).metadata().unwrap().len());
    let room = sizes.into_iter().max().unwrap().to_string();
    let server = Server::start(base, &["--adapter-cache-bytes", &room]);
    for name in ["tuned", "other"] {
        assert_eq!(
            server.load(name, &folders.join(name)).await.status(),
            StatusCode::OK
        );
    }
    one_is_evicted(&server).await;
    server
}

async fn one_is_evicted(server: &Server) {
    server
        .await_metric("tunesmith_engine_adapters{state=\"evicted\"} 1")
        .await;
}

async fn assert_loads(server: &Server, loads: usize) {
    let metrics = server.get("/metrics").await.text().await.unwrap();
    let line = format!("tunesmith_engine_adapter_loads_total {loads}\n");
    assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
}

async fn refused(server: &Server, model: &str) -> (u16, Value) {
    let response = server.post(COMPLETIONS, &greedy(model)).await;
    let status = response.status().as_u16();
    let error: Value = response.json().await.unwrap();
    (status, error["error"]["code"].clone())
}

#[tokio::test]
async fn two_adapters_take_turns_in_the_room_of_one() {
    let folders = copies();
    let server = crowded(&golden::folder("llama", "base"), folders.path()).await;
    let expected = [
        answer(Server::shared(), "tuned").await,
        answer(Server::shared(), "other").await,
    ];
    assert_ne!(expected[0], expected[1]);
    for _ in 0..3 {
        for (name, expected) in ["tuned", "other"].iter().zip(&expected) {
            assert_eq!(&answer(&server, name).await, expected);
            assert_eq!(server.model_names().await, ["base", "other", "tuned"]);
            one_is_evicted(&server).await;
        }
    }
    // Two at first, and one for each change of turns.
    assert_loads(&server, 8).await;
    server
        .await_metric("tunesmith_engine_adapter_evictions_total 7")
        .await;
    assert_eq!(server.unload("tuned").await.status(), StatusCode::OK);
    assert_eq!(refused(&server, "tuned").await.0, 404);
}

#[tokio::test]
async fn requests_for_an_evicted_adapter_share_one_load() {
    let folders = copies();
    let server = crowded(&golden::folder("llama", "base"), folders.path()).await;
    let expected = [
        answer(Server::shared(), "tuned").await,
        answer(Server::shared(), "base").await,
    ];
    let models = ["tuned", "base"].iter().cycle().take(16);
    let answers = join_all(models.map(|model| answer(&server, model))).await;
    for (number, found) in answers.iter().enumerate() {
        assert_eq!(found, &expected[number % 2]);
    }
    assert_loads(&server, 3).await;
}

#[tokio::test]
async fn changed_files_are_not_read_back() {
    let folders = copies();
    let server = crowded(&golden::folder("llama", "base"), folders.path()).await;
    let (tuned, kept) = (folders.path().join("tuned"), folders.path().join("kept"));
    let expected = answer(Server::shared(), "tuned").await;
    for file in ["adapter_config.json", WEIGHTS] {
        let original = std::fs::read(tuned.join(file)).unwrap();
        let mut changed = original.clone();
        if file == WEIGHTS {
            // The least bit of one value.
            *changed.iter_mut().nth_back(3).unwrap() ^= 1;
        } else {
            changed.push(b'\n');
        }
        std::fs::write(tuned.join(file), changed).unwrap();
        assert_eq!(refused(&server, "tuned").await, (409, json!("adapter_changed")));
        std::fs::write(tuned.join(file), original).unwrap();
    }
    std::fs::rename(&tuned, &kept).unwrap();
    assert_eq!(
        refused(&server, "tuned").await,
        (503, json!("adapter_unreadable"))
    );
    std::fs::rename(&kept, &tuned).unwrap();
    assert_eq!(answer(&server, "tuned").await, expected);
}

#[tokio::test]
async fn what_a_request_runs_on_is_not_evicted() {
    let folders = copies();
    let base = golden::endless("llama");
    let server = crowded(base.path(), folders.path()).await;
    let mut body = greedy("tuned");
    body["max_tokens"] = 900_000.into();
    body["stream"] = true.into();
    let mut stream = running(server.post(COMPLETIONS, &body).await).await;
    one_is_evicted(&server).await;
    // There is room for one, and it is in use.
    let expected = answer(Server::shared(), "other").await;
    for _ in 0..3 {
        assert_eq!(answer(&server, "other").await, expected);
        one_is_evicted(&server).await;
    }
    // Two at first, `tuned` for the stream, and `other` each time.
    assert_loads(&server, 6).await;
    assert!(stream.next().await.unwrap().unwrap().contains("\"text\""));
    drop(stream);
    server
        .await_metric("vllm:num_requests_running{model_name=\"base\"} 0")
        .await;
    assert_eq!(answer(&server, "other").await, expected);
    one_is_evicted(&server).await;
    assert_eq!(
        answer(&server, "tuned").await,
        answer(Server::shared(), "tuned").await
    );
    assert_loads(&server, 8).await;
}
