//! How runs end: completion, failure, release.

use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tunesmith_store::{
    StoreError, adapters,
    queue::{self, FailOutcome, QueueSettings},
    runs,
};
use tunesmith_types::{
    list::Page,
    states::{JobState, RunOutcome},
};

use crate::fixtures::{Bench, completion, failure};

#[tokio::test]
async fn completing_publishes_the_next_version_and_ends_the_job() {
    let bench = Bench::new().await;
    assert_eq!(bench.publish("tone").await.number, 1);
    let job = bench.job_of("tone").await;
    let claimed = bench.claim("worker").await;
    let published = queue::complete(bench.store(), &claimed.token, &completion())
        .await
        .unwrap();
    assert_eq!(published.number, 2);
    let done = bench.reload(job.id).await;
    assert_eq!(done.state, JobState::Succeeded);
    assert_eq!(done.adapter_version_id, Some(published.version_id));
    assert_eq!(done.adapter_version, Some(2));
    assert_eq!(done.step, 10);
    assert!(done.metrics_file.is_some() && done.finished_at.is_some() && done.worker.is_none());
    let version = adapters::find_version(bench.store(), bench.organization, "tone", None)
        .await
        .unwrap();
    assert_eq!(
        (version.number, version.job_id, version.bytes),
        (2, Some(job.id), 14)
    );
    assert_eq!(
        bench.event_codes(job.id).await,
        ["queued", "started", "succeeded"]
    );
    let run = runs::list(bench.store(), bench.organization, job.id)
        .await
        .unwrap()
        .remove(0);
    assert_eq!(run.outcome, Some(RunOutcome::Succeeded));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_job_completes_once_however_often_it_is_tried() {
    let bench = Bench::new().await;
    bench.job().await;
    let token = bench.claim("worker").await.token;
    let tries: Vec<_> = (0..8)
        .map(|_| {
            let store = bench.store().clone();
            tokio::spawn(async move { queue::complete(&store, &token, &completion()).await })
        })
        .collect();
    let mut published = 0;
    for attempt in tries {
        match attempt.await.unwrap() {
            Ok(_) => published += 1,
            Err(error) => assert!(matches!(error, StoreError::LeaseLost), "{error}"),
        }
    }
    assert_eq!(published, 1);
    let versions = adapters::versions(bench.store(), bench.organization, "tone", &Page::default())
        .await
        .unwrap();
    assert_eq!(versions.rows.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn versions_of_one_adapter_are_numbered_without_gaps_or_repeats() {
    let bench = Bench::new().await;
    let mut tokens = Vec::new();
    for _ in 0..8 {
        bench.job().await;
        tokens.push(bench.claim("worker").await.token);
    }
    let tasks: Vec<_> = tokens
        .into_iter()
        .map(|token| {
            let store = bench.store().clone();
            tokio::spawn(async move {
                queue::complete(&store, &token, &completion())
                    .await
                    .unwrap()
                    .number
            })
        })
        .collect();
    let mut numbers = Vec::new();
    for task in tasks {
        numbers.push(task.await.unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=8).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_version_never_changes() {
    let bench = Bench::new().await;
    let version = bench.publish("tone").await.version_id;
    let mut connection = PgConnection::connect(bench.database.url()).await.unwrap();
    let error = sqlx::query("update adapter_versions set digest = repeat('e', 64) where id = $1")
        .bind(version.uuid())
        .execute(&mut connection)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("never change"), "{error}");
}

#[tokio::test]
async fn a_failed_run_is_tried_again_later_until_its_attempts_are_used() {
    let bench = Bench::new().await;
    let job = bench.job().await;
    let slow = QueueSettings {
        retry_base: Duration::from_secs(40),
        ..bench.settings
    };
    let token = bench.claim("worker").await.token;
    let outcome = queue::fail(bench.store(), &slow, &token, &failure(true))
        .await
        .unwrap();
    let FailOutcome::Requeued(pause) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(
        (Duration::from_secs(20)..=Duration::from_secs(40)).contains(&pause),
        "{pause:?}"
    );
    let waiting = bench.reload(job.id).await;
    assert_eq!((waiting.state, waiting.attempts), (JobState::Queued, 1));
    assert!(waiting.run_at > waiting.started_at.unwrap() + Duration::from_secs(15));
    assert!(
        queue::claim(bench.store(), &bench.settings, "worker")
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn a_job_fails_after_its_last_attempt() {
    let bench = Bench::new().await;
    let job = bench.job().await;
    for attempt in 1..=3 {
        let token = bench.claim("worker").await.token;
        let outcome = queue::fail(bench.store(), &bench.impatient(), &token, &failure(true))
            .await
            .unwrap();
        assert_eq!(
            outcome == FailOutcome::Failed,
            attempt == 3,
            "attempt {attempt}: {outcome:?}"
        );
    }
    let failed = bench.reload(job.id).await;
    assert_eq!((failed.state, failed.attempts), (JobState::Failed, 3));
    assert_eq!(failed.error.unwrap().code, "child_crashed");
    assert_eq!(bench.event_codes(job.id).await.last().unwrap(), "failed");
}

#[tokio::test]
async fn an_error_that_will_not_get_better_fails_at_once() {
    let bench = Bench::new().await;
    let job = bench.job().await;
    let token = bench.claim("worker").await.token;
    let outcome = queue::fail(bench.store(), &bench.settings, &token, &failure(false))
        .await
        .unwrap();
    assert_eq!(outcome, FailOutcome::Failed);
    assert_eq!(bench.reload(job.id).await.state, JobState::Failed);
}

#[tokio::test]
async fn a_release_uses_no_attempt_and_is_claimed_at_once() {
    let bench = Bench::new().await;
    let job = bench.job().await;
    for epoch in 1..=5 {
        let claimed = bench.claim("worker").await;
        assert_eq!(claimed.token.epoch, epoch);
        queue::release(bench.store(), &claimed.token).await.unwrap();
    }
    let queued = bench.reload(job.id).await;
    assert_eq!(
        (queued.state, queued.attempts, queued.rescues),
        (JobState::Queued, 0, 0)
    );
}
