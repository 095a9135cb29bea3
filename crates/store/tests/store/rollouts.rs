//! Rollbacks, shadows, and deployments that follow an alias.

use std::collections::HashSet;

use tunesmith_store::{
    StoreError,
    aliases::{self, Expected, Mover, Target},
    deployments::{self, Deployment, NewDeployment},
    revisions::{self, NewRevision, Revision, Route},
    routing, shadows,
};
use tunesmith_types::{
    ids::AdapterVersionId,
    states::{RevisionKind, RevisionState},
};

use crate::fixtures::{Bench, name, ready_base_model};

pub(crate) async fn live(bench: &Bench, version: Option<AdapterVersionId>) -> Deployment {
    let new = NewDeployment {
        name: &name("chat"),
        base_model_id: bench.base_model,
        routes: &[Route::pinned(version, 100)],
        created_by: None,
    };
    let made = deployments::create(bench.store(), bench.organization, &new)
        .await
        .unwrap();
    revisions::activate(bench.store(), bench.organization, made.latest.unwrap().id)
        .await
        .unwrap();
    deployments::find(bench.store(), bench.organization, "chat")
        .await
        .unwrap()
}

/// Two versions, and a deployment on the first.
async fn first_of_two(bench: &Bench) -> (AdapterVersionId, AdapterVersionId, Deployment) {
    let first = bench.publish("tone").await.version_id;
    let second = bench.publish("tone").await.version_id;
    (first, second, live(bench, Some(first)).await)
}

pub(crate) async fn revise(
    bench: &Bench,
    deployment: &Deployment,
    kind: RevisionKind,
    routes: &[Route],
) -> Revision {
    let new = NewRevision::new(kind, routes);
    revisions::create(bench.store(), bench.organization, deployment.id, &new)
        .await
        .unwrap()
}

/// A promotion that the reconciler has made ready.
pub(crate) async fn promoted(bench: &Bench, deployment: &Deployment, version: AdapterVersionId) -> Revision {
    let routes = [Route::pinned(Some(version), 100)];
    let made = revise(bench, deployment, RevisionKind::Promote, &routes).await;
    assert_eq!(made.state, RevisionState::Pending);
    revisions::activate(bench.store(), bench.organization, made.id)
        .await
        .unwrap();
    made
}

pub(crate) fn code(error: &StoreError) -> &str {
    match error {
        StoreError::Conflict(conflict) => conflict.code,
        other => panic!("{other}"),
    }
}

/// Whoever reads while rollbacks go to and fro finds both versions: neither may be taken off a replica.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wanted_is_read_as_of_one_moment() {
    let bench = Bench::new().await;
    let (store, organization) = (bench.store(), bench.organization);
    let (first, second, deployment) = first_of_two(&bench).await;
    promoted(&bench, &deployment, second).await;
    let going = async {
        for round in 0..120 {
            let routes = [Route::pinned(Some([first, second][round % 2]), 100)];
            let made = revise(&bench, &deployment, RevisionKind::Rollback, &routes).await;
            assert_eq!(made.state, RevisionState::Active, "round {round}");
        }
    };
    let reading = tokio::spawn({
        let store = store.clone();
        async move {
            loop {
                let wanted = routing::wanted(&store).await.unwrap();
                let versions = wanted.iter().flat_map(|revision| &revision.routes);
                let versions: HashSet<_> = versions.map(|route| route.version.as_ref().unwrap().id).collect();
                assert_eq!(versions, HashSet::from([first, second]));
            }
        }
    });
    going.await;
    assert!(!reading.is_finished(), "a version was not wanted");
    reading.abort();
    assert!(
        routing::resolve(store, organization, "chat")
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn a_rollback_answers_at_once_while_the_version_before_is_loaded() {
    let bench = Bench::new().await;
    let (store, organization) = (bench.store(), bench.organization);
    let (first, second, deployment) = first_of_two(&bench).await;
    let back = async || {
        revisions::way_back(store, organization, "chat", None)
            .await
            .unwrap()
    };
    assert_eq!(back().await.routes, None);
    promoted(&bench, &deployment, second).await;
    let kept: Vec<_> = routing::wanted(store).await.unwrap();
    assert_eq!(
        kept.iter()
            .map(|kept| (kept.number, kept.state, kept.loaded))
            .collect::<Vec<_>>(),
        [
            (2, RevisionState::Active, true),
            (1, RevisionState::Superseded, true)
        ]
    );

    let found = back().await;
    assert_eq!(found.deployment_id, deployment.id);
    let routes = found.routes.unwrap();
    assert_eq!(routes, [Route::pinned(Some(first), 100)]);
    let named = revisions::way_back(store, organization, "chat", Some(2))
        .await
        .unwrap();
    assert_eq!(named.routes.unwrap(), [Route::pinned(Some(second), 100)]);
    let unknown = revisions::way_back(store, organization, "chat", Some(9))
        .await
        .unwrap();
    assert_eq!(unknown.routes, None);
    let revision = revise(&bench, &deployment, RevisionKind::Rollback, &routes).await;
    assert_eq!(
        revisions::get(store, organization, revision.id).await.unwrap(),
        revision,
        "what was made is what is stored"
    );
    assert_eq!(
        (revision.number, revision.state, revision.parent_number),
        (3, RevisionState::Active, Some(2))
    );
    let live = routing::resolve(store, organization, "chat")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(live.routes[0].version.as_ref().unwrap().id, first);
    assert_eq!(
        revisions::find(store, organization, deployment.id, 2)
            .await
            .unwrap()
            .state,
        RevisionState::Superseded
    );
    // A replica has lost what it kept: forward again takes the ordinary way.
    let kept = revisions::find(store, organization, deployment.id, 2)
        .await
        .unwrap();
    revisions::set_loaded(store, organization, kept.id, false)
        .await
        .unwrap();
    let forward = revise(&bench, &deployment, RevisionKind::Rollback, &kept.routes).await;
    assert_eq!(forward.state, RevisionState::Pending);
    assert_eq!(
        routing::resolve(store, organization, "chat")
            .await
            .unwrap()
            .unwrap()
            .number,
        3
    );
}

#[tokio::test]
async fn deployments_follow_an_alias_and_only_theirs() {
    let bench = Bench::new().await;
    let (store, organization) = (bench.store(), bench.organization);
    let (first, second) = (
        bench.publish("tone").await.version_id,
        bench.publish("tone").await.version_id,
    );
    let other = bench.publish("other").await.version_id;
    let route = |version, weight, alias: Option<&str>| Route {
        adapter_version_id: Some(version),
        weight,
        alias: alias.map(|alias| alias.parse().unwrap()),
    };
    let deployment = live(&bench, None).await;
    let routes = [
        route(first, 60, Some("champion")),
        route(other, 30, Some("champion")),
        route(first, 10, None),
    ];
    revise(&bench, &deployment, RevisionKind::Split, &routes).await;
    let mover = Mover {
        expected: Expected::Anything,
        user: Some(bench.user),
        may_change_protected: true,
        reason: None,
    };
    let champion = "champion".parse().unwrap();
    let point = async |version| {
        let target = Target {
            version,
            protected: None,
        };
        aliases::move_alias(store, organization, "tone", &champion, &target, &mover)
            .await
            .unwrap()
    };
    point(1).await;
    let unmoved = deployments::find(store, organization, "chat").await.unwrap();
    assert_eq!(
        unmoved.last_number, 2,
        "the alias points to where the revision has it already"
    );
    point(2).await;
    let latest = deployments::find(store, organization, "chat")
        .await
        .unwrap()
        .latest
        .unwrap();
    assert_eq!(
        (latest.number, latest.kind, latest.created_by),
        (3, RevisionKind::Alias, Some(bench.user))
    );
    assert_eq!(
        latest.routes,
        [
            route(second, 60, Some("champion")),
            route(other, 30, Some("champion")),
            route(first, 10, None)
        ]
    );
    // The history says what served when, although the alias has moved on.
    let before = revisions::find(store, organization, deployment.id, 2)
        .await
        .unwrap();
    assert_eq!(before.routes, routes);
    point(2).await;
    let unmoved = deployments::find(store, organization, "chat").await.unwrap();
    assert_eq!(unmoved.last_number, 3);
}

#[tokio::test]
async fn a_shadow_is_wanted_and_never_routed_to() {
    let bench = Bench::new().await;
    let (store, organization) = (bench.store(), bench.organization);
    let version = bench.publish("tone").await.version_id;
    let deployment = live(&bench, None).await;
    shadows::set(store, organization, deployment.id, version, 100, None)
        .await
        .unwrap();
    shadows::set(store, organization, deployment.id, version, 20, None)
        .await
        .unwrap();
    let resolved = routing::resolve(store, organization, "chat")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(resolved.routes.len(), 1);
    let mirror = resolved.mirror.unwrap();
    assert_eq!((mirror.version.id, mirror.percent), (version, 20));
    let wanted = routing::wanted(store).await.unwrap();
    let shadow = &wanted[1];
    assert_eq!(shadow.state, RevisionState::Superseded);
    assert_eq!(shadow.routes[0].version.as_ref().unwrap().id, version);
    shadows::delete(store, organization, deployment.id).await.unwrap();
    assert_eq!(routing::wanted(store).await.unwrap().len(), 1);

    let other = ready_base_model(store, None, "other").await;
    let new = NewDeployment {
        name: &name("elsewhere"),
        base_model_id: other,
        routes: &[Route::pinned(None, 100)],
        created_by: None,
    };
    let elsewhere = deployments::create(store, organization, &new).await.unwrap();
    let error = shadows::set(store, organization, elsewhere.id, version, 20, None)
        .await
        .unwrap_err();
    assert_eq!(code(&error), "base_model_differs");
}
