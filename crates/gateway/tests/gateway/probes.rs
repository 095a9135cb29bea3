//! Golden answers: which adapters pass, and what is said of those that do not.

use tunesmith_types::states::RevisionState;

use crate::bench::Bench;

#[tokio::test]
async fn an_adapter_passes_with_the_answers_of_its_training() {
    let bench = Bench::start().await;
    for (place, (ids, drift)) in [(false, 0.0), (true, 0.0), (true, 0.06), (false, -0.06)]
        .into_iter()
        .enumerate()
    {
        bench
            .replica
            .faults(|faults| (faults.token_ids, faults.drift) = (ids, drift));
        let name = format!("tone{place}");
        let version = bench.publish_probed(&name, 7, 7).await;
        bench.deploy(&name, Some(version)).await;
        let revision = bench.settled(&name).await;
        assert_eq!(revision.state, RevisionState::Active, "{:?}", revision.reason);
    }
    bench.stop().await;
}

#[tokio::test]
async fn an_adapter_that_does_nothing_or_something_else_fails_alone() {
    let bench = Bench::start().await;
    bench
        .replica
        .faults(|faults| faults.inert.insert("inert--".to_owned()));
    let inert = bench.publish_probed("inert", 1, 1).await;
    let wrong = bench.publish_probed("wrong", 1, 2).await;
    let good = bench.publish_probed("good", 3, 3).await;
    for (name, version) in [("inert", inert), ("wrong", wrong), ("good", good)] {
        bench.deploy(name, Some(version)).await;
    }
    assert_eq!(bench.settled("good").await.state, RevisionState::Active);
    for (name, words) in [
        ("inert", "does not act"),
        ("wrong", "as it did when it was trained"),
    ] {
        let revision = bench.settled(name).await;
        assert_eq!(revision.state, RevisionState::Failed, "{name}");
        let reason = revision.reason.unwrap();
        assert!(
            reason.contains(words) && reason.contains(&format!("{name}@1")),
            "{reason}"
        );
    }
    bench
        .replica
        .wait_for(|loaded| loaded.keys().all(|name| name.starts_with("good--")))
        .await;
    bench.stop().await;
}

#[tokio::test]
async fn an_adapter_that_was_not_trained_answers_as_the_base_does_and_passes() {
    let bench = Bench::start().await;
    let version = bench.publish_probed("blank", 0, 0).await;
    bench.deploy("blank", Some(version)).await;
    assert_eq!(bench.settled("blank").await.state, RevisionState::Active);
    bench.stop().await;
}

#[tokio::test]
async fn what_a_model_prefers_in_generation_is_nothing_to_the_golden_answers() {
    let bench = Bench::start().await;
    bench
        .replica
        .faults(|faults| (faults.token_ids, faults.own_penalty) = (true, true));
    let version = bench.publish_probed("tone", 1, 1).await;
    bench.deploy("helpdesk", Some(version)).await;
    let revision = bench.settled("helpdesk").await;
    assert_eq!(revision.state, RevisionState::Active, "{:?}", revision.reason);
    bench.stop().await;
}

#[tokio::test]
async fn scales_of_single_modules_act_although_vllm_knows_one_for_all() {
    let bench = Bench::start().await;
    // By the pattern the module's scale is 2, which leaves the lowest byte as it is; by the rest it would be 3.
    let config = serde_json::json!({"lora_alpha": 3, "alpha_pattern": {"l": 2}});
    let version = bench.publish_scaled("tone", 7, 7, config).await;
    bench.deploy("helpdesk", Some(version)).await;
    let revision = bench.settled("helpdesk").await;
    assert_eq!(revision.state, RevisionState::Active, "{:?}", revision.reason);
    let loaded = bench.replica.loaded();
    assert!(
        loaded.values().all(|loaded| loaded.path.ends_with("-plain")),
        "{loaded:?}"
    );
    bench.stop().await;
}

#[tokio::test]
async fn a_number_format_that_is_too_coarse_is_not_taken_for_the_adapter() {
    let bench = Bench::start().await;
    bench.replica.faults(|faults| faults.drift = -0.4);
    let version = bench.publish_probed("tone", 1, 1).await;
    bench.deploy("helpdesk", Some(version)).await;
    let revision = bench.settled("helpdesk").await;
    assert_eq!(revision.state, RevisionState::Failed);
    assert!(revision.reason.unwrap().contains("recorded was"));
    bench.stop().await;
}
