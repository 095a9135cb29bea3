//! Jobs that begin with the adapter of a version.

use serde_json::json;
use tunesmith_store::{
    StoreError, adapters,
    jobs::{self, Job, NewJob},
    lineage::{self, Start},
    queue, tombstones,
};
use tunesmith_types::{
    hyperparameters::HyperparametersRequest,
    ids::{AdapterVersionId, OrganizationId},
};

use crate::fixtures::{Bench, completion, name, sign_up, valid_dataset};

async fn begin_with(bench: &Bench, parent: AdapterVersionId) -> Result<Job, StoreError> {
    begin_as(bench, bench.organization, bench.dataset, parent).await
}

async fn begin_as(
    bench: &Bench,
    organization: OrganizationId,
    dataset: tunesmith_types::ids::DatasetId,
    parent: AdapterVersionId,
) -> Result<Job, StoreError> {
    let new = NewJob {
        adapter: &name("tone"),
        base_model_id: bench.base_model,
        dataset_id: dataset,
        parent_version_id: Some(parent),
        hyperparameters: &HyperparametersRequest::default().resolve(None).unwrap(),
        max_attempts: 3,
        created_by: None,
    };
    jobs::create(bench.store(), organization, &new).await
}

async fn delete(bench: &Bench, number: i32) -> Result<AdapterVersionId, StoreError> {
    tombstones::delete_version(bench.store(), bench.organization, "tone", number, None, None).await
}

fn assert_in_use(error: &StoreError, job: &Job) {
    let StoreError::Conflict(conflict) = error else {
        panic!("{error}")
    };
    assert_eq!(conflict.code, "version_in_use");
    assert!(
        conflict.message.contains(&job.id.to_string()),
        "{}",
        conflict.message
    );
}

#[tokio::test]
async fn a_job_holds_its_parent_until_it_ends() {
    let bench = Bench::new().await;
    let (store, organization) = (bench.store(), bench.organization);
    let parent = bench.publish("tone").await.version_id;
    let job = begin_with(&bench, parent).await.unwrap();
    let shown = job.parent.as_ref().unwrap();
    assert_eq!(
        (shown.version_id, shown.adapter.as_str(), shown.number),
        (parent, "tone", 1)
    );
    assert_in_use(&delete(&bench, 1).await.unwrap_err(), &job);

    let claimed = bench.claim("worker").await;
    let files = &claimed.parent.as_ref().unwrap().files;
    assert_eq!(
        files,
        &adapters::version(store, organization, parent)
            .await
            .unwrap()
            .files
    );
    assert_in_use(&delete(&bench, 1).await.unwrap_err(), &job);

    let mut completion = completion();
    completion.version.manifest = json!({"rank": 16, "parent_version": parent});
    let child = queue::complete(store, &claimed.token, &completion).await.unwrap();
    let walk = |start: Start| async move { lineage::walk(store, organization, &start).await.unwrap() };
    let of_job = walk(Start {
        jobs: vec![job.id],
        ..Start::default()
    })
    .await;
    let of_parent = walk(Start {
        versions: vec![parent],
        ..Start::default()
    })
    .await;
    for found in [of_job, of_parent] {
        let [older, younger] = &found.versions[..] else {
            panic!("{:?}", found.versions)
        };
        assert_eq!((older.id, &older.children), (parent, &vec![child.version_id]));
        assert_eq!((younger.id, younger.parent), (child.version_id, Some(parent)));
        let begun = found.jobs.iter().find(|found| found.id == job.id).unwrap();
        assert_eq!(begun.parent, Some(parent));
    }
    delete(&bench, 1).await.unwrap();
    let gone = begin_with(&bench, parent).await.unwrap_err();
    assert!(matches!(gone, StoreError::NotFound("adapter version")), "{gone}");
}

#[tokio::test]
async fn a_cancelled_job_holds_nothing() {
    let bench = Bench::new().await;
    let parent = bench.publish("tone").await.version_id;
    let job = begin_with(&bench, parent).await.unwrap();
    jobs::request_cancel(bench.store(), bench.organization, job.id)
        .await
        .unwrap();
    delete(&bench, 1).await.unwrap();
}

#[tokio::test]
async fn a_version_is_never_deleted_and_begun_with_at_once() {
    let bench = Bench::new().await;
    let mut published = Vec::new();
    for _ in 0..8 {
        published.push(bench.publish("tone").await);
    }
    for version in published {
        let (begun, deleted) = tokio::join!(
            begin_with(&bench, version.version_id),
            delete(&bench, version.number)
        );
        assert_ne!(begun.is_ok(), deleted.is_ok());
    }
}

#[tokio::test]
async fn nobody_begins_with_a_version_of_another_organization() {
    let bench = Bench::new().await;
    let parent = bench.publish("tone").await.version_id;
    let (_, stranger) = sign_up(bench.store(), "eve@example.com").await;
    let dataset = valid_dataset(bench.store(), stranger, "theirs").await;
    let error = begin_as(&bench, stranger, dataset, parent).await.unwrap_err();
    assert!(
        matches!(error, StoreError::NotFound("adapter version")),
        "{error}"
    );
    let none = jobs::list(bench.store(), stranger, &Default::default(), &Default::default())
        .await
        .unwrap();
    assert!(none.rows.is_empty());
}
