//! An organization sees nothing of another's.

use tunesmith_store::{
    StoreError, adapters, api_keys, base_models, checkpoints, datasets,
    deployments::{self, NewDeployment},
    events, jobs, metrics,
    queue::{self, NewCheckpoint},
    revisions::{self, NewRevision, Route},
    routing, runs,
};
use tunesmith_types::list::Page;

use crate::fixtures::{Bench, file, name, ready_base_model, sign_up, valid_dataset};

fn not_found<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::NotFound(_))), "{result:?}");
}

#[tokio::test]
async fn nothing_of_another_organization_is_found_or_changed() {
    let bench = Bench::new().await;
    let store = bench.store();
    let (_, stranger) = sign_up(store, "eve@example.com").await;
    let version = bench.publish("tone").await.version_id;
    let route = [Route {
        adapter_version_id: Some(version),
        weight: 100,
    }];
    let new = NewDeployment {
        name: &name("chat"),
        base_model_id: bench.base_model,
        routes: &route,
        created_by: None,
    };
    let deployment = deployments::create(store, bench.organization, &new)
        .await
        .unwrap();
    let revision = deployment.latest.clone().unwrap().id;
    let private = ready_base_model(store, Some(bench.organization), "private").await;
    let job = bench.job().await;
    let token = bench.claim("worker").await.token;
    let checkpoint = NewCheckpoint {
        step: 1,
        files: vec![file("state.json")],
        config_hash: "hash".into(),
    };
    queue::record_checkpoint(store, &token, &checkpoint)
        .await
        .unwrap();

    not_found(jobs::get(store, stranger, job.id).await);
    not_found(jobs::request_cancel(store, stranger, job.id).await);
    not_found(datasets::get(store, stranger, bench.dataset).await);
    not_found(datasets::find(store, stranger, "support", None).await);
    not_found(datasets::delete(store, stranger, bench.dataset).await);
    not_found(base_models::get(store, stranger, private).await);
    not_found(base_models::find(store, stranger, "private").await);
    not_found(base_models::delete(store, stranger, private).await);
    not_found(adapters::find(store, stranger, "tone").await);
    not_found(adapters::find_version(store, stranger, "tone", Some(1)).await);
    not_found(adapters::version(store, stranger, version).await);
    not_found(deployments::get(store, stranger, deployment.id).await);
    not_found(deployments::find(store, stranger, "chat").await);
    not_found(deployments::delete(store, stranger, deployment.id).await);
    not_found(revisions::get(store, stranger, revision).await);
    not_found(revisions::activate(store, stranger, revision).await);
    not_found(revisions::fail(store, stranger, revision, "no").await);
    let revise = NewRevision {
        expected_number: None,
        routes: &route,
        created_by: None,
    };
    not_found(revisions::create(store, stranger, deployment.id, &revise).await);
    assert!(routing::resolve(store, stranger, "chat").await.unwrap().is_none());
    assert!(
        jobs::list(store, stranger, &jobs::JobFilter::default(), &Page::default())
            .await
            .unwrap()
            .rows
            .is_empty()
    );
    assert!(
        datasets::list(store, stranger, &Page::default())
            .await
            .unwrap()
            .rows
            .is_empty()
    );
    assert!(
        adapters::list(store, stranger, &Page::default())
            .await
            .unwrap()
            .rows
            .is_empty()
    );
    assert!(
        adapters::versions(store, stranger, "tone", &Page::default())
            .await
            .unwrap()
            .rows
            .is_empty()
    );
    assert!(
        deployments::list(store, stranger, &Page::default())
            .await
            .unwrap()
            .rows
            .is_empty()
    );
    assert!(
        revisions::list(store, stranger, deployment.id, &Page::default())
            .await
            .unwrap()
            .rows
            .is_empty()
    );
    assert!(
        api_keys::list(store, stranger, &Page::default())
            .await
            .unwrap()
            .rows
            .is_empty()
    );
    assert!(
        events::list(store, stranger, job.id, &Page::default())
            .await
            .unwrap()
            .rows
            .is_empty()
    );
    assert!(
        events::since(store, stranger, job.id, None, 10)
            .await
            .unwrap()
            .is_empty()
    );
    assert!(
        metrics::list(store, stranger, job.id, None, 10)
            .await
            .unwrap()
            .is_empty()
    );
    assert!(runs::list(store, stranger, job.id).await.unwrap().is_empty());
    assert!(
        checkpoints::list(store, stranger, job.id, 10)
            .await
            .unwrap()
            .is_empty()
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
    let routes = [Route {
        adapter_version_id: Some(version),
        weight: 100,
    }];
    let new = NewDeployment {
        name: &name("chat"),
        base_model_id: bench.base_model,
        routes: &routes,
        created_by: None,
    };
    not_found(deployments::create(store, stranger, &new).await);
    let routes = [Route {
        adapter_version_id: None,
        weight: 100,
    }];
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
