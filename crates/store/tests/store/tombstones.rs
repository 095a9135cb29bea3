//! Deleted versions: never one that is in use, and never without a trace.

use tunesmith_store::{
    StoreError, adapters,
    aliases::{self, Expected, Mover, Target},
    deployments::{self, NewDeployment},
    revisions::{self, NewRevision, Route},
    tombstones,
};
use tunesmith_types::{
    ids::{AdapterVersionId, DeploymentId},
    list::Page,
    states::{RevisionKind, RevisionState},
    version_reference::AliasName,
};

use crate::fixtures::{Bench, name, sign_up};

async fn delete(bench: &Bench, number: i32) -> Result<AdapterVersionId, StoreError> {
    let (store, organization) = (bench.store(), bench.organization);
    let reason = Some("worse than the one before");
    tombstones::delete_version(store, organization, "tone", number, Some(bench.user), reason).await
}

fn in_use(error: &StoreError) -> String {
    match error {
        StoreError::Conflict(conflict) if conflict.code == "version_in_use" => conflict.message.clone(),
        other => panic!("{other}"),
    }
}

fn mover(bench: &Bench) -> Mover<'static> {
    Mover {
        expected: Expected::Anything,
        user: Some(bench.user),
        may_change_protected: false,
        reason: None,
    }
}

async fn route_to(
    bench: &Bench,
    deployment: DeploymentId,
    version: AdapterVersionId,
) -> Result<(), StoreError> {
    let (store, organization) = (bench.store(), bench.organization);
    let routes = [Route::pinned(Some(version), 100)];
    let new = NewRevision::new(RevisionKind::Promote, &routes);
    let revision = revisions::create(store, organization, deployment, &new).await?;
    if revision.state == RevisionState::Pending {
        revisions::activate(store, organization, revision.id).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_deleted_version_leaves_a_tombstone() {
    let bench = Bench::new().await;
    let (store, organization) = (bench.store(), bench.organization);
    bench.publish("tone").await;
    bench.publish("tone").await;
    let before = adapters::find_version(store, organization, "tone", Some(2))
        .await
        .unwrap();
    assert_eq!(
        tombstones::orphaned_keys(store, organization, before.id)
            .await
            .unwrap(),
        Vec::<String>::new()
    );
    let id = delete(&bench, 2).await.unwrap();
    assert_eq!(delete(&bench, 2).await.unwrap(), id);
    let after = adapters::find_any_version(store, organization, "tone", Some(2))
        .await
        .unwrap();
    let deletion = after.deletion.clone().unwrap();
    assert_eq!(
        (deletion.deleted_by, deletion.reason.as_deref()),
        (Some(bench.user), Some("worse than the one before"))
    );
    assert_eq!(
        (&after.digest, &after.manifest),
        (&before.digest, &before.manifest)
    );
    let newest = adapters::find_version(store, organization, "tone", None)
        .await
        .unwrap();
    assert_eq!(newest.number, 1);
    let error = adapters::find_version(store, organization, "tone", Some(2))
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::NotFound(_)), "{error}");
    let page = Page::default();
    let live = adapters::versions(store, organization, "tone", &page)
        .await
        .unwrap()
        .rows;
    let all = adapters::all_versions(store, organization, "tone", &page)
        .await
        .unwrap()
        .rows;
    let numbers = |rows: &[adapters::AdapterVersion]| rows.iter().map(|row| row.number).collect::<Vec<_>>();
    assert_eq!((numbers(&live), numbers(&all)), (vec![1], vec![2, 1]));
    // Its number is never given again.
    assert_eq!(bench.publish("tone").await.number, 3);
}

#[tokio::test]
async fn what_is_in_use_stays() {
    let bench = Bench::new().await;
    let (store, organization) = (bench.store(), bench.organization);
    let mut versions = Vec::new();
    for _ in 0..4 {
        versions.push(bench.publish("tone").await.version_id);
    }
    let champion: AliasName = "champion".parse().unwrap();
    let target = Target {
        version: 4,
        protected: None,
    };
    aliases::move_alias(store, organization, "tone", &champion, &target, &mover(&bench))
        .await
        .unwrap();
    assert!(in_use(&delete(&bench, 4).await.unwrap_err()).contains("alias `champion`"));
    aliases::delete(store, organization, "tone", &champion, &mover(&bench))
        .await
        .unwrap();
    delete(&bench, 4).await.unwrap();

    let new = NewDeployment {
        name: &name("chat"),
        base_model_id: bench.base_model,
        routes: &[Route::pinned(Some(versions[0]), 100)],
        created_by: None,
    };
    let deployment = deployments::create(store, organization, &new).await.unwrap();
    let pending = in_use(&delete(&bench, 1).await.unwrap_err());
    assert!(
        pending.contains("deployment `chat` (revision 1, pending)"),
        "{pending}"
    );
    revisions::activate(store, organization, deployment.latest.unwrap().id)
        .await
        .unwrap();
    assert!(in_use(&delete(&bench, 1).await.unwrap_err()).contains("active"));
    route_to(&bench, deployment.id, versions[1]).await.unwrap();
    // Kept, so that one can go back.
    assert!(in_use(&delete(&bench, 1).await.unwrap_err()).contains("superseded"));
    route_to(&bench, deployment.id, versions[2]).await.unwrap();
    delete(&bench, 1).await.unwrap();
    assert!(in_use(&delete(&bench, 2).await.unwrap_err()).contains("revision 2"));

    let error = route_to(&bench, deployment.id, versions[0]).await.unwrap_err();
    assert!(
        matches!(error, StoreError::NotFound("adapter version")),
        "{error}"
    );
    let target = Target {
        version: 1,
        protected: None,
    };
    let error = aliases::move_alias(store, organization, "tone", &champion, &target, &mover(&bench))
        .await
        .unwrap_err();
    assert!(
        matches!(error, StoreError::NotFound("adapter version")),
        "{error}"
    );
}

#[tokio::test]
async fn a_version_is_never_deleted_and_aliased_at_once() {
    let bench = Bench::new().await;
    let (store, organization) = (bench.store(), bench.organization);
    for number in 1..=8 {
        bench.publish("tone").await;
        let alias: AliasName = format!("a{number}").parse().unwrap();
        let target = Target {
            version: number,
            protected: None,
        };
        let mover = mover(&bench);
        let (moved, deleted) = tokio::join!(
            aliases::move_alias(store, organization, "tone", &alias, &target, &mover),
            delete(&bench, number),
        );
        assert_ne!(moved.is_ok(), deleted.is_ok());
    }
}

#[tokio::test]
async fn another_organization_cannot_delete() {
    let bench = Bench::new().await;
    let store = bench.store();
    let version = bench.publish("tone").await.version_id;
    let (user, stranger) = sign_up(store, "eve@example.com").await;
    let error = tombstones::delete_version(store, stranger, "tone", 1, Some(user), None)
        .await
        .unwrap_err();
    assert!(
        matches!(error, StoreError::NotFound("adapter version")),
        "{error}"
    );
    delete(&bench, 1).await.unwrap();
    assert_eq!(
        tombstones::orphaned_keys(store, stranger, version).await.unwrap(),
        Vec::<String>::new()
    );
}
