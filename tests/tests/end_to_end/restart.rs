//! `tunesmith up` ends, gently or not, in the middle of a job; the next start goes on where it was.

use crate::support::{Platform, chat_lines, train_request};

async fn job_survives(ended_hard: bool) {
    let folder = tempfile::tempdir().unwrap();
    let first = Platform::start_in(folder.path()).await;
    first
        .client
        .register_base_model("tiny", &crate::support::tiny_base_model())
        .await;
    first.client.upload("data", &chat_lines(40)).await;
    let job = first
        .client
        .post("/v1/jobs", &train_request("data", "survivor", 1500, 50))
        .await
        .ok();
    let job = job["id"].as_str().unwrap();
    first.client.reach_step(job, 100).await;
    if ended_hard {
        first.kill().await
    } else {
        first.stop().await
    }

    let second = Platform::start_in(folder.path()).await;
    let job = second.client.finish(job).await;
    assert_eq!(job["status"], "succeeded", "{job}");
    let events = second
        .client
        .get(&format!(
            "/v1/jobs/{}/events?limit=100",
            job["id"].as_str().unwrap()
        ))
        .await
        .ok();
    assert!(events.to_string().contains("resumed"), "{events}");
    let versions = second.client.get("/v1/adapters/survivor/versions").await.ok();
    assert_eq!(versions["data"].as_array().unwrap().len(), 1, "{versions}");
    let metrics = second
        .client
        .get(&format!(
            "/v1/jobs/{}/metrics?limit=100",
            job["id"].as_str().unwrap()
        ))
        .await
        .ok();
    assert!(!metrics["data"].as_array().unwrap().is_empty());
    second.stop().await;
}

#[tokio::test]
async fn a_job_goes_on_after_a_restart() {
    job_survives(false).await;
}

#[tokio::test]
async fn a_job_goes_on_after_kill_9() {
    job_survives(true).await;
}

#[tokio::test]
async fn a_second_start_on_the_same_data_directory_is_refused() {
    let platform = Platform::start().await;
    let output = std::process::Command::new(crate::support::executable("tunesmith"))
        .args(["up", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(&platform.data_dir)
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(
        words.contains(&platform.pid().to_string()),
        "the message names the running process: {words}"
    );
    platform.client.get("/v1/jobs").await.ok();
    platform.stop().await;
}

#[tokio::test]
async fn secrets_are_readable_by_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let platform = Platform::start().await;
    let secrets: Vec<_> = std::fs::read_dir(&platform.data_dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name().to_string_lossy().contains("secret"))
        .collect();
    assert!(!secrets.is_empty());
    for entry in secrets {
        assert_eq!(
            entry.metadata().unwrap().permissions().mode() & 0o777,
            0o600,
            "{:?}",
            entry.path()
        );
    }
    platform.stop().await;
}
