#![allow(clippy::unwrap_used)]
use super::*;

fn key(url: &str, generation: u64) -> ReplicaKey {
    ReplicaKey {
        url: url.to_owned(),
        generation,
    }
}

fn known(url: &str, generation: u64) -> KnownReplica {
    KnownReplica {
        key: key(url, generation),
        base_name: "primer".to_owned(),
        api_key: None,
        seen: Instant::now(),
    }
}

#[tokio::test]
async fn a_request_waits_for_its_version_and_holds_it() {
    let fleet = Fleet::new(Arc::new(Notify::new()));
    let base = BaseModelId::new();
    let waiter = tokio::spawn({
        let fleet = fleet.clone();
        async move {
            fleet
                .acquire(base, Some("a--v1-00000000"), Duration::from_secs(20))
                .await
        }
    });
    fleet.wake.notified().await;
    assert_eq!(fleet.load(base), 1);
    fleet.set_replicas(base, &[known("http://a", 1)], None);
    fleet.set_ready(base, &key("http://a", 1), "a--v1-00000000", true);
    let lease = waiter.await.unwrap().unwrap();
    assert_eq!(
        (lease.url.as_str(), lease.internal.as_str()),
        ("http://a", "a--v1-00000000")
    );
    assert_eq!(fleet.load(base), 1);
    drop(lease);
    assert_eq!(fleet.load(base), 0);
}

#[tokio::test]
async fn a_restarted_replica_has_forgotten_its_adapters() {
    let fleet = Fleet::new(Arc::new(Notify::new()));
    let base = BaseModelId::new();
    fleet.set_replicas(base, &[known("http://a", 1)], None);
    fleet.set_ready(base, &key("http://a", 1), "x", true);
    assert!(fleet.acquire(base, Some("x"), Duration::ZERO).await.is_ok());
    fleet.set_replicas(base, &[known("http://a", 2)], None);
    assert_eq!(
        fleet.acquire(base, Some("x"), Duration::ZERO).await.unwrap_err(),
        Unavailable::Starting
    );
    assert_eq!(
        fleet.acquire(base, None, Duration::ZERO).await.unwrap().internal,
        "primer"
    );
    fleet.set_replicas(base, &[], Some("no memory".to_owned()));
    let error = fleet.acquire(base, None, Duration::ZERO).await.unwrap_err();
    assert_eq!(error, Unavailable::Failed("no memory".to_owned()));
}

#[tokio::test]
async fn a_doubted_replica_gets_no_requests_until_it_was_seen_again() {
    let fleet = Fleet::new(Arc::new(Notify::new()));
    let base = BaseModelId::new();
    let both = [known("http://a", 1), known("http://b", 1)];
    fleet.set_replicas(base, &both, None);
    fleet.set_ready(base, &key("http://a", 1), "x", true);
    fleet.doubt(base, "http://a", None);
    assert!(
        fleet.is_ready(base, &key("http://a", 1), "x"),
        "a broken connection says nothing about adapters"
    );
    let error = fleet.acquire(base, Some("x"), Duration::ZERO).await.unwrap_err();
    assert_eq!(error, Unavailable::Starting, "but it gets no requests");
    for _ in 0..3 {
        let lease = fleet.acquire(base, None, Duration::ZERO).await.unwrap();
        assert_eq!(lease.url, "http://b");
    }
    fleet.set_replicas(base, &both, None);
    assert!(
        fleet.doubts(base).contains_key("http://a"),
        "it was seen before it was doubted"
    );
    fleet.set_replicas(base, &[known("http://a", 1)], None);
    assert!(fleet.doubts(base).is_empty());
    assert!(fleet.acquire(base, Some("x"), Duration::ZERO).await.is_ok());
    fleet.doubt(base, "http://a", Some("x"));
    assert!(
        fleet.acquire(base, Some("x"), Duration::ZERO).await.is_err(),
        "it lacks that one"
    );
    assert!(fleet.acquire(base, None, Duration::ZERO).await.is_ok());
}
