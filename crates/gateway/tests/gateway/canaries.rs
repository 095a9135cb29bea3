//! Canaries that run by themselves: to their end, and back where a gate fails.

use std::time::Duration;

use serde_json::json;
use tunesmith_store::{
    deployments,
    revisions::Route,
    rollouts::{self, Canary, NewCanary},
};
use tunesmith_types::{
    ids::AdapterVersionId,
    rollouts::{CanaryGates, CanaryPlan},
    states::{CanaryState, RevisionKind},
};

use crate::bench::Bench;

async fn begin(bench: &Bench, candidate: AdapterVersionId, steps: &[i64], gates: CanaryGates) -> Canary {
    let plan = CanaryPlan::new(Some(steps), Some(1), Some(gates)).unwrap();
    let new = NewCanary {
        candidate,
        plan: &plan,
        expected_number: None,
        note: None,
        created_by: None,
    };
    let id = bench.id_of("helpdesk").await;
    rollouts::start(bench.store(), bench.organization, id, &new)
        .await
        .unwrap()
}

/// Sends requests until the canary has ended; what they got, by status.
async fn ask_until_ended(bench: &Bench, canary: &Canary) -> (Canary, Vec<u16>) {
    let mut statuses = Vec::new();
    loop {
        let now = rollouts::get(bench.store(), bench.organization, canary.id)
            .await
            .unwrap();
        if now.state != CanaryState::Running {
            return (now, statuses);
        }
        for _ in 0..10 {
            statuses.push(bench.chat("helpdesk", json!({})).await.status().as_u16());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn two_versions(bench: &Bench) -> (AdapterVersionId, AdapterVersionId) {
    let (first, second) = (bench.publish("tone", 1).await, bench.publish("tone", 2).await);
    bench.deploy("helpdesk", Some(first)).await;
    bench.settled("helpdesk").await;
    (first, second)
}

fn gates() -> CanaryGates {
    CanaryGates {
        max_error_rate: Some(0.1),
        min_requests: Some(10),
        ..CanaryGates::default()
    }
}

#[tokio::test]
async fn a_good_version_gets_all_requests_step_by_step() {
    let bench = Bench::start().await;
    let (_, second) = two_versions(&bench).await;
    let canary = begin(&bench, second, &[30, 100], gates()).await;
    let (ended, statuses) = ask_until_ended(&bench, &canary).await;
    assert_eq!(ended.state, CanaryState::Completed, "{:?}", ended.reason);
    assert_eq!(ended.revisions.len(), 2);
    assert!(statuses.iter().all(|status| *status == 200));
    let active = deployments::find(bench.store(), bench.organization, "helpdesk")
        .await
        .unwrap()
        .active
        .unwrap();
    assert_eq!(
        (active.kind, active.routes),
        (RevisionKind::Canary, vec![Route::pinned(Some(second), 100)])
    );
    bench.stop().await;
}

#[tokio::test]
async fn a_version_that_fails_is_stopped_and_the_reason_has_the_numbers() {
    let bench = Bench::start().await;
    let (first, second) = two_versions(&bench).await;
    bench
        .replica
        .faults(|faults| faults.failing.extend(["tone--v2-".to_owned()]));
    let canary = begin(&bench, second, &[30, 100], gates()).await;
    let (ended, _) = ask_until_ended(&bench, &canary).await;
    assert_eq!(ended.state, CanaryState::Stopped);
    let reason = ended.reason.unwrap();
    assert!(
        reason.starts_with("step 1 of 2 (30 %): the error rate is 1.000 ("),
        "{reason}"
    );
    assert!(reason.contains("above max_error_rate 0.1"), "{reason}");
    let active = deployments::find(bench.store(), bench.organization, "helpdesk")
        .await
        .unwrap()
        .active
        .unwrap();
    assert_eq!(
        (active.kind, active.routes),
        (RevisionKind::Rollback, vec![Route::pinned(Some(first), 100)])
    );
    assert_eq!(active.note.as_deref(), Some(reason.as_str()));
    for _ in 0..20 {
        assert_eq!(bench.chat("helpdesk", json!({})).await.status().as_u16(), 200);
    }
    bench.stop().await;
}

#[tokio::test]
async fn a_version_that_cannot_be_loaded_ends_its_canary() {
    let bench = Bench::start().await;
    let (first, second) = two_versions(&bench).await;
    bench.replica.faults(|faults| {
        let words = "LoRA rank 512 is greater than max_lora_rank 16.";
        faults
            .refused
            .insert("tone--v2-".to_owned(), (500, words.to_owned()));
    });
    let canary = begin(&bench, second, &[30, 100], gates()).await;
    let (ended, statuses) = ask_until_ended(&bench, &canary).await;
    assert_eq!(ended.state, CanaryState::Stopped);
    assert!(ended.reason.unwrap().contains("max_lora_rank"));
    assert!(statuses.iter().all(|status| *status == 200));
    let active = deployments::find(bench.store(), bench.organization, "helpdesk")
        .await
        .unwrap()
        .active
        .unwrap();
    assert_eq!(active.routes, [Route::pinned(Some(first), 100)]);
    bench.stop().await;
}

#[tokio::test]
async fn a_step_without_enough_requests_waits_and_says_so() {
    let bench = Bench::start().await;
    let (_, second) = two_versions(&bench).await;
    let canary = begin(&bench, second, &[30, 100], gates()).await;
    bench.settled("helpdesk").await;
    let waiting = loop {
        let now = rollouts::get(bench.store(), bench.organization, canary.id)
            .await
            .unwrap();
        if now
            .reason
            .as_deref()
            .is_some_and(|reason| reason.contains("requests"))
        {
            break now;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!((waiting.state, waiting.step), (CanaryState::Running, 0));
    assert_eq!(
        waiting.reason.as_deref(),
        Some("0 of at least 10 requests to the candidate")
    );
    bench.stop().await;
}
