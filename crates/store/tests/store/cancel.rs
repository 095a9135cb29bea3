//! Cancelling, and what it races with.

use tunesmith_store::{
    StoreError, jobs,
    queue::{self, FailOutcome, ReleaseOutcome, RescueOutcome},
};
use tunesmith_types::states::JobState;

use crate::fixtures::{Bench, completion, failure};

#[tokio::test]
async fn a_queued_job_is_cancelled_at_once_and_never_claimed() {
    let bench = Bench::new().await;
    let job = bench.job().await;
    let cancelled = jobs::request_cancel(bench.store(), bench.organization, job.id)
        .await
        .unwrap();
    assert_eq!(cancelled.state, JobState::Cancelled);
    assert!(
        queue::claim(bench.store(), &bench.settings, "worker")
            .await
            .unwrap()
            .is_none()
    );
    let again = jobs::request_cancel(bench.store(), bench.organization, job.id)
        .await
        .unwrap();
    assert_eq!(again, cancelled);
    assert_eq!(bench.event_codes(job.id).await, ["queued", "cancelled"]);
}

#[tokio::test]
async fn a_running_job_is_cancelled_through_its_worker() {
    let bench = Bench::new().await;
    let job = bench.job().await;
    let token = bench.claim("worker").await.token;
    let error = queue::finish_cancel(bench.store(), &token).await.unwrap_err();
    assert!(matches!(error, StoreError::Conflict(_)), "{error}");
    let asked = jobs::request_cancel(bench.store(), bench.organization, job.id)
        .await
        .unwrap();
    assert_eq!(asked.state, JobState::Running);
    assert!(asked.cancel_requested_at.is_some());
    assert!(
        queue::renew(bench.store(), &bench.settings, &token)
            .await
            .unwrap()
            .cancel_requested
    );
    queue::finish_cancel(bench.store(), &token).await.unwrap();
    let done = bench.reload(job.id).await;
    assert_eq!(done.state, JobState::Cancelled);
    assert_eq!(
        bench.event_codes(job.id).await,
        ["queued", "started", "cancel_requested", "cancelled"]
    );
}

#[tokio::test]
async fn whatever_ends_the_run_of_a_job_to_be_cancelled_does_not_queue_it_again() {
    let bench = Bench::new().await;
    for end in ["fail", "release", "rescue"] {
        let job = bench.job().await;
        let token = bench.claim("worker").await.token;
        jobs::request_cancel(bench.store(), bench.organization, job.id)
            .await
            .unwrap();
        match end {
            "fail" => {
                let outcome = queue::fail(bench.store(), &bench.settings, &token, &failure(true))
                    .await
                    .unwrap();
                assert_eq!(outcome, FailOutcome::Cancelled);
            }
            "release" => {
                assert_eq!(
                    queue::release(bench.store(), &token).await.unwrap(),
                    ReleaseOutcome::Cancelled
                );
            }
            _ => {
                bench.let_expire(&token).await;
                let done = queue::reap(bench.store(), &bench.impatient()).await.unwrap();
                assert_eq!(done[0].1, RescueOutcome::Cancelled);
            }
        }
        assert_eq!(bench.reload(job.id).await.state, JobState::Cancelled, "{end}");
    }
}

#[tokio::test]
async fn a_finished_job_cannot_be_cancelled() {
    let bench = Bench::new().await;
    let job = bench.job().await;
    let token = bench.claim("worker").await.token;
    queue::complete(bench.store(), &token, &completion())
        .await
        .unwrap();
    let error = jobs::request_cancel(bench.store(), bench.organization, job.id)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, StoreError::Conflict(conflict) if conflict.code == "job_finished"),
        "{error}"
    );
}

/// Cancel request, cancel by the worker and completion at the same time: exactly one end, and the rest agree with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn cancel_and_finish_race_to_one_end() {
    let bench = Bench::new().await;
    for _ in 0..20 {
        let job = bench.job().await;
        let token = bench.claim("worker").await.token;
        let store = bench.store().clone();
        let completing = tokio::spawn(async move { queue::complete(&store, &token, &completion()).await });
        let store = bench.store().clone();
        let organization = bench.organization;
        let cancelling = tokio::spawn(async move {
            let asked = jobs::request_cancel(&store, organization, job.id).await;
            (asked.is_ok(), queue::finish_cancel(&store, &token).await.is_ok())
        });
        let completed = completing.await.unwrap().is_ok();
        let (asked, cancelled) = cancelling.await.unwrap();
        assert!(
            completed != cancelled,
            "completed {completed}, asked {asked}, cancelled {cancelled}"
        );
        let end = bench.reload(job.id).await;
        let expected = if completed {
            JobState::Succeeded
        } else {
            JobState::Cancelled
        };
        assert_eq!(end.state, expected);
        assert_eq!(end.adapter_version_id.is_some(), completed);
        let ends = bench.event_codes(job.id).await;
        let ends: Vec<_> = ends
            .iter()
            .filter(|code| ["succeeded", "cancelled"].contains(&code.as_str()))
            .collect();
        assert_eq!(ends.len(), 1, "{ends:?}");
    }
}
