//! Inference servers and what they can hold.

use std::time::Duration;

use tunesmith_store::replicas::{self, NewReplica, ReplicaKind};

use crate::fixtures::{Bench, ready_base_model};

const AGE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_replica_is_known_by_its_address_for_as_long_as_it_is_well() {
    let bench = Bench::new().await;
    let store = bench.store();
    let other = ready_base_model(store, Some(bench.organization), "other").await;
    let new = NewReplica {
        base_model_id: bench.base_model,
        url: "http://10.0.0.7:8000",
        kind: ReplicaKind::Vllm,
        max_rank: Some(64),
        max_adapters: None,
    };
    let first = replicas::register(store, &new).await.unwrap();
    let moved = NewReplica {
        kind: ReplicaKind::Engine,
        max_rank: None,
        max_adapters: Some(8),
        ..new
    };
    assert_eq!(replicas::register(store, &moved).await.unwrap(), first);
    let found = replicas::of_base_model(store, bench.base_model, AGE)
        .await
        .unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].kind, found[0].max_rank, found[0].max_adapters),
        (ReplicaKind::Engine, None, Some(8))
    );
    assert!(
        replicas::of_base_model(store, other, AGE)
            .await
            .unwrap()
            .is_empty()
    );
    let stale = replicas::of_base_model(store, bench.base_model, Duration::ZERO).await;
    assert!(stale.unwrap().is_empty());
    replicas::remove(store, new.url).await.unwrap();
    assert!(
        replicas::of_base_model(store, bench.base_model, AGE)
            .await
            .unwrap()
            .is_empty()
    );
}
