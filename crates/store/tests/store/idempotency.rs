//! Requests that come twice.

use std::time::Duration;

use tunesmith_store::idempotency::{self, Admission, KeyedRequest};
use tunesmith_testing::TestDatabase;

use crate::fixtures::sign_up;

#[tokio::test]
async fn a_key_has_one_effect_and_one_answer() {
    let database = TestDatabase::create().await;
    let store = database.store();
    let (_, organization) = sign_up(store, "ada@example.com").await;
    let (_, other) = sign_up(store, "eve@example.com").await;
    let request = KeyedRequest {
        key: "k",
        operation: "POST /v1/jobs",
        request_sha256: &[1; 32],
    };
    assert_eq!(
        idempotency::begin(store, organization, &request).await.unwrap(),
        Admission::First
    );
    assert_eq!(
        idempotency::begin(store, organization, &request).await.unwrap(),
        Admission::InFlight
    );
    assert_eq!(
        idempotency::begin(store, other, &request).await.unwrap(),
        Admission::First
    );
    idempotency::abandon(store, organization, "k").await.unwrap();
    assert_eq!(
        idempotency::begin(store, organization, &request).await.unwrap(),
        Admission::First
    );
    idempotency::finish(store, organization, "k", 201, b"{}")
        .await
        .unwrap();
    let answered = Admission::Answered {
        status: 201,
        body: b"{}".to_vec(),
    };
    assert_eq!(
        idempotency::begin(store, organization, &request).await.unwrap(),
        answered
    );
    for wrong in [
        KeyedRequest {
            operation: "POST /v1/api-keys",
            ..request
        },
        KeyedRequest {
            request_sha256: &[2; 32],
            ..request
        },
    ] {
        assert_eq!(
            idempotency::begin(store, organization, &wrong).await.unwrap(),
            Admission::Mismatch
        );
    }
    idempotency::abandon(store, organization, "k").await.unwrap();
    assert_eq!(
        idempotency::begin(store, organization, &request).await.unwrap(),
        answered
    );
    assert_eq!(
        idempotency::forget(store, Duration::from_secs(86_400))
            .await
            .unwrap(),
        0
    );
    assert_eq!(idempotency::forget(store, Duration::ZERO).await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_twins_one_is_first() {
    let database = TestDatabase::create().await;
    let (_, organization) = sign_up(database.store(), "ada@example.com").await;
    let twins: Vec<_> = (0..12)
        .map(|_| {
            let store = database.store().clone();
            tokio::spawn(async move {
                let request = KeyedRequest {
                    key: "k",
                    operation: "POST /v1/jobs",
                    request_sha256: &[1; 32],
                };
                idempotency::begin(&store, organization, &request).await.unwrap()
            })
        })
        .collect();
    let mut first = 0;
    for twin in twins {
        first += usize::from(twin.await.unwrap() == Admission::First);
    }
    assert_eq!(first, 1);
}
