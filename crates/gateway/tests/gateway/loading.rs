//! Replicas that refuse, forget, hang or are slow, and what the reconciler makes of it.

use std::time::Duration;

use serde_json::json;
use tunesmith_gateway::ReplicaKind;
use tunesmith_types::{names::engine_adapter_name, states::RevisionState};

use crate::bench::{Bench, Setup, json_of};

#[tokio::test]
async fn each_refusal_fails_its_adapter_with_a_reason_and_without_a_second_try() {
    let bench = Bench::start().await;
    for (place, (flat, words, reason)) in [
        (
            false,
            "LoRA rank 64 is greater than max_lora_rank 16.",
            "max_lora_rank 16",
        ),
        (true, "vLLM does not yet support DoRA.", "DoRA"),
        (
            true,
            "While loading /srv/cache/x, expected target modules in ['q_proj'] but received ['x'].",
            "expected target modules",
        ),
        (
            false,
            "Error while deserializing header of safetensors file",
            "safetensors",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("bad{place}");
        bench.replica.faults(|faults| {
            faults.flat_errors = flat;
            faults
                .refused
                .insert(format!("{name}--"), (500, words.to_owned()));
        });
        let version = bench.publish(&name, 1).await;
        bench.deploy(&name, Some(version)).await;
        let revision = bench.settled(&name).await;
        assert_eq!(revision.state, RevisionState::Failed, "{words}");
        let said = revision.reason.unwrap();
        assert!(
            said.contains(reason) && said.contains(&format!("{name}@1")),
            "{said}"
        );
        assert!(!said.contains("/srv") && !said.contains("--v1"), "{said}");
        assert_eq!(bench.replica.load_calls(&name), 1, "{words}");
    }
    bench.stop().await;
}

#[tokio::test]
async fn what_may_pass_is_tried_again() {
    let bench = Bench::with(Setup {
        settings: |settings| settings.retry_pause = Duration::from_millis(150),
        ..Setup::default()
    })
    .await;
    bench.replica.faults(|faults| {
        let words = (500, "CUDA out of memory".to_owned());
        faults.refused.insert("tone--".to_owned(), words);
    });
    let version = bench.publish("tone", 1).await;
    bench.deploy("helpdesk", Some(version)).await;
    while bench.replica.load_calls("tone") < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(bench.latest("helpdesk").await.state, RevisionState::Pending);
    bench.replica.faults(|faults| faults.refused.clear());
    assert_eq!(bench.settled("helpdesk").await.state, RevisionState::Active);
    bench.stop().await;
}

#[tokio::test]
async fn a_replica_that_is_set_up_wrongly_is_named_as_the_culprit() {
    let bench = Bench::start().await;
    for (name, words) in [("shut", "without leave"), ("blind", "cache folder")] {
        bench.replica.faults(|faults| {
            faults.no_runtime_loading = name == "shut";
            faults.blind = name == "blind";
        });
        let version = bench.publish(name, 1).await;
        bench.deploy(name, Some(version)).await;
        let revision = bench.settled(name).await;
        assert_eq!(revision.state, RevisionState::Failed, "{name}");
        let reason = revision.reason.unwrap();
        assert!(reason.contains(words), "{reason}");
    }
    bench.stop().await;
}

#[tokio::test]
async fn a_load_that_outlasts_its_caller_is_found_when_it_has_ended() {
    let bench = Bench::with(Setup {
        settings: |settings| settings.load_timeout = Duration::from_millis(400),
        ..Setup::default()
    })
    .await;
    bench.replica.faults(|faults| {
        let time = Duration::from_millis(900);
        faults.slow.insert("tone--".to_owned(), time);
    });
    let version = bench.publish("tone", 1).await;
    bench.deploy("helpdesk", Some(version)).await;
    assert_eq!(bench.settled("helpdesk").await.state, RevisionState::Active);
    assert_eq!(bench.replica.loaded().len(), 1);
    bench.stop().await;
}

#[tokio::test]
async fn an_adapter_that_hangs_holds_up_no_other() {
    let bench = Bench::with(Setup {
        settings: |settings| {
            settings.load_turn = Duration::from_millis(50);
            settings.load_timeout = Duration::from_millis(800);
        },
        ..Setup::default()
    })
    .await;
    bench
        .replica
        .faults(|faults| faults.stuck.insert("stuck--".to_owned()));
    let (stuck, good) = (bench.publish("stuck", 1).await, bench.publish("good", 2).await);
    bench.deploy("stuck", Some(stuck)).await;
    while bench.replica.load_calls("stuck") == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bench.deploy("good", Some(good)).await;
    assert_eq!(bench.settled("good").await.state, RevisionState::Active);
    assert_eq!(bench.latest("stuck").await.state, RevisionState::Pending);
    let revision = bench.settled("stuck").await;
    assert_eq!(revision.state, RevisionState::Failed);
    assert!(revision.reason.unwrap().contains("did not answer"));
    assert_eq!(bench.chat("good", json!({})).await.status().as_u16(), 200);
    bench.stop().await;
}

#[tokio::test]
async fn other_bytes_under_our_name_are_a_conflict() {
    let bench = Bench::start().await;
    let version = bench.publish("tone", 1).await;
    let row = tunesmith_store::adapters::version(bench.store(), bench.organization, version)
        .await
        .unwrap();
    let name = engine_adapter_name(&row.adapter, row.number, &row.digest);
    bench.replica.plant(&name, "/elsewhere/tone");
    bench.deploy("helpdesk", Some(version)).await;
    let revision = bench.settled("helpdesk").await;
    assert_eq!(revision.state, RevisionState::Failed);
    assert!(revision.reason.unwrap().contains("other bytes"));
    assert_eq!(bench.replica.load_calls("tone"), 0);
    bench.stop().await;
}

#[tokio::test]
async fn a_version_is_active_only_when_every_replica_has_it() {
    let bench = Bench::with(Setup {
        replicas: 2,
        ..Setup::default()
    })
    .await;
    let version = bench.publish("tone", 1).await;
    let second = &bench.replicas[1];
    second.faults(|faults| {
        faults
            .slow
            .insert("tone--".to_owned(), Duration::from_millis(600))
    });
    bench.deploy("helpdesk", Some(version)).await;
    bench.replica.wait_for(|loaded| loaded.len() == 1).await;
    assert_eq!(bench.latest("helpdesk").await.state, RevisionState::Pending);
    assert_eq!(bench.settled("helpdesk").await.state, RevisionState::Active);
    assert_eq!(second.loaded().len(), 1);
    bench.stop().await;
}

#[tokio::test]
async fn one_replica_that_refuses_fails_the_promotion_and_nothing_else() {
    let bench = Bench::with(Setup {
        replicas: 2,
        ..Setup::default()
    })
    .await;
    let first = bench.publish("tone", 1).await;
    bench.deploy("helpdesk", Some(first)).await;
    bench.settled("helpdesk").await;
    bench.replicas[1].faults(|faults| faults.inert.insert("tone--v2".to_owned()));
    let second = bench.publish("tone", 2).await;
    bench.promote("helpdesk", second).await;
    let revision = bench.settled("helpdesk").await;
    assert_eq!(revision.state, RevisionState::Failed);
    assert!(revision.reason.unwrap().contains("does not act"));
    for _ in 0..6 {
        let response = bench.chat("helpdesk", json!({})).await;
        assert_eq!(response.headers()["x-tunesmith-version"], "tone@1");
    }
    bench.stop().await;
}

#[tokio::test]
async fn a_replica_that_stays_silent_is_not_waited_for_and_catches_up_when_it_is_back() {
    let bench = Bench::with(Setup {
        replicas: 2,
        settings: |settings| {
            settings.absent_after = Duration::from_millis(300);
            settings.load_timeout = Duration::from_millis(200);
        },
        ..Setup::default()
    })
    .await;
    let second = bench.replicas[1].clone();
    for fault in ["dead", "hung"] {
        second.faults(|faults| (faults.unhealthy, faults.hung) = (fault == "dead", fault == "hung"));
        let version = bench.publish(fault, 1).await;
        bench.deploy(fault, Some(version)).await;
        assert_eq!(bench.settled(fault).await.state, RevisionState::Active);
        assert_eq!(second.load_calls(fault), 0);
        let (status, answer) = json_of(bench.chat(fault, json!({})).await).await;
        assert_eq!(status.as_u16(), 200, "{answer}");
    }
    second.faults(|faults| faults.hung = false);
    second.wait_for(|loaded| loaded.len() == 2).await;
    bench.stop().await;
}

#[tokio::test]
async fn after_a_restart_requests_go_there_only_once_their_adapter_is_back() {
    let bench = Bench::with(Setup {
        replicas: 2,
        ..Setup::default()
    })
    .await;
    let version = bench.publish("tone", 5).await;
    bench.deploy("helpdesk", Some(version)).await;
    bench.settled("helpdesk").await;
    let second = &bench.replicas[1];
    second.faults(|faults| {
        faults
            .slow
            .insert("tone--".to_owned(), Duration::from_millis(300))
    });
    second.restart();
    for _ in 0..40 {
        let (status, answer) = json_of(bench.chat("helpdesk", json!({})).await).await;
        assert_eq!(status.as_u16(), 200, "{answer}");
        let content = answer["choices"][0]["message"]["content"].as_str().unwrap();
        assert!(content.ends_with("filled with 5"), "{content}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    second.wait_for(|loaded| loaded.len() == 1).await;
    bench.stop().await;
}

#[tokio::test]
async fn what_a_new_start_loads_by_itself_is_probed_before_it_answers() {
    let bench = Bench::start().await;
    let version = bench.publish_probed("tone", 1, 1).await;
    bench.deploy("helpdesk", Some(version)).await;
    bench.settled("helpdesk").await;
    bench
        .replica
        .faults(|faults| faults.inert.insert("tone--".to_owned()));
    bench.replica.restart_with_modules();
    // The probe finds that it does not act, so it is taken off and brought again, for as long as that goes on.
    bench.replica.wait_for(std::collections::HashMap::is_empty).await;
    bench.replica.faults(|faults| faults.inert.clear());
    let response = bench.chat("helpdesk", json!({})).await;
    assert_eq!(response.status().as_u16(), 200);
    bench.stop().await;
}

#[tokio::test]
async fn replicas_are_asked_with_their_key() {
    let bench = Bench::with(Setup {
        api_key: Some("sesame"),
        ..Setup::default()
    })
    .await;
    let version = bench.publish("tone", 1).await;
    bench.deploy("helpdesk", Some(version)).await;
    assert_eq!(bench.settled("helpdesk").await.state, RevisionState::Active);
    assert_eq!(bench.chat("helpdesk", json!({})).await.status().as_u16(), 200);
    bench.stop().await;
}

#[tokio::test]
async fn evicted_adapters_are_read_again_from_files_that_are_still_there() {
    let bench = Bench::with(Setup {
        settings: |settings| settings.sweep_grace = Duration::from_millis(50),
        ..Setup::default()
    })
    .await;
    bench.replica.faults(|faults| faults.max_cpu_loras = Some(1));
    for (name, fill) in [("red", 3), ("blue", 4)] {
        let version = bench.publish(name, fill).await;
        bench.deploy(name, Some(version)).await;
        assert_eq!(bench.settled(name).await.state, RevisionState::Active);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    for (name, fill) in [("red", 3), ("blue", 4), ("red", 3)] {
        let (status, answer) = json_of(bench.chat(name, json!({})).await).await;
        assert_eq!(status.as_u16(), 200, "{answer}");
        let content = answer["choices"][0]["message"]["content"].as_str().unwrap();
        assert!(content.ends_with(&format!("filled with {fill}")), "{content}");
    }
    assert!(bench.replica.read_again() >= 2);
    bench.stop().await;
}

#[tokio::test]
async fn a_full_replica_refuses_a_new_deployment_and_takes_a_swap() {
    let bench = Bench::with(Setup {
        max_adapters: Some(2),
        kind: ReplicaKind::Vllm,
        ..Setup::default()
    })
    .await;
    let (first, other) = (bench.publish("tone", 1).await, bench.publish("other", 2).await);
    bench.deploy("helpdesk", Some(first)).await;
    assert_eq!(bench.settled("helpdesk").await.state, RevisionState::Active);
    bench.deploy("other", Some(other)).await;
    let revision = bench.settled("other").await;
    assert_eq!(revision.state, RevisionState::Failed);
    let reason = revision.reason.unwrap();
    assert!(reason.contains("hold 2 adapters"), "{reason}");
    let second = bench.publish("tone", 3).await;
    bench.promote("helpdesk", second).await;
    assert_eq!(bench.settled("helpdesk").await.state, RevisionState::Active);
    bench.stop().await;
}
