//! Deployments and their revisions.

use tunesmith_store::{
    StoreError,
    deployments::{self, Deployment, NewDeployment},
    revisions::{self, NewRevision, Route},
    routing,
};
use tunesmith_types::{
    ids::AdapterVersionId,
    list::Page,
    states::{RevisionKind, RevisionState},
};

use crate::fixtures::{Bench, name, ready_base_model};

fn to(version: Option<AdapterVersionId>) -> [Route; 1] {
    [Route::pinned(version, 100)]
}

async fn deployment(bench: &Bench) -> Deployment {
    let new = NewDeployment {
        name: &name("chat"),
        base_model_id: bench.base_model,
        routes: &to(None),
        created_by: None,
    };
    deployments::create(bench.store(), bench.organization, &new)
        .await
        .unwrap()
}

fn code(error: &StoreError) -> &str {
    match error {
        StoreError::Conflict(conflict) => conflict.code,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_promotion_goes_live_when_it_is_ready() {
    let bench = Bench::new().await;
    let (store, organization) = (bench.store(), bench.organization);
    let made = deployment(&bench).await;
    assert_eq!(made.last_number, 1);
    assert!(made.active.is_none());
    assert!(
        routing::resolve(store, organization, "chat")
            .await
            .unwrap()
            .is_none()
    );
    let first = made.latest.unwrap();
    revisions::activate(store, organization, first.id).await.unwrap();
    assert!(
        routing::resolve(store, organization, "chat")
            .await
            .unwrap()
            .unwrap()
            .routes[0]
            .version
            .is_none()
    );

    let version = bench.publish("tone").await.version_id;
    let routes = to(Some(version));
    let new = NewRevision {
        expected_number: Some(1),
        ..NewRevision::new(RevisionKind::Promote, &routes)
    };
    let second = revisions::create(store, organization, made.id, &new)
        .await
        .unwrap();
    assert_eq!((second.number, second.state), (2, RevisionState::Pending));
    // Requests still go where they went, and the reconciler sees both.
    assert_eq!(
        routing::resolve(store, organization, "chat")
            .await
            .unwrap()
            .unwrap()
            .number,
        1
    );
    assert_eq!(routing::wanted(store).await.unwrap().len(), 2);
    revisions::activate(store, organization, second.id).await.unwrap();
    let live = routing::resolve(store, organization, "chat")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(live.routes[0].version.as_ref().unwrap().id, version);
    assert_eq!(
        revisions::get(store, organization, first.id).await.unwrap().state,
        RevisionState::Superseded
    );
    let error = revisions::activate(store, organization, first.id)
        .await
        .unwrap_err();
    assert_eq!(code(&error), "revision_not_pending");
}

#[tokio::test]
async fn a_revision_that_fails_changes_nothing() {
    let bench = Bench::new().await;
    let (store, organization) = (bench.store(), bench.organization);
    let made = deployment(&bench).await;
    revisions::activate(store, organization, made.latest.unwrap().id)
        .await
        .unwrap();
    let routes = to(Some(bench.publish("tone").await.version_id));
    let new = NewRevision::new(RevisionKind::Promote, &routes);
    let bad = revisions::create(store, organization, made.id, &new)
        .await
        .unwrap();
    revisions::fail(store, organization, bad.id, "the adapter has no effect")
        .await
        .unwrap();
    let found = deployments::find(store, organization, "chat").await.unwrap();
    assert_eq!(found.active.unwrap().number, 1);
    assert_eq!(
        found.latest.unwrap().reason.as_deref(),
        Some("the adapter has no effect")
    );
    assert_eq!(routing::wanted(store).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_newer_revision_overtakes_one_that_is_not_ready() {
    let bench = Bench::new().await;
    let (store, organization) = (bench.store(), bench.organization);
    let made = deployment(&bench).await;
    let routes = to(None);
    let new = NewRevision {
        expected_number: Some(1),
        ..NewRevision::new(RevisionKind::Promote, &routes)
    };
    revisions::create(store, organization, made.id, &new)
        .await
        .unwrap();
    let first = made.latest.unwrap().id;
    assert_eq!(
        revisions::get(store, organization, first).await.unwrap().state,
        RevisionState::Superseded
    );
    let error = revisions::activate(store, organization, first).await.unwrap_err();
    assert_eq!(code(&error), "revision_not_pending");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_promotions_on_the_same_revision_one_wins() {
    let bench = Bench::new().await;
    let made = deployment(&bench).await;
    let racers: Vec<_> = (0..8)
        .map(|_| {
            let (store, organization) = (bench.store().clone(), bench.organization);
            tokio::spawn(async move {
                let routes = to(None);
                let new = NewRevision {
                    expected_number: Some(1),
                    ..NewRevision::new(RevisionKind::Promote, &routes)
                };
                let revision = revisions::create(&store, organization, made.id, &new).await?;
                revisions::activate(&store, organization, revision.id).await
            })
        })
        .collect();
    let mut won = 0;
    for racer in racers {
        match racer.await.unwrap() {
            Ok(()) => won += 1,
            Err(error) => assert_eq!(code(&error), "revision_conflict"),
        }
    }
    assert_eq!(won, 1);
    let all = revisions::list(bench.store(), bench.organization, made.id, &Page::default())
        .await
        .unwrap();
    let states: Vec<_> = all.rows.iter().map(|revision| revision.state).collect();
    assert_eq!(states, [RevisionState::Active, RevisionState::Superseded]);
}

#[tokio::test]
async fn routes_must_make_sense() {
    let bench = Bench::new().await;
    let (store, organization) = (bench.store(), bench.organization);
    let made = deployment(&bench).await;
    let short = [Route::pinned(None, 99)];
    let none = NewRevision {
        expected_number: None,
        ..NewRevision::new(RevisionKind::Promote, &short)
    };
    let error = revisions::create(store, organization, made.id, &none)
        .await
        .unwrap_err();
    assert_eq!(code(&error), "weights_do_not_sum");
    let unknown = to(Some(AdapterVersionId::new()));
    let new = NewRevision {
        expected_number: None,
        ..NewRevision::new(RevisionKind::Promote, &unknown)
    };
    let error = revisions::create(store, organization, made.id, &new)
        .await
        .unwrap_err();
    assert!(
        matches!(error, StoreError::NotFound("adapter version")),
        "{error}"
    );
    let version = bench.publish("tone").await.version_id;
    let other = ready_base_model(store, None, "other").await;
    let wrong_base = to(Some(version));
    let new = NewDeployment {
        name: &name("other"),
        base_model_id: other,
        routes: &wrong_base,
        created_by: None,
    };
    let error = deployments::create(store, organization, &new).await.unwrap_err();
    assert_eq!(code(&error), "base_model_differs");
    assert_eq!(
        deployments::list(store, organization, &Page::default())
            .await
            .unwrap()
            .rows
            .len(),
        1
    );
    let again = NewDeployment {
        name: &name("chat"),
        base_model_id: other,
        routes: &to(None),
        created_by: None,
    };
    assert_eq!(
        code(
            &deployments::create(store, organization, &again)
                .await
                .unwrap_err()
        ),
        "name_taken"
    );
}
