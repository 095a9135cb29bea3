//! What happens when nothing goes wrong, and when somebody asks to stop.

use serde_json::json;
use tunesmith_store::{jobs, metrics};
use tunesmith_types::states::{JobState, RunOutcome};

use crate::support::{Platform, is_alive};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_publishes_exactly_one_version() {
    let platform = Platform::start().await;
    let worker = platform.work(platform.settings("one"));
    let script = json!({"total": 5, "fresh": [
        ["log", "hello"], ["chatter"], ["start"], ["steps", 3], ["evaluate"], ["checkpoint"], ["finish"],
    ]});
    let job = platform.ended(platform.queue(script).await).await;

    assert_eq!(
        (job.state, job.attempts, job.step, job.total_steps),
        (JobState::Succeeded, 0, 5, Some(5))
    );
    let versions = platform.versions().await;
    assert_eq!(versions.len(), 1);
    let version = &versions[0];
    assert_eq!(version.job_id, Some(job.id));
    assert!(platform.weights(version).await.ends_with(&5_f32.to_le_bytes()));
    let manifest = &version.manifest;
    assert_eq!(manifest["job"], json!(job.id));
    assert_eq!(manifest["base_digest"], json!("1".repeat(64)));
    assert_eq!(manifest["files"].as_array().unwrap().len(), 2);
    assert_eq!(version.metrics["steps"], 5);
    assert_eq!(version.metrics["eval_token_accuracy"], 0.25);

    let rows = metrics::list(platform.store(), platform.organization, job.id, None, 100)
        .await
        .unwrap();
    assert_eq!(
        rows.iter().map(|row| row.step).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5]
    );
    let file = String::from_utf8(platform.read(&job.metrics_file.unwrap()).await).unwrap();
    assert_eq!(file.lines().count(), 6, "five steps and an evaluation: {file}");
    let run = &platform.runs(job.id).await[0];
    assert_eq!(
        (run.outcome, run.device.as_deref()),
        (Some(RunOutcome::Succeeded), Some("cpu"))
    );
    platform.run_directories_are_gone("one").await;
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_share_the_devices_and_the_cached_base_model() {
    let platform = Platform::start().await;
    let mut settings = platform.settings("two");
    settings.trainer.devices = vec!["cpu".into(), "cpu".into()];
    let worker = platform.work(settings);
    // Each waits for the other's end in vain unless both run at the same time: they are cancelled together.
    let script = json!({"total": 2, "fresh": [["start"], ["obey"]]});
    let jobs = [platform.queue(script.clone()).await, platform.queue(script).await];
    for job in jobs {
        platform.until_event(job, "training").await;
    }
    for job in jobs {
        jobs::request_cancel(platform.store(), platform.organization, job)
            .await
            .unwrap();
        assert_eq!(platform.ended(job).await.state, JobState::Cancelled);
    }
    let cache = platform.folder.path().join("two/cache/base-models");
    assert_eq!(std::fs::read_dir(cache).unwrap().count(), 1);
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_is_cancelled() {
    let platform = Platform::start().await;
    let worker = platform.work(platform.settings("one"));
    let script = json!({"total": 5, "fresh": [["start"], ["steps", 2], ["say_pid"], ["obey"]]});
    let job = platform.queue(script).await;
    let child = platform.until_event(job, "trainer_warning").await;
    jobs::request_cancel(platform.store(), platform.organization, job)
        .await
        .unwrap();
    let row = platform.ended(job).await;
    assert_eq!((row.state, row.attempts), (JobState::Cancelled, 0));
    assert!(is_alive(&child), "the trainer waits for other jobs");
    assert_eq!(platform.runs(job).await[0].outcome, Some(RunOutcome::Cancelled));
    assert!(platform.versions().await.is_empty());
    platform.run_directories_are_gone("one").await;
    worker.drain().await;
    assert!(!is_alive(&child));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_does_not_obey_is_killed() {
    let platform = Platform::start().await;
    let mut settings = platform.settings("one");
    settings.timings.cancel_grace = std::time::Duration::from_millis(100);
    let worker = platform.work(settings);
    let job = platform
        .queue(json!({"total": 5, "fresh": [["start"], ["say_pid"], ["hang"]]}))
        .await;
    let child = platform.until_event(job, "trainer_warning").await;
    jobs::request_cancel(platform.store(), platform.organization, job)
        .await
        .unwrap();
    assert_eq!(platform.ended(job).await.state, JobState::Cancelled);
    assert!(!is_alive(&child));
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_job_goes_on_elsewhere_without_using_an_attempt() {
    let platform = Platform::start().await;
    let first = platform.work(platform.settings("first"));
    let script = json!({
        "total": 6,
        "fresh": [["start"], ["steps", 2], ["obey"]],
        "resumed": [["start"], ["finish"]],
    });
    let job = platform.queue(script).await;
    platform.until(job, |job| job.step == 2).await;
    first.drain().await;
    let row = platform.job(job).await;
    assert_eq!((row.state, row.attempts, row.rescues), (JobState::Queued, 0, 0));

    let second = platform.work(platform.settings("second"));
    let row = platform.ended(job).await;
    assert_eq!((row.state, row.attempts), (JobState::Succeeded, 0));
    let runs = platform.runs(job).await;
    let outcomes: Vec<_> = runs.iter().map(|run| run.outcome.unwrap()).collect();
    assert_eq!(outcomes, [RunOutcome::Released, RunOutcome::Succeeded]);
    assert_eq!(
        runs[1].resumed_from_step,
        Some(3),
        "the checkpoint that the drain made"
    );
    assert!(
        platform
            .weights(&platform.versions().await[0])
            .await
            .ends_with(&6_f32.to_le_bytes())
    );
    second.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_inherits_no_secrets() {
    let platform = Platform::start().await;
    let worker = platform.work(platform.settings("one"));
    let job = platform
        .queue(json!({"total": 1, "fresh": [["say_environment"], ["start"], ["finish"]]}))
        .await;
    let environment = platform.until_event(job, "trainer_warning").await.message;
    assert!(environment.contains("PATH"), "{environment}");
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    assert!(!environment.contains("CARGO_"), "{environment}");
    platform.ended(job).await;
    worker.drain().await;
}
