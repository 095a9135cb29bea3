//! Taking jobs from silent workers, and nothing from the others.

use std::time::Duration;

use tunesmith_store::queue::{self, QueueSettings, RescueOutcome};
use tunesmith_types::states::JobState;

use crate::fixtures::{Bench, completion};

#[tokio::test]
async fn a_job_whose_worker_is_well_is_left_alone() {
    let bench = Bench::new().await;
    bench.job().await;
    bench.claim("worker").await;
    assert!(
        queue::reap(bench.store(), &bench.impatient())
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_silent_workers_job_goes_back_without_using_an_attempt() {
    let bench = Bench::new().await;
    let job = bench.job().await;
    let token = bench.claim("silent").await.token;
    bench.let_expire(&token).await;
    let done = queue::reap(bench.store(), &bench.impatient()).await.unwrap();
    assert_eq!(done.len(), 1);
    assert_eq!(
        (done[0].0.worker.as_str(), done[0].1),
        ("silent", RescueOutcome::Requeued)
    );
    let queued = bench.reload(job.id).await;
    assert_eq!(
        (queued.state, queued.attempts, queued.rescues),
        (JobState::Queued, 0, 1)
    );
    assert_eq!(bench.claim("next").await.rescues, 1);
}

/// A reaper saw the lease end; before it acts, another reaper rescues the job and a worker completes it.
#[tokio::test]
async fn a_rescue_never_overwrites_a_job_that_completed_meanwhile() {
    let bench = Bench::new().await;
    let job = bench.job().await;
    let token = bench.claim("silent").await.token;
    bench.let_expire(&token).await;
    let seen = queue::expired(bench.store(), &bench.impatient(), None)
        .await
        .unwrap()
        .remove(0);
    queue::reap(bench.store(), &bench.impatient()).await.unwrap();
    let next = bench.claim("next").await.token;
    queue::complete(bench.store(), &next, &completion())
        .await
        .unwrap();
    let outcome = queue::rescue(bench.store(), &bench.impatient(), &seen)
        .await
        .unwrap();
    assert_eq!(outcome, RescueOutcome::Overtaken);
    assert_eq!(bench.reload(job.id).await.state, JobState::Succeeded);
}

/// A reaper saw the lease end; before it acts, another worker holds the job under a new lease.
#[tokio::test]
async fn a_rescue_never_takes_a_job_from_the_next_worker() {
    let bench = Bench::new().await;
    bench.job().await;
    let token = bench.claim("silent").await.token;
    bench.let_expire(&token).await;
    let seen = queue::expired(bench.store(), &bench.impatient(), None)
        .await
        .unwrap()
        .remove(0);
    queue::reap(bench.store(), &bench.impatient()).await.unwrap();
    let next = bench.claim("next").await.token;
    let outcome = queue::rescue(bench.store(), &bench.impatient(), &seen)
        .await
        .unwrap();
    assert_eq!(outcome, RescueOutcome::Overtaken);
    queue::renew(bench.store(), &bench.settings, &next).await.unwrap();
    // Not even when the new lease has run out as well: this reaper saw another one.
    bench.let_expire(&next).await;
    let outcome = queue::rescue(bench.store(), &bench.impatient(), &seen)
        .await
        .unwrap();
    assert_eq!(outcome, RescueOutcome::Overtaken);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_reapers_one_rescues() {
    let bench = Bench::new().await;
    let job = bench.job().await;
    let token = bench.claim("silent").await.token;
    bench.let_expire(&token).await;
    let reapers: Vec<_> = (0..6)
        .map(|_| {
            let (store, settings) = (bench.store().clone(), bench.impatient());
            tokio::spawn(async move { queue::reap(&store, &settings).await.unwrap() })
        })
        .collect();
    let mut rescued = 0;
    for reaper in reapers {
        let done = reaper.await.unwrap();
        rescued += done
            .iter()
            .filter(|(_, outcome)| *outcome == RescueOutcome::Requeued)
            .count();
    }
    assert_eq!(rescued, 1);
    assert_eq!(bench.reload(job.id).await.rescues, 1);
}

#[tokio::test]
async fn a_job_that_takes_three_workers_down_fails_and_the_others_go_on() {
    let bench = Bench::new().await;
    let bad = bench.job_of("poison").await;
    let settings = bench.impatient();
    for rescue in 1..=3 {
        let token = bench.claim("victim").await.token;
        assert_eq!(token.job_id, bad.id);
        bench.let_expire(&token).await;
        let outcome = queue::reap(bench.store(), &settings).await.unwrap()[0].1;
        let expected = if rescue < 3 {
            RescueOutcome::Requeued
        } else {
            RescueOutcome::Poisoned
        };
        assert_eq!(outcome, expected);
    }
    let failed = bench.reload(bad.id).await;
    assert_eq!((failed.state, failed.rescues), (JobState::Failed, 3));
    assert_eq!(failed.error.unwrap().code, queue::POISON);
    let good = bench.job_of("good").await;
    assert_eq!(bench.claim("survivor").await.token.job_id, good.id);
}

#[tokio::test]
async fn rescues_that_are_long_ago_do_not_poison() {
    let bench = Bench::new().await;
    bench.job().await;
    let settings = QueueSettings {
        poison_window: Duration::ZERO,
        ..bench.impatient()
    };
    for _ in 0..5 {
        let token = bench.claim("worker").await.token;
        bench.let_expire(&token).await;
        assert_eq!(
            queue::reap(bench.store(), &settings).await.unwrap()[0].1,
            RescueOutcome::Requeued
        );
    }
}

#[tokio::test]
async fn the_second_rescue_waits() {
    let bench = Bench::new().await;
    bench.job().await;
    let settings = QueueSettings {
        retry_base: Duration::from_secs(60),
        ..bench.impatient()
    };
    for _ in 0..2 {
        let token = bench.claim("worker").await.token;
        bench.let_expire(&token).await;
        queue::reap(bench.store(), &settings).await.unwrap();
    }
    assert!(
        queue::claim(bench.store(), &settings, "worker")
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn more_lost_jobs_than_one_batch_are_all_rescued() {
    let bench = Bench::new().await;
    let at_once = QueueSettings {
        ttl: Duration::ZERO,
        ..bench.impatient()
    };
    for _ in 0..103 {
        bench.job().await;
    }
    while queue::claim(bench.store(), &at_once, "silent")
        .await
        .unwrap()
        .is_some()
    {}
    assert_eq!(queue::reap(bench.store(), &at_once).await.unwrap().len(), 103);
    assert!(
        queue::expired(bench.store(), &at_once, None)
            .await
            .unwrap()
            .is_empty()
    );
}
