//! Metered requests, usage, feedback, and the figures of arms.

use chrono::{Duration, Utc};
use tunesmith_store::{
    StoreError, feedback,
    figures::{self, Scope},
    requests::{self, MeteredRequest, Mirror, UsageGroups},
};
use tunesmith_types::{
    ids::{AdapterVersionId, BaseModelId, DeploymentId, OrganizationId},
    states::RequestStatus,
};
use uuid::Uuid;

use crate::fixtures::{Bench, sign_up};

fn request(organization: OrganizationId, deployment: DeploymentId) -> MeteredRequest {
    MeteredRequest {
        id: Uuid::now_v7(),
        organization_id: organization,
        model: "chat".to_owned(),
        base_model_id: BaseModelId::new(),
        deployment_id: Some(deployment),
        revision_number: Some(1),
        adapter_version_id: None,
        version: "base".to_owned(),
        endpoint: "chat",
        streamed: true,
        status: RequestStatus::Ok,
        error_code: None,
        prompt_tokens: Some(10),
        completion_tokens: Some(5),
        cached_tokens: Some(2),
        first_token_ms: Some(20.0),
        duration_ms: 60.0,
        mirror: None,
        age_seconds: 0.0,
    }
}

/// Records one request to a version.
pub(crate) async fn recorded(bench: &Bench, deployment: DeploymentId, version: AdapterVersionId) -> Uuid {
    let request = MeteredRequest {
        adapter_version_id: Some(version),
        ..request(bench.organization, deployment)
    };
    requests::record(bench.store(), std::slice::from_ref(&request))
        .await
        .unwrap();
    request.id
}

#[tokio::test]
async fn usage_counts_every_request_once() {
    let bench = Bench::new().await;
    let (store, organization) = (bench.store(), bench.organization);
    let deployment = DeploymentId::new();
    let ordinary = request(organization, deployment);
    let batch = [
        ordinary.clone(),
        MeteredRequest {
            status: RequestStatus::Error,
            error_code: Some("upstream_error".to_owned()),
            prompt_tokens: None,
            completion_tokens: None,
            cached_tokens: None,
            first_token_ms: None,
            ..request(organization, deployment)
        },
        MeteredRequest {
            status: RequestStatus::Cancelled,
            completion_tokens: Some(3),
            version: "tone@1".to_owned(),
            age_seconds: 86_400.0,
            ..request(organization, deployment)
        },
        MeteredRequest {
            mirror: Some(Mirror {
                of: ordinary.id,
                text_equal: Some(true),
                similarity: Some(1.0),
            }),
            ..request(organization, deployment)
        },
        // Of an organization that is gone: nobody's, and no reason to lose the others.
        request(OrganizationId::new(), deployment),
    ];
    requests::record(store, &batch).await.unwrap();
    requests::record(store, &batch).await.unwrap();
    let (from, until) = (Utc::now() - Duration::days(3), Utc::now() + Duration::days(1));
    let all = UsageGroups {
        day: true,
        model: true,
        version: true,
    };
    let usage = requests::usage(store, organization, from, until, all)
        .await
        .unwrap();
    assert_eq!(usage.len(), 2, "{usage:?}");
    assert_eq!(
        (
            usage[0].version.as_deref(),
            usage[0].cancelled,
            usage[0].completion_tokens
        ),
        (Some("tone@1"), 1, 3)
    );
    let today = &usage[1];
    assert_eq!(
        (
            today.requests,
            today.errors,
            today.prompt_tokens,
            today.completion_tokens,
            today.cached_tokens
        ),
        (2, 1, 10, 5, 2)
    );
    assert_eq!((today.mirrored_requests, today.mirrored_tokens), (1, 15));
    let together = requests::usage(store, organization, from, until, UsageGroups::default())
        .await
        .unwrap();
    assert_eq!(
        (together.len(), together[0].requests, together[0].model.as_deref()),
        (1, 3, None)
    );
    let (_, stranger) = sign_up(store, "eve@example.com").await;
    assert_eq!(
        requests::usage(store, stranger, from, until, all).await.unwrap(),
        []
    );
}

#[tokio::test]
async fn arms_have_their_own_figures() {
    let bench = Bench::new().await;
    let (store, organization) = (bench.store(), bench.organization);
    let (deployment, version) = (DeploymentId::new(), AdapterVersionId::new());
    let base = |first: f64, status| MeteredRequest {
        first_token_ms: Some(first),
        duration_ms: first + 40.0,
        status,
        ..request(organization, deployment)
    };
    let tuned = |revision: i32| MeteredRequest {
        adapter_version_id: Some(version),
        version: "tone@1".to_owned(),
        revision_number: Some(revision),
        streamed: false,
        first_token_ms: None,
        duration_ms: 100.0,
        ..request(organization, deployment)
    };
    let batch = [
        base(10.0, RequestStatus::Ok),
        base(30.0, RequestStatus::Ok),
        base(1000.0, RequestStatus::Error),
        base(1.0, RequestStatus::Rejected),
        tuned(1),
        tuned(2),
    ];
    requests::record(store, &batch).await.unwrap();
    let version_name = feedback::score(store, organization, batch[0].id, -1.0, Some("rude"))
        .await
        .unwrap();
    assert_eq!(version_name, "base");
    feedback::score(store, organization, batch[0].id, 0.5, None)
        .await
        .unwrap();
    feedback::score(store, organization, batch[4].id, 1.0, None)
        .await
        .unwrap();
    let unknown = feedback::score(store, organization, Uuid::now_v7(), 1.0, None).await;
    assert!(
        matches!(unknown, Err(StoreError::NotFound("answer"))),
        "{unknown:?}"
    );

    let arms = figures::arms(store, organization, deployment, Scope::Seconds(60.0))
        .await
        .unwrap();
    let [plain, adapted] = arms.as_slice() else {
        panic!("{arms:?}");
    };
    assert_eq!((plain.requests, plain.errors, plain.rejected), (3, 1, 1));
    let first = plain.first_token_ms;
    assert_eq!(
        (first.sample.count, first.sample.mean, first.p50),
        (2, 20.0, Some(20.0))
    );
    assert!((first.sample.variance - 200.0).abs() < 1e-9 && first.p95 == Some(29.0));
    assert_eq!(plain.token_ms.sample.mean, 10.0);
    assert_eq!((plain.feedback.count, plain.feedback.mean), (1, 0.5));
    assert_eq!((adapted.version.as_str(), adapted.requests), ("tone@1", 2));
    assert_eq!(
        (
            adapted.whole_answer_ms.sample.count,
            adapted.whole_answer_ms.p95,
            adapted.first_token_ms.p50
        ),
        (2, Some(100.0), None)
    );
    let second = figures::arms(store, organization, deployment, Scope::Revisions(&[2]))
        .await
        .unwrap();
    assert_eq!((second.len(), second[0].requests), (1, 1));
}

#[tokio::test]
async fn mirrored_requests_have_figures_of_their_own() {
    let bench = Bench::new().await;
    let (store, organization) = (bench.store(), bench.organization);
    let (deployment, version) = (DeploymentId::new(), AdapterVersionId::new());
    let mirrored = |status, equal: Option<bool>, similarity| MeteredRequest {
        adapter_version_id: Some(version),
        version: "tone@2".to_owned(),
        status,
        mirror: Some(Mirror {
            of: Uuid::now_v7(),
            text_equal: equal,
            similarity,
        }),
        ..request(organization, deployment)
    };
    let batch = [
        mirrored(RequestStatus::Ok, Some(true), Some(1.0)),
        mirrored(RequestStatus::Ok, Some(false), Some(0.5)),
        mirrored(RequestStatus::Error, None, None),
        mirrored(RequestStatus::Dropped, None, None),
    ];
    requests::record(store, &batch).await.unwrap();
    let mirrors = figures::mirrors(store, organization, deployment, 60.0)
        .await
        .unwrap();
    let [figures] = mirrors.as_slice() else {
        panic!("{mirrors:?}");
    };
    assert_eq!(
        (
            figures.requests,
            figures.errors,
            figures.dropped,
            figures.compared,
            figures.equal
        ),
        (3, 1, 1, 2, 1)
    );
    assert_eq!(
        (figures.mean_similarity, figures.p50_ms),
        (Some(0.75), Some(60.0))
    );
    let unseen = feedback::score(store, organization, batch[0].id, 1.0, None).await;
    assert!(
        matches!(unseen, Err(StoreError::NotFound(_))),
        "nobody saw that answer"
    );
}
