//! The fast path of an adapter that has all the traffic.

use futures::future::join_all;
use serde_json::{Value, json};

use crate::{golden, server::Server};

const COMPLETIONS: &str = "/v1/completions";
/// Largest difference that rounding makes in a log-probability.
const TOLERANCE: f64 = 1e-4;

async fn logprobs(server: &Server, model: &str, seed: Option<u64>, tokens: usize) -> Vec<f64> {
    let mut body = json!({
        "model": model, "prompt": "Hello, where is it?", "temperature": 0, "max_tokens": tokens, "ignore_eos": true,
        "logprobs": 1
    });
    if let Some(seed) = seed {
        body["seed"] = seed.into();
    }
    let answer = server.ask(COMPLETIONS, &body).await;
    let values = answer["choices"][0]["logprobs"]["token_logprobs"]
        .as_array()
        .unwrap();
    values.iter().map(|value| Value::as_f64(value).unwrap()).collect()
}

async fn merged_steps(server: &Server) -> usize {
    let metrics = server.get("/metrics").await.text().await.unwrap();
    let name = "tunesmith_engine_merged_steps_total{";
    let line = metrics.lines().find(|line| line.starts_with(name)).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn start(arguments: &[&str]) -> Server {
    let adapters = [("tuned", "adapter"), ("other", "training/final-adapter")]
        .map(|(name, path)| format!("{name}={}", golden::folder("llama", path).display()));
    let adapters = adapters.iter().flat_map(|adapter| ["--adapter", adapter]);
    let arguments: Vec<&str> = adapters.chain(arguments.iter().copied()).collect();
    Server::start(&golden::folder("llama", "base"), &arguments)
}

#[tokio::test]
async fn an_adapter_alone_is_merged_and_a_seed_keeps_clear_of_it() {
    let server = start(&[]);
    let exact = logprobs(&server, "tuned", Some(1), 20).await;
    let other = logprobs(&server, "other", Some(1), 20).await;
    assert_ne!(exact, other);
    assert_eq!(merged_steps(&server).await, 0);
    logprobs(&server, "tuned", None, 100).await;
    let merged = merged_steps(&server).await;
    assert!(merged > 0, "no step was merged");

    for (fast, slow) in logprobs(&server, "tuned", None, 20).await.iter().zip(&exact) {
        assert!((fast - slow).abs() <= TOLERANCE, "{fast} is not {slow}");
    }
    let after = merged_steps(&server).await;
    assert!(after > merged);
    assert_eq!(logprobs(&server, "tuned", Some(1), 20).await, exact);
    assert_eq!(merged_steps(&server).await, after, "a seed is served as ever");

    let mixed =
        join_all(["tuned", "other", "tuned", "other"].map(|name| logprobs(&server, name, None, 20))).await;
    for (found, expected) in mixed.iter().zip([&exact, &other, &exact, &other]) {
        let differences = found
            .iter()
            .zip(expected)
            .map(|(found, expected)| (found - expected).abs());
        assert!(differences.fold(0.0, f64::max) <= TOLERANCE, "adapters are mixed");
    }
}

#[tokio::test]
async fn merged_weights_go_with_their_adapter() {
    let server = start(&[]);
    let other = logprobs(&server, "other", Some(1), 20).await;
    logprobs(&server, "tuned", None, 100).await;
    assert!(merged_steps(&server).await > 0);
    assert!(server.unload("tuned").await.status().is_success());
    let folder = golden::folder("llama", "training/final-adapter");
    assert!(server.load("tuned", &folder).await.status().is_success());
    for (found, expected) in logprobs(&server, "tuned", None, 20).await.iter().zip(&other) {
        assert!((found - expected).abs() <= TOLERANCE, "{found} is not {expected}");
    }
}

#[tokio::test]
async fn without_a_budget_nothing_is_merged() {
    let server = start(&["--merged-bytes", "0"]);
    logprobs(&server, "tuned", None, 100).await;
    assert_eq!(merged_steps(&server).await, 0);
}
