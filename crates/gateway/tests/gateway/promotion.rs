//! From a pending revision to an active or a failed one.

use serde_json::json;
use tunesmith_types::states::RevisionState;

use crate::bench::{Bench, json_of};

#[tokio::test]
async fn a_promoted_version_is_staged_loaded_probed_and_answers() {
    let bench = Bench::start().await;
    let version = bench.publish("tone", 1).await;
    bench.deploy("helpdesk", Some(version)).await;
    assert_eq!(bench.settled("helpdesk").await.state, RevisionState::Active);

    let response = bench.chat("helpdesk", json!({"seed": 7, "unknown": true})).await;
    assert_eq!(response.headers()["x-tunesmith-version"], "tone@1");
    let (status, answer) = json_of(response).await;
    assert_eq!(
        (status.as_u16(), answer["model"].as_str()),
        (200, Some("helpdesk"))
    );
    let sent = bench.replica.last_body();
    let internal = sent["model"].as_str().unwrap();
    assert!(internal.starts_with("tone--v1-"), "{internal}");
    assert_eq!((sent["seed"].as_u64(), sent.get("unknown")), (Some(7), None));
    let path = bench.replica.loaded()[internal].path.clone();
    assert!(std::path::Path::new(&path).starts_with(bench.staged()));
    bench.stop().await;
}

#[tokio::test]
async fn a_new_version_takes_over_and_the_one_before_the_last_is_unloaded() {
    let bench = Bench::start().await;
    let first = bench.publish("tone", 1).await;
    bench.deploy("helpdesk", Some(first)).await;
    bench.settled("helpdesk").await;
    let second = bench.publish("tone", 2).await;
    bench.promote("helpdesk", second).await;
    assert_eq!(bench.settled("helpdesk").await.state, RevisionState::Active);
    let response = bench.chat("helpdesk", json!({})).await;
    assert_eq!(response.headers()["x-tunesmith-version"], "tone@2");
    assert_eq!(response.headers()["x-tunesmith-revision"], "2");
    assert_eq!(
        bench.replica.loaded().len(),
        2,
        "the one before stays for a rollback"
    );
    let third = bench.publish("tone", 3).await;
    bench.promote("helpdesk", third).await;
    bench
        .replica
        .wait_for(|loaded| loaded.len() == 2 && !loaded.keys().any(|name| name.starts_with("tone--v1-")))
        .await;
    bench.stop().await;
}

#[tokio::test]
async fn a_bad_version_fails_with_its_reason_and_holds_up_nobody() {
    let bench = Bench::start().await;
    bench.replica.faults(|faults| {
        let words = "bad--v1: LoRA rank 512 is greater than max_lora_rank 16.";
        faults.refused.insert("bad--".to_owned(), (500, words.to_owned()));
        faults.inert.insert("inert--".to_owned());
    });
    let (bad, inert, good) = (
        bench.publish("bad", 1).await,
        bench.publish("inert", 2).await,
        bench.publish("good", 3).await,
    );
    let damaged = bench.publish("damaged", 4).await;
    bench.damage(damaged).await;
    for (name, version) in [
        ("bad", bad),
        ("inert", inert),
        ("damaged", damaged),
        ("good", good),
    ] {
        bench.deploy(name, Some(version)).await;
    }
    assert_eq!(bench.settled("good").await.state, RevisionState::Active);
    for (name, why) in [
        ("bad", "max_lora_rank"),
        ("inert", "does not act"),
        ("damaged", "damaged"),
    ] {
        let revision = bench.settled(name).await;
        assert_eq!(revision.state, RevisionState::Failed, "{name}");
        let reason = revision.reason.unwrap();
        assert!(reason.contains(why), "{name}: {reason}");
        assert!(
            !reason.contains(bench.staged().to_str().unwrap()),
            "{name}: {reason}"
        );
    }
    let (status, answer) = json_of(bench.chat("bad", json!({})).await).await;
    assert_eq!(
        (status.as_u16(), answer["error"]["code"].as_str()),
        (404, Some("model_not_found"))
    );
    let names: Vec<String> = bench.replica.loaded().into_keys().collect();
    assert!(names.iter().all(|name| name.starts_with("good--")), "{names:?}");
    bench.stop().await;
}

#[tokio::test]
async fn an_adapter_of_zeros_may_answer_as_the_base_does() {
    let bench = Bench::start().await;
    bench
        .replica
        .faults(|faults| assert!(faults.inert.insert("zero--".to_owned())));
    let version = bench.publish("zero", 0).await;
    bench.deploy("zero", Some(version)).await;
    assert_eq!(bench.settled("zero").await.state, RevisionState::Active);
    bench.stop().await;
}

#[tokio::test]
async fn a_failed_promotion_leaves_the_active_version_alone() {
    let bench = Bench::start().await;
    let first = bench.publish("tone", 1).await;
    bench.deploy("helpdesk", Some(first)).await;
    bench.settled("helpdesk").await;
    bench.replica.faults(|faults| {
        let words = (500, "weights are corrupt".to_owned());
        faults.refused.insert("tone--v2".to_owned(), words);
    });
    let second = bench.publish("tone", 2).await;
    bench.promote("helpdesk", second).await;
    assert_eq!(bench.settled("helpdesk").await.state, RevisionState::Failed);
    let response = bench.chat("helpdesk", json!({})).await;
    assert_eq!(response.headers()["x-tunesmith-version"], "tone@1");
    bench.stop().await;
}
