//! Who gets which job.

use std::collections::HashSet;

use tunesmith_store::{StoreError, jobs, queue};
use tunesmith_types::{ids::JobId, states::JobState};

use crate::fixtures::{Bench, completion, name};

#[tokio::test]
async fn a_claim_hands_over_all_that_a_worker_needs() {
    let bench = Bench::new().await;
    let job = bench.job().await;
    let claimed = bench.claim("worker-1").await;
    assert_eq!(claimed.token.job_id, job.id);
    assert_eq!(claimed.token.epoch, 1);
    assert_eq!(claimed.organization_id, bench.organization);
    assert_eq!(claimed.adapter, name("tone"));
    assert_eq!(claimed.hyperparameters, job.hyperparameters);
    assert_eq!(claimed.dataset.id, bench.dataset);
    assert_eq!(claimed.base_model.id, bench.base_model);
    assert!(claimed.base_model.details.is_some());
    assert!(claimed.checkpoints.is_empty());
    let running = bench.reload(job.id).await;
    assert_eq!(running.state, JobState::Running);
    assert_eq!(running.worker.as_deref(), Some("worker-1"));
    assert!(running.started_at.is_some());
    assert!(
        queue::claim(bench.store(), &bench.settings, "worker-2")
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn jobs_are_claimed_in_the_order_in_which_they_came() {
    let bench = Bench::new().await;
    let mut made = Vec::new();
    for _ in 0..4 {
        made.push(bench.job().await.id);
    }
    let mut claimed = Vec::new();
    for _ in 0..4 {
        claimed.push(bench.claim("worker").await.token.job_id);
    }
    assert_eq!(made, claimed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_workers_never_get_the_same_job() {
    let bench = Bench::new().await;
    let mut made: HashSet<JobId> = HashSet::new();
    for _ in 0..30 {
        made.insert(bench.job().await.id);
    }
    let workers: Vec<_> = (0..6)
        .map(|number| {
            let (store, settings) = (bench.store().clone(), bench.settings);
            tokio::spawn(async move {
                let mut mine = Vec::new();
                while let Some(claimed) = queue::claim(&store, &settings, &format!("worker-{number}"))
                    .await
                    .unwrap()
                {
                    mine.push(claimed.token.job_id);
                }
                mine
            })
        })
        .collect();
    let mut claimed = Vec::new();
    for worker in workers {
        claimed.extend(worker.await.unwrap());
    }
    assert_eq!(claimed.len(), 30);
    assert_eq!(claimed.into_iter().collect::<HashSet<_>>(), made);
}

#[tokio::test]
async fn a_finished_job_is_not_claimed_again() {
    let bench = Bench::new().await;
    bench.job().await;
    let claimed = bench.claim("worker").await;
    queue::complete(bench.store(), &claimed.token, &completion())
        .await
        .unwrap();
    assert!(
        queue::claim(bench.store(), &bench.settings, "worker")
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn a_job_needs_a_valid_dataset_and_a_ready_base_model() {
    let bench = Bench::new().await;
    let hyperparameters = bench.job().await.hyperparameters;
    let unfinished = tunesmith_types::ids::BaseModelId::new();
    let model = tunesmith_store::base_models::NewBaseModel {
        id: unfinished,
        owner: Some(bench.organization),
        name: &name("unfinished"),
        created_by: None,
    };
    tunesmith_store::base_models::create(bench.store(), &model)
        .await
        .unwrap();
    let adapter = name("tone");
    let good = jobs::NewJob {
        adapter: &adapter,
        base_model_id: bench.base_model,
        dataset_id: bench.dataset,
        parent_version_id: None,
        hyperparameters: &hyperparameters,
        max_attempts: 3,
        created_by: None,
    };
    let wrong = jobs::NewJob {
        base_model_id: unfinished,
        ..good.clone()
    };
    let error = jobs::create(bench.store(), bench.organization, &wrong)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, StoreError::Conflict(conflict) if conflict.code == "base_model_not_ready"),
        "{error}"
    );
    let wrong = jobs::NewJob {
        dataset_id: tunesmith_types::ids::DatasetId::new(),
        ..good
    };
    let error = jobs::create(bench.store(), bench.organization, &wrong)
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::NotFound("dataset")), "{error}");
}
