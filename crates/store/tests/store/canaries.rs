//! Canaries, and what happens when they meet other revisions.

use tunesmith_store::{
    deployments::{self, Deployment, NewDeployment},
    revisions::{self, Route},
    rollouts::{self, Canary, NewCanary},
};
use tunesmith_types::{
    ids::AdapterVersionId,
    rollouts::CanaryPlan,
    states::{CanaryState, RevisionKind, RevisionState},
};

use crate::{
    fixtures::{Bench, name},
    rollouts::{code, live, promoted, revise},
};

async fn canary(bench: &Bench, deployment: &Deployment, candidate: AdapterVersionId) -> Canary {
    let plan = CanaryPlan::new(Some(&[10, 50, 100]), Some(1), None).unwrap();
    let new = NewCanary {
        candidate,
        plan: &plan,
        expected_number: None,
        note: Some("better words"),
        created_by: Some(bench.user),
    };
    let canary = rollouts::start(bench.store(), bench.organization, deployment.id, &new)
        .await
        .unwrap();
    let revision = revisions::find(
        bench.store(),
        bench.organization,
        deployment.id,
        canary.revision(),
    )
    .await
    .unwrap();
    assert_eq!(
        (revision.kind, revision.state),
        (RevisionKind::Canary, RevisionState::Pending)
    );
    revisions::activate(bench.store(), bench.organization, revision.id)
        .await
        .unwrap();
    rollouts::get(bench.store(), bench.organization, canary.id)
        .await
        .unwrap()
}

async fn reread(bench: &Bench, canary: &Canary) -> Canary {
    rollouts::get(bench.store(), bench.organization, canary.id)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_canary_goes_step_by_step_to_its_end() {
    let bench = Bench::new().await;
    let store = bench.store();
    let (first, second) = (
        bench.publish("tone").await.version_id,
        bench.publish("tone").await.version_id,
    );
    let deployment = live(&bench, Some(first)).await;
    let mut canary = canary(&bench, &deployment, second).await;
    assert_eq!(
        (canary.percent(), canary.revision_state),
        (10, RevisionState::Active)
    );
    assert!(canary.seconds_in_step.unwrap() >= 0.0);
    for percent in [50, 100] {
        let seen = canary.clone();
        rollouts::advance(store, &canary).await.unwrap();
        let late = rollouts::advance(store, &seen).await.unwrap_err();
        assert_eq!(code(&late), "canary_moved_on");
        canary = reread(&bench, &canary).await;
        // What a step needs is loaded since the first, so it answers at once.
        assert_eq!(
            (canary.percent(), canary.revision_state),
            (percent, RevisionState::Active)
        );
    }
    rollouts::end(store, &canary, CanaryState::Completed, "done", None)
        .await
        .unwrap();
    let canary = reread(&bench, &canary).await;
    assert_eq!(
        (canary.state, canary.revisions.as_slice()),
        (CanaryState::Completed, &[2, 3, 4][..])
    );
    let found = deployments::find(store, bench.organization, "chat")
        .await
        .unwrap();
    assert_eq!(found.active.unwrap().routes, [Route::pinned(Some(second), 100)]);
    // Back is where the canary began, not its last step.
    let back = revisions::way_back(store, bench.organization, "chat", None)
        .await
        .unwrap();
    let first = revisions::find(store, bench.organization, deployment.id, 1)
        .await
        .unwrap();
    assert_eq!(back.routes, Some(first.routes));
}

#[tokio::test]
async fn a_canary_that_is_stopped_leads_back_at_once() {
    let bench = Bench::new().await;
    let store = bench.store();
    let first = bench.publish("tone").await.version_id;
    let deployment = live(&bench, None).await;
    let canary = canary(&bench, &deployment, first).await;
    rollouts::say(store, &canary, "3 of 20 requests").await.unwrap();
    assert_eq!(
        reread(&bench, &canary).await.reason.as_deref(),
        Some("3 of 20 requests")
    );
    rollouts::end(store, &canary, CanaryState::Stopped, "error rate 0.5", None)
        .await
        .unwrap();
    let ended = reread(&bench, &canary).await;
    assert_eq!(
        (ended.state, ended.reason.as_deref()),
        (CanaryState::Stopped, Some("error rate 0.5"))
    );
    assert!(ended.ended_at.is_some());
    let found = deployments::find(store, bench.organization, "chat")
        .await
        .unwrap()
        .active
        .unwrap();
    assert_eq!(
        (found.kind, found.routes),
        (RevisionKind::Rollback, vec![Route::pinned(None, 100)])
    );
    assert_eq!(found.note.as_deref(), Some("error rate 0.5"));
    let again = rollouts::end(store, &canary, CanaryState::Aborted, "me too", None)
        .await
        .unwrap_err();
    assert_eq!(code(&again), "canary_moved_on");
    assert!(rollouts::running(store).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_canary_ends_where_another_revision_is_made() {
    let bench = Bench::new().await;
    let store = bench.store();
    let (first, second) = (
        bench.publish("tone").await.version_id,
        bench.publish("tone").await.version_id,
    );
    let deployment = live(&bench, Some(first)).await;
    let canary = canary(&bench, &deployment, second).await;
    promoted(&bench, &deployment, bench.publish("tone").await.version_id).await;
    let ended = reread(&bench, &canary).await;
    assert_eq!(ended.state, CanaryState::Superseded);
    assert_eq!(ended.reason.as_deref(), Some("revision 3 (promote) was made"));
    let late = rollouts::advance(store, &canary).await.unwrap_err();
    assert_eq!(code(&late), "canary_moved_on");
    let found = deployments::find(store, bench.organization, "chat")
        .await
        .unwrap();
    assert_eq!((found.last_number, found.active.unwrap().number), (3, 3));
}

/// A step and a promotion at the same moment: either the promotion comes last and ends the canary, whatever the step
/// did, and nothing is half done.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_step_and_a_promotion_race() {
    let bench = Bench::new().await;
    let store = bench.store();
    let (first, second) = (
        bench.publish("tone").await.version_id,
        bench.publish("tone").await.version_id,
    );
    let third = bench.publish("tone").await.version_id;
    let deployment = live(&bench, Some(first)).await;
    let canary = canary(&bench, &deployment, second).await;
    let steps: Vec<_> = (0..4)
        .map(|_| {
            let (store, canary) = (store.clone(), canary.clone());
            tokio::spawn(async move { rollouts::advance(&store, &canary).await })
        })
        .collect();
    let routes = [Route::pinned(Some(third), 100)];
    let promotion = revise(&bench, &deployment, RevisionKind::Promote, &routes).await;
    let mut won = 0;
    for step in steps {
        match step.await.unwrap() {
            Ok(()) => won += 1,
            Err(error) => assert_eq!(code(&error), "canary_moved_on"),
        }
    }
    assert!(won <= 1, "{won} controllers made the same step");
    let ended = reread(&bench, &canary).await;
    assert_eq!(ended.state, CanaryState::Superseded);
    assert_eq!(
        ended.reason,
        Some(format!("revision {} (promote) was made", promotion.number))
    );
    let found = deployments::find(store, bench.organization, "chat")
        .await
        .unwrap();
    assert_eq!((found.last_number, promotion.number), (3 + won, 3 + won));
}

#[tokio::test]
async fn a_canary_needs_something_to_be_compared_with() {
    let bench = Bench::new().await;
    let (store, organization) = (bench.store(), bench.organization);
    let version = bench.publish("tone").await.version_id;
    let new = NewDeployment {
        name: &name("cold"),
        base_model_id: bench.base_model,
        routes: &[Route::pinned(None, 100)],
        created_by: None,
    };
    let cold = deployments::create(store, organization, &new).await.unwrap();
    let plan = CanaryPlan::new(None, None, None).unwrap();
    let mut new = NewCanary {
        candidate: version,
        plan: &plan,
        expected_number: None,
        note: None,
        created_by: None,
    };
    let error = rollouts::start(store, organization, cold.id, &new)
        .await
        .unwrap_err();
    assert_eq!(code(&error), "nothing_active");
    let deployment = live(&bench, Some(version)).await;
    let error = rollouts::start(store, organization, deployment.id, &new)
        .await
        .unwrap_err();
    assert_eq!(code(&error), "already_routed");
    new.candidate = bench.publish("tone").await.version_id;
    new.expected_number = Some(7);
    let error = rollouts::start(store, organization, deployment.id, &new)
        .await
        .unwrap_err();
    assert_eq!(code(&error), "revision_conflict");
    assert!(rollouts::running(store).await.unwrap().is_empty());
}
