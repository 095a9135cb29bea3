//! Workers that lose their lease, or their life.

use std::time::Duration;

use serde_json::json;
use tunesmith_types::states::{JobState, RunOutcome};

use crate::support::{Platform, is_alive};

/// Long enough for a child to start on a busy machine.
const SHORT: Duration = Duration::from_secs(2);
const NEVER: Duration = Duration::from_secs(3600);

/// Fresh children hang with a checkpoint behind them; resumed ones finish.
fn script() -> serde_json::Value {
    json!({
        "total": 6,
        "fresh": [["start"], ["steps", 3], ["checkpoint"], ["say_pid"], ["hang"]],
        "resumed": [["start"], ["finish"]],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_answers_kills_its_child_before_anybody_takes_over() {
    let platform = Platform::start().await;
    let mut settings = platform.settings("silent");
    // Its renewals never come; so it must give up by itself, well before the lease has run out.
    settings.queue.ttl = Duration::from_secs(30);
    settings.timings.renew = NEVER;
    settings.timings.renew_least = NEVER;
    settings.timings.self_fence = SHORT;
    let worker = platform.work(settings);
    let job = platform.queue(script()).await;
    let child = platform.until_event(job, "trainer_warning").await;
    while is_alive(&child) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let row = platform.job(job).await;
    assert_eq!(
        row.state,
        JobState::Running,
        "only the reaper takes a job from a worker"
    );
    assert!(platform.runs(job).await[0].outcome.is_none());
    worker.drain().await;
    assert_eq!(
        platform.job(job).await.state,
        JobState::Running,
        "a lost job is not given back either"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_workers_job_is_rescued_and_goes_on_from_its_checkpoint() {
    let platform = Platform::start().await;
    let mut settings = platform.settings("dies");
    settings.queue.ttl = Duration::from_secs(2);
    settings.queue.takeover_grace = Duration::from_millis(100);
    settings.timings.renew = Duration::from_millis(500);
    let dies = platform.work(settings.clone());
    let job = platform.queue(script()).await;
    let child = platform.until_event(job, "trainer_warning").await;
    platform.until_event(job, "checkpoint").await;
    dies.kill().await;
    while is_alive(&child) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    let other = platform.settings("other");
    settings.name = other.name;
    settings.scratch_dir = other.scratch_dir;
    settings.cache_dir = other.cache_dir;
    let rescuer = platform.work(settings);
    let row = platform.ended(job).await;
    assert_eq!(
        (row.state, row.attempts, row.rescues),
        (JobState::Succeeded, 0, 1)
    );
    let runs = platform.runs(job).await;
    let outcomes: Vec<_> = runs.iter().map(|run| run.outcome.unwrap()).collect();
    assert_eq!(outcomes, [RunOutcome::LeaseLost, RunOutcome::Succeeded]);
    assert_eq!(runs[1].resumed_from_step, Some(3));
    assert_eq!(platform.versions().await.len(), 1);
    rescuer.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_overtaken_changes_nothing() {
    let platform = Platform::start().await;
    let mut zombie = platform.settings("zombie");
    // It neither renews nor gives up: the database alone must refuse what it writes.
    zombie.queue.ttl = SHORT;
    zombie.queue.takeover_grace = Duration::from_millis(50);
    zombie.timings.renew = NEVER;
    zombie.timings.renew_least = NEVER;
    zombie.timings.self_fence = NEVER;
    zombie.timings.reap = NEVER;
    zombie.timings.progress_least = Duration::from_secs(5);
    let queue = zombie.queue;
    let zombie = platform.work(zombie);
    let job = platform.queue(script()).await;
    platform.until_event(job, "checkpoint").await;
    let mut successor = platform.settings("successor");
    successor.queue = queue;
    successor.queue.ttl = Duration::from_secs(30);
    let successor = platform.work(successor);
    let row = platform.ended(job).await;
    assert_eq!((row.state, row.rescues), (JobState::Succeeded, 1));

    // Meanwhile the zombie's watchdog has found its child hanging, and its report is refused.
    platform.run_directories_are_gone("zombie").await;
    let after = platform.job(job).await;
    assert_eq!(after, row, "the overtaken worker changed the job");
    let outcomes: Vec<_> = platform
        .runs(job)
        .await
        .iter()
        .map(|run| run.outcome.unwrap())
        .collect();
    assert_eq!(outcomes, [RunOutcome::LeaseLost, RunOutcome::Succeeded]);
    assert_eq!(platform.versions().await.len(), 1);
    zombie.drain().await;
    successor.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_has_one_worker_and_keeps_nothing_of_a_dead_one() {
    let platform = Platform::start().await;
    let leftover = platform.folder.path().join("one/worker/runs/run_left");
    std::fs::create_dir_all(&leftover).unwrap();
    let worker = platform.work(platform.settings("one"));
    while leftover.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let second = tunesmith_worker::Worker::run(
        platform.settings("one"),
        platform.store().clone(),
        platform.blobs.client().clone(),
        tokio_util::sync::CancellationToken::new(),
    );
    let error = second.await.unwrap_err();
    assert!(
        matches!(error, tunesmith_worker::WorkerError::ScratchInUse { .. }),
        "{error}"
    );
    worker.drain().await;
}
