//! From data to deployment and back, and checkpoints that become versions.

use serde_json::json;
use tunesmith_store::{
    StoreError, adapters,
    adapters::NewAdapterVersion,
    checkpoints,
    deployments::{self, NewDeployment},
    files::StoredFile,
    lineage::{self, Lineage, Start},
    manifest::canonical_digest,
    queue::{self, ClaimedJob, NewCheckpoint},
    revisions::Route,
    tombstones,
};
use tunesmith_types::ids::AdapterVersionId;

use crate::fixtures::{Bench, completion, digest, file, name, sign_up};

fn numbers(found: &Lineage) -> Vec<String> {
    found
        .versions
        .iter()
        .map(|version| format!("{}@{}", version.adapter, version.number))
        .collect()
}

/// A finished job whose adapter began with that of `parent`.
async fn child_of(bench: &Bench, adapter: &str, parent: AdapterVersionId) -> AdapterVersionId {
    bench.job_of(adapter).await;
    let claimed = bench.claim("publisher").await;
    let mut completion = completion();
    completion.version.manifest = json!({"rank": 16, "parent_version": parent});
    queue::complete(bench.store(), &claimed.token, &completion)
        .await
        .unwrap()
        .version_id
}

#[tokio::test]
async fn a_lineage_goes_both_ways() {
    let bench = Bench::new().await;
    let (store, organization) = (bench.store(), bench.organization);
    let first = bench.publish("tone").await.version_id;
    let second = child_of(&bench, "tone", first).await;
    let third = child_of(&bench, "other", second).await;
    let new = NewDeployment {
        name: &name("chat"),
        base_model_id: bench.base_model,
        routes: &[Route::pinned(Some(second), 40), Route::pinned(None, 60)],
        created_by: None,
    };
    let deployment = deployments::create(store, organization, &new).await.unwrap();
    let walk = |start: Start| async move { lineage::walk(store, organization, &start).await.unwrap() };

    let versions = vec![second];
    let found = walk(Start {
        versions,
        ..Start::default()
    })
    .await;
    assert_eq!(numbers(&found), ["tone@1", "tone@2", "other@1"]);
    assert_eq!(
        (found.versions[1].parent, &found.versions[1].children),
        (Some(first), &vec![third])
    );
    assert_eq!((found.datasets.len(), found.datasets[0].id), (1, bench.dataset));
    assert_eq!(found.jobs.len(), 3);
    assert_eq!(found.versions[1].job_id, Some(found.jobs[1].id));
    assert_eq!(
        (found.revisions[0].deployment.as_str(), found.revisions[0].number),
        ("chat", 1)
    );

    let jobs = vec![found.jobs[1].id];
    let of_job = walk(Start {
        jobs,
        ..Start::default()
    })
    .await;
    assert_eq!(numbers(&of_job), ["tone@2"]);
    assert_eq!(of_job.revisions, found.revisions);
    let datasets = vec![bench.dataset];
    let of_dataset = walk(Start {
        datasets: datasets.clone(),
        ..Start::default()
    })
    .await;
    assert_eq!(numbers(&of_dataset), ["tone@1", "tone@2", "other@1"]);
    let routed = lineage::versions_of_deployment(store, organization, deployment.id)
        .await
        .unwrap();
    assert_eq!(routed, [second]);

    let (_, stranger) = sign_up(store, "eve@example.com").await;
    let start = Start {
        versions: vec![first, second],
        jobs: vec![found.jobs[0].id],
        datasets,
    };
    let nothing = lineage::walk(store, stranger, &start).await.unwrap();
    assert!(nothing.datasets.is_empty() && nothing.jobs.is_empty() && nothing.versions.is_empty());
    assert!(nothing.aliases.is_empty() && nothing.revisions.is_empty());
    let routed = lineage::versions_of_deployment(store, stranger, deployment.id)
        .await
        .unwrap();
    assert_eq!(routed, []);
}

async fn checkpoint(bench: &Bench, job: &ClaimedJob, step: i64) -> Vec<StoredFile> {
    let files: Vec<StoredFile> = ["adapter_config.json", "adapter_model.safetensors", "state.json"]
        .iter()
        .map(|name| StoredFile {
            key: format!("jobs/{}/checkpoints/{step}/{name}", job.token.job_id),
            ..file(name)
        })
        .collect();
    let new = NewCheckpoint {
        step,
        files: files.clone(),
        config_hash: digest('e').to_string(),
    };
    queue::record_checkpoint(bench.store(), &job.token, &new)
        .await
        .unwrap();
    files
}

#[tokio::test]
async fn a_checkpoint_is_published_once_and_shares_its_files() {
    let bench = Bench::new().await;
    let (store, organization) = (bench.store(), bench.organization);
    let job = bench.job().await;
    let claimed = bench.claim("worker").await;
    let files = checkpoint(&bench, &claimed, 5).await;
    let later = checkpoint(&bench, &claimed, 7).await;
    let found = checkpoints::find(store, organization, job.id, 5).await.unwrap();
    let new = NewAdapterVersion {
        files: files[..2].to_vec(),
        ..completion().version
    };
    let (tone, other) = (name("tone"), name("other"));
    let (one, two) = tokio::join!(
        checkpoints::publish(store, organization, &found, &tone, &new),
        checkpoints::publish(store, organization, &found, &tone, &new),
    );
    let version = one.unwrap();
    assert_eq!(version, two.unwrap());
    let again = checkpoints::publish(store, organization, &found, &other, &new).await;
    assert_eq!(again.unwrap(), version);
    let seventh = checkpoints::find(store, organization, job.id, 7).await.unwrap();
    let new_seventh = NewAdapterVersion {
        files: later[..2].to_vec(),
        ..completion().version
    };
    let seventh = checkpoints::publish(store, organization, &seventh, &other, &new_seventh)
        .await
        .unwrap();
    assert_ne!(seventh, version);
    // The end of the job is a version of its own.
    let end = queue::complete(store, &claimed.token, &completion())
        .await
        .unwrap();
    assert_eq!(end.number, 2);
    let published = adapters::version(store, organization, version).await.unwrap();
    assert_eq!(
        (published.number, published.checkpoint_step, published.job_id),
        (1, Some(5), Some(job.id))
    );
    tombstones::delete_version(store, organization, "tone", 1, None, None)
        .await
        .unwrap();
    // The job may still resume from them.
    let keys = tombstones::orphaned_keys(store, organization, version)
        .await
        .unwrap();
    assert_eq!(keys, Vec::<String>::new());
    assert_eq!(
        checkpoints::published(store, organization, job.id, 5)
            .await
            .unwrap(),
        Some(version)
    );
    // Those of the end belong to nobody else once it is deleted.
    tombstones::delete_version(store, organization, "tone", 2, None, None)
        .await
        .unwrap();
    let mut keys = tombstones::orphaned_keys(store, organization, end.version_id)
        .await
        .unwrap();
    keys.sort();
    assert_eq!(keys, ["a/adapter_config.json", "a/adapter_model.safetensors"]);

    let (_, stranger) = sign_up(store, "eve@example.com").await;
    for error in [
        checkpoints::find(store, stranger, job.id, 5).await.unwrap_err(),
        checkpoints::publish(store, stranger, &found, &name("mine"), &new)
            .await
            .unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::NotFound(_)), "{error}");
    }
    assert_eq!(
        checkpoints::published(store, stranger, job.id, 5).await.unwrap(),
        None
    );
}

#[tokio::test]
async fn a_digest_holds_for_the_manifest_as_it_comes_back() {
    let bench = Bench::new().await;
    let (store, organization) = (bench.store(), bench.organization);
    let manifest = json!({
        "hyperparameters": {"rank": 16, "alpha": 32.0, "learning_rate": 2.5e-5, "seed": u64::MAX},
        "probes": [{"prompt": [1, 2], "logprobs": [-0.0, -1.25e-9, -17.333333333333332]}],
        "metrics": {"loss": 0.1, "large": 1e16, "larger": 1e300, "small": 5e-324, "negative": -3e17},
        "parent_version": null,
    });
    bench.job().await;
    let claimed = bench.claim("worker").await;
    let mut completion = completion();
    completion.version.digest = canonical_digest(&manifest);
    completion.version.manifest = manifest;
    let published = queue::complete(store, &claimed.token, &completion).await.unwrap();
    let stored = adapters::version(store, organization, published.version_id)
        .await
        .unwrap();
    assert_eq!(canonical_digest(&stored.manifest), stored.digest);
}
