//! An organization sees nothing of another's.

use tunesmith_store::{
    StoreError, adapters, api_keys, base_models, checkpoints, datasets,
    deployments::{self, NewDeployment},
    events, feedback, figures, jobs, metrics,
    queue::{self, NewCheckpoint},
    revisions::{self, NewRevision, Route},
    rollouts::{self, NewCanary},
    routing, runs, shadows,
};
use tunesmith_types::{
    ids::{AdapterVersionId, BaseModelId, DeploymentId, DeploymentRevisionId, JobId},
    list::Page,
    rollouts::CanaryPlan,
    states::{CanaryState, RevisionKind},
};

use crate::fixtures::{Bench, file, name, ready_base_model, sign_up, valid_dataset};

fn not_found<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::NotFound(_))), "{result:?}");
}

/// One of everything that an organization can have.
struct Property {
    version: AdapterVersionId,
    deployment: DeploymentId,
    revision: DeploymentRevisionId,
    canary: rollouts::Canary,
    request: uuid::Uuid,
    private_model: BaseModelId,
    job: JobId,
}

async fn acquire(bench: &Bench) -> Property {
    let store = bench.store();
    let version = bench.publish("tone").await.version_id;
    let new = NewDeployment {
        name: &name("chat"),
        base_model_id: bench.base_model,
        routes: &[Route::pinned(Some(version), 100)],
        created_by: None,
    };
    let deployment = deployments::create(store, bench.organization, &new)
        .await
        .unwrap();
    let private_model = ready_base_model(store, Some(bench.organization), "private").await;
    let job = bench.job().await.id;
    let token = bench.claim("worker").await.token;
    let checkpoint = NewCheckpoint {
        step: 1,
        files: vec![file("state.json")],
        config_hash: "hash".into(),
    };
    queue::record_checkpoint(store, &token, &checkpoint)
        .await
        .unwrap();
    let revision = deployment.latest.unwrap().id;
    let other = deployments::create(
        store,
        bench.organization,
        &NewDeployment {
            name: &name("tried"),
            base_model_id: bench.base_model,
            routes: &[Route::pinned(None, 100)],
            created_by: None,
        },
    )
    .await
    .unwrap();
    revisions::activate(store, bench.organization, other.latest.unwrap().id)
        .await
        .unwrap();
    let plan = CanaryPlan::new(None, None, None).unwrap();
    let new = NewCanary {
        candidate: version,
        plan: &plan,
        expected_number: None,
        note: None,
        created_by: None,
    };
    let canary = rollouts::start(store, bench.organization, other.id, &new)
        .await
        .unwrap();
    let request = crate::requests::recorded(bench, deployment.id, version).await;
    Property {
        canary,
        request,
        version,
        deployment: deployment.id,
        revision,
        private_model,
        job,
    }
}

#[tokio::test]
async fn nothing_of_another_organization_is_found_or_changed() {
    let bench = Bench::new().await;
    let store = bench.store();
    let (_, stranger) = sign_up(store, "eve@example.com").await;
    let theirs = acquire(&bench).await;
    not_found(jobs::get(store, stranger, theirs.job).await);
    not_found(jobs::request_cancel(store, stranger, theirs.job).await);
    not_found(datasets::get(store, stranger, bench.dataset).await);
    not_found(datasets::find(store, stranger, "support", None).await);
    not_found(datasets::delete(store, stranger, bench.dataset).await);
    not_found(base_models::get(store, stranger, theirs.private_model).await);
    not_found(base_models::find(store, stranger, "private").await);
    not_found(base_models::delete(store, stranger, theirs.private_model).await);
    not_found(adapters::find(store, stranger, "tone").await);
    not_found(adapters::find_version(store, stranger, "tone", Some(1)).await);
    not_found(adapters::version(store, stranger, theirs.version).await);
    not_found(deployments::get(store, stranger, theirs.deployment).await);
    not_found(deployments::find(store, stranger, "chat").await);
    not_found(deployments::delete(store, stranger, theirs.deployment).await);
    not_found(revisions::get(store, stranger, theirs.revision).await);
    not_found(revisions::activate(store, stranger, theirs.revision).await);
    not_found(revisions::fail(store, stranger, theirs.revision, "no").await);
    let routes = [Route::pinned(None, 100)];
    let revise = NewRevision::new(RevisionKind::Promote, &routes);
    not_found(revisions::create(store, stranger, theirs.deployment, &revise).await);
    assert!(routing::resolve(store, stranger, "chat").await.unwrap().is_none());
    not_found(revisions::find(store, stranger, theirs.deployment, 1).await);
    not_found(revisions::way_back(store, stranger, "chat", None).await);
    not_found(deployments::find_with_history(store, stranger, "chat", 100).await);
    assert_eq!(
        adapters::names(store, stranger, &[theirs.version]).await.unwrap(),
        []
    );
    not_found(rollouts::latest(store, stranger, theirs.deployment).await);
    not_found(rollouts::get(store, stranger, theirs.canary.id).await);
    let as_own = rollouts::Canary {
        organization_id: stranger,
        ..theirs.canary.clone()
    };
    not_found(rollouts::advance(store, &as_own).await);
    not_found(rollouts::end(store, &as_own, CanaryState::Aborted, "no", None).await);
    not_found(
        shadows::set(store, stranger, theirs.deployment, theirs.version, 50, None)
            .await
            .map(drop),
    );
    not_found(shadows::delete(store, stranger, theirs.deployment).await);
    assert_eq!(
        shadows::get(store, stranger, theirs.deployment).await.unwrap(),
        None
    );
    not_found(feedback::score(store, stranger, theirs.request, 1.0, None).await);
    let scope = figures::Scope::Seconds(3600.0);
    assert_eq!(
        figures::arms(store, stranger, theirs.deployment, scope)
            .await
            .unwrap(),
        []
    );
    assert_eq!(
        figures::arms(store, bench.organization, theirs.deployment, scope)
            .await
            .unwrap()
            .len(),
        1
    );
    assert_eq!(bench.reload(theirs.job).await.cancel_requested_at, None);
}

#[tokio::test]
async fn lists_hold_nothing_of_another_organization() {
    let bench = Bench::new().await;
    let store = bench.store();
    let (_, stranger) = sign_up(store, "eve@example.com").await;
    let theirs = acquire(&bench).await;
    let all = jobs::JobFilter::default();
    assert_eq!(
        jobs::list(store, stranger, &all, &Page::default())
            .await
            .unwrap()
            .rows,
        []
    );
    assert_eq!(
        datasets::list(store, stranger, &Page::default())
            .await
            .unwrap()
            .rows,
        []
    );
    assert_eq!(
        adapters::list(store, stranger, &Page::default())
            .await
            .unwrap()
            .rows,
        []
    );
    assert_eq!(
        adapters::versions(store, stranger, "tone", &Page::default())
            .await
            .unwrap()
            .rows,
        []
    );
    assert_eq!(
        deployments::list(store, stranger, &Page::default())
            .await
            .unwrap()
            .rows,
        []
    );
    assert_eq!(
        revisions::list(store, stranger, theirs.deployment, &Page::default())
            .await
            .unwrap()
            .rows,
        []
    );
    assert_eq!(
        api_keys::list(store, stranger, &Page::default())
            .await
            .unwrap()
            .rows,
        []
    );
    assert_eq!(
        events::list(store, stranger, theirs.job, &Page::default())
            .await
            .unwrap()
            .rows,
        []
    );
    assert_eq!(
        events::since(store, stranger, theirs.job, None, 10)
            .await
            .unwrap(),
        []
    );
    assert_eq!(
        metrics::list(store, stranger, theirs.job, None, 10)
            .await
            .unwrap(),
        []
    );
    assert_eq!(runs::list(store, stranger, theirs.job).await.unwrap(), []);
    assert_eq!(
        checkpoints::list(store, stranger, theirs.job, 10).await.unwrap(),
        []
    );
    let shared = base_models::list(store, stranger, &Page::default())
        .await
        .unwrap()
        .rows;
    assert_eq!(
        shared.iter().map(|model| model.id).collect::<Vec<_>>(),
        [bench.base_model]
    );
}

#[tokio::test]
async fn another_organizations_parts_cannot_be_used() {
    let bench = Bench::new().await;
    let store = bench.store();
    let hyperparameters = bench.job().await.hyperparameters;
    let (_, stranger) = sign_up(store, "eve@example.com").await;
    let own_dataset = valid_dataset(store, stranger, "own").await;
    let private = ready_base_model(store, Some(bench.organization), "private").await;
    for (dataset_id, base_model_id) in [(bench.dataset, bench.base_model), (own_dataset, private)] {
        let adapter = name("theft");
        let new = jobs::NewJob {
            adapter: &adapter,
            base_model_id,
            dataset_id,
            parent_version_id: None,
            hyperparameters: &hyperparameters,
            max_attempts: 1,
            created_by: None,
        };
        not_found(jobs::create(store, stranger, &new).await);
    }
    // Before the stranger's job is in the queue, this claims the first of the two.
    let claimed = bench.claim("worker").await;
    let version = queue::complete(store, &claimed.token, &crate::fixtures::completion())
        .await
        .unwrap()
        .version_id;
    let routes = [Route::pinned(Some(version), 100)];
    let new = NewDeployment {
        name: &name("chat"),
        base_model_id: bench.base_model,
        routes: &routes,
        created_by: None,
    };
    not_found(deployments::create(store, stranger, &new).await);
    let routes = [Route::pinned(None, 100)];
    let new = NewDeployment {
        name: &name("chat"),
        base_model_id: private,
        routes: &routes,
        created_by: None,
    };
    not_found(deployments::create(store, stranger, &new).await);
}

#[tokio::test]
async fn the_same_names_live_beside_each_other() {
    let bench = Bench::new().await;
    let store = bench.store();
    let (_, other) = sign_up(store, "eve@example.com").await;
    valid_dataset(store, other, "support").await;
    assert_eq!(
        datasets::find(store, other, "support", None)
            .await
            .unwrap()
            .number,
        1
    );
    valid_dataset(store, other, "support").await;
    assert_eq!(
        datasets::find(store, other, "support", None)
            .await
            .unwrap()
            .number,
        2
    );
    assert_eq!(
        datasets::find(store, bench.organization, "support", None)
            .await
            .unwrap()
            .number,
        1
    );
    // An organization's own model comes before the shared one.
    let own = ready_base_model(store, Some(other), "primer").await;
    assert_eq!(base_models::find(store, other, "primer").await.unwrap().id, own);
    assert_eq!(
        base_models::find(store, bench.organization, "primer")
            .await
            .unwrap()
            .id,
        bench.base_model
    );
    assert_eq!(
        base_models::find_shared(store, "primer").await.unwrap().id,
        bench.base_model
    );
}
