//! Children that crash, hang or lie.

use std::time::Duration;

use serde_json::{Value, json};
use tunesmith_store::jobs::Job;
use tunesmith_types::states::{JobState, RunOutcome};

use crate::support::Platform;

/// Runs a job to its end with one worker.
async fn end_of(platform: &Platform, script: Value, max_attempts: i32) -> Job {
    let mut settings = platform.settings("one");
    settings.timings.progress_least = Duration::from_secs(2);
    let worker = platform.work(settings);
    let job = platform.queue_with_attempts(script, max_attempts).await;
    let job = platform.ended(job).await;
    worker.drain().await;
    job
}

fn error_code(job: &Job) -> &str {
    &job.error.as_ref().unwrap().code
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_run_goes_on_from_its_checkpoint() {
    let platform = Platform::start().await;
    let script = json!({
        "total": 6,
        "fresh": [["start"], ["steps", 3], ["checkpoint"], ["steps", 4], ["log", "about to fall"], ["crash"]],
        "resumed": [["start"], ["finish"]],
    });
    let job = end_of(&platform, script, 3).await;
    assert_eq!((job.state, job.attempts, job.step), (JobState::Succeeded, 1, 6));
    let runs = platform.runs(job.id).await;
    assert_eq!(runs.len(), 2);
    assert_eq!(runs[0].outcome, Some(RunOutcome::Failed));
    assert_eq!(runs[0].error.as_ref().unwrap().code, "trainer_crashed");
    assert_eq!(runs[1].resumed_from_step, Some(3));
    let log = platform.until_event(job.id, "trainer_log").await;
    assert_eq!(log.data["log"], "about to fall");
    let versions = platform.versions().await;
    assert_eq!(versions.len(), 1);
    assert!(
        platform
            .weights(&versions[0])
            .await
            .ends_with(&6_f32.to_le_bytes())
    );
    assert_eq!(versions[0].metrics["tokens"], 60, "each step counts once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_hangs_is_killed_and_its_job_tried_again() {
    let platform = Platform::start().await;
    let script = json!({
        "total": 4,
        "fresh": [["start"], ["steps", 2], ["checkpoint"], ["hang"]],
        "resumed": [["start"], ["finish"]],
    });
    let job = end_of(&platform, script, 3).await;
    assert_eq!((job.state, job.attempts), (JobState::Succeeded, 1));
    let runs = platform.runs(job.id).await;
    assert_eq!(runs[0].error.as_ref().unwrap().code, "no_progress");
    assert_eq!(runs[1].resumed_from_step, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn users_errors_are_final() {
    let platform = Platform::start().await;
    let message = "No example has a token to learn from.";
    let script = json!({"total": 4, "fresh": [["fail", "nothing_supervised", message]]});
    let job = end_of(&platform, script, 3).await;
    assert_eq!((job.state, job.attempts), (JobState::Failed, 1));
    assert_eq!(error_code(&job), "nothing_supervised");
    assert_eq!(job.error.unwrap().message, message);
    assert!(platform.versions().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_are_limited() {
    let platform = Platform::start().await;
    let job = end_of(
        &platform,
        json!({"total": 4, "fresh": [["start"], ["exit", 7]]}),
        2,
    )
    .await;
    assert_eq!((job.state, job.attempts), (JobState::Failed, 2));
    assert_eq!(error_code(&job), "trainer_exited");
    assert_eq!(platform.runs(job.id).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_that_is_not_finite_is_never_published() {
    let platform = Platform::start().await;
    let job = end_of(
        &platform,
        json!({"total": 2, "fresh": [["start"], ["finish", "nan"]]}),
        3,
    )
    .await;
    assert_eq!(
        (job.state, error_code(&job)),
        (JobState::Failed, "adapter_invalid")
    );
    assert!(platform.versions().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_floods_its_worker_is_killed() {
    let platform = Platform::start().await;
    let job = end_of(&platform, json!({"total": 2, "fresh": [["start"], ["flood"]]}), 1).await;
    assert_eq!(
        (job.state, error_code(&job)),
        (JobState::Failed, "trainer_protocol")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_job_does_not_hold_up_the_others() {
    let platform = Platform::start().await;
    let worker = platform.work(platform.settings("one"));
    let bad = platform
        .queue_with_attempts(json!({"total": 1, "fresh": [["crash"]]}), 2)
        .await;
    let good = platform
        .queue(json!({"total": 1, "fresh": [["start"], ["finish"]]}))
        .await;
    assert_eq!(platform.ended(good).await.state, JobState::Succeeded);
    assert_eq!(platform.ended(bad).await.state, JobState::Failed);
    worker.drain().await;
}
