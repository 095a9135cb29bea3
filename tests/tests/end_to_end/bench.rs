//! `tunesmith bench` against the platform: what it counts is what was answered.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::{Platform, executable};

#[tokio::test]
async fn a_load_is_counted_by_version_and_by_error() {
    let platform = Platform::start_with_tiny_model().await;
    let body = json!({"name": "helpdesk", "base_model": "tiny"});
    platform.client.post("/v1/deployments", &body).await.ok();

    let closed = bench(
        &platform,
        &[
            "tiny",
            "--requests",
            "12",
            "--concurrency",
            "3",
            "--max-tokens",
            "6",
        ],
    )
    .await;
    assert!(closed.status.success(), "{closed:?}");
    let report = report(&closed);
    assert_eq!(
        (&report["requests"], &report["answered"], &report["errors"]),
        (&json!(12), &json!(12), &json!({}))
    );
    assert_eq!(report["versions"], json!({"base": 12}));
    assert_eq!(report["completion_tokens"], json!(12 * 6));
    for times in ["time_to_first_token_ms", "time_per_output_token_ms", "latency_ms"] {
        let (p50, most) = (report[times]["p50"].as_f64(), report[times]["most"].as_f64());
        assert!(
            p50.is_some_and(|p50| p50 > 0.0) && most >= p50,
            "{times}: {report}"
        );
    }
    assert!(report["latency_ms"]["most"].as_f64() >= report["time_to_first_token_ms"]["most"].as_f64());

    // Twenty requests at a thousand a second: all are sent, however slow the answers are.
    let open = bench(
        &platform,
        &["helpdesk", "--requests", "20", "--rate", "1000", "--stream=false"],
    )
    .await;
    let report = self::report(&open);
    assert_eq!(
        (&report["answered"], &report["rate"]),
        (&json!(20), &json!(1000.0))
    );
    assert_eq!(report["time_to_first_token_ms"], Value::Null);

    let unknown = bench(&platform, &["nosuch", "--requests", "4"]).await;
    assert_eq!(unknown.status.code(), Some(1));
    let report = self::report(&unknown);
    assert_eq!(report["errors"], json!({"model_not_found": 4}));
    platform.stop().await;
}

/// `tunesmith bench --json` as the owner of the platform, with prompts that fit the tiny model's context.
async fn bench(platform: &Platform, arguments: &[&str]) -> Output {
    let ready = std::fs::read_to_string(platform.data_dir.join("ready.json")).unwrap();
    let ready: Value = serde_json::from_str(&ready).unwrap();
    let mut command = Command::new(executable("tunesmith"));
    command
        .args([
            "bench",
            "--json",
            "--ignore-eos",
            "--prompt-tokens",
            "3",
            "--base-url",
        ])
        .arg(format!("{}/v1", platform.client.url))
        .args(arguments)
        .env("HOME", &platform.data_dir)
        .env_remove("XDG_CONFIG_HOME")
        .env("TUNESMITH_API_KEY", ready["api_key"].as_str().unwrap());
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}
