//! Who trains together.

use std::{collections::HashSet, time::Duration};

use tunesmith_store::{
    jobs::{self, NewJob},
    queue::{self, Blame, ClaimedJob, FailOutcome, Opening, RescueOutcome},
};
use tunesmith_types::{
    hyperparameters::{HyperparametersRequest, TrainingDtype},
    ids::{BaseModelId, DatasetId, JobId, OrganizationId},
    states::JobState,
};

use crate::fixtures::{Bench, failure, name, ready_base_model, sign_up, valid_dataset};

const AUTO: [TrainingDtype; 1] = [TrainingDtype::Auto];

fn opening<'a>(base_model: BaseModelId, organizations: &'a [OrganizationId]) -> Opening<'a> {
    Opening {
        base_model,
        dtypes: &AUTO,
        organizations,
        room: 512,
        patience: None,
    }
}

async fn join(bench: &Bench, opening: &Opening<'_>) -> Option<ClaimedJob> {
    queue::claim_to_join(bench.store(), &bench.settings, "worker", opening)
        .await
        .unwrap()
}

async fn joins(bench: &Bench, opening: &Opening<'_>) -> Option<JobId> {
    join(bench, opening).await.map(|job| job.token.job_id)
}

struct Tenant {
    organization: OrganizationId,
    dataset: DatasetId,
}

impl Tenant {
    async fn new(bench: &Bench, email: &str) -> Self {
        let (_, organization) = sign_up(bench.store(), email).await;
        let dataset = valid_dataset(bench.store(), organization, "data").await;
        Self {
            organization,
            dataset,
        }
    }

    async fn job(&self, bench: &Bench, base_model: BaseModelId, request: HyperparametersRequest) -> JobId {
        let new = NewJob {
            adapter: &name("tone"),
            base_model_id: base_model,
            dataset_id: self.dataset,
            parent_version_id: None,
            hyperparameters: &request.resolve(None).unwrap(),
            max_attempts: 3,
            created_by: None,
        };
        jobs::create(bench.store(), self.organization, &new)
            .await
            .unwrap()
            .id
    }

    async fn plain(&self, bench: &Bench) -> JobId {
        self.job(bench, bench.base_model, HyperparametersRequest::default())
            .await
    }
}

#[tokio::test]
async fn only_compatible_jobs_join_in_the_order_of_the_queue() {
    let bench = Bench::new().await;
    let tenant = Tenant::new(&bench, "grace@example.com").await;
    let other_base = ready_base_model(bench.store(), None, "other").await;
    let default = HyperparametersRequest::default;
    tenant.job(&bench, other_base, default()).await;
    let first = tenant.plain(&bench).await;
    let float32 = HyperparametersRequest {
        dtype: Some(TrainingDtype::Float32),
        ..default()
    };
    let exact = tenant.job(&bench, bench.base_model, float32).await;
    let second = tenant.plain(&bench).await;

    let opening = opening(bench.base_model, &[]);
    let claimed = join(&bench, &opening).await.unwrap();
    assert_eq!((claimed.token.job_id, claimed.token.epoch), (first, 1));
    assert_eq!(bench_state(&bench, &tenant, first).await, JobState::Running);
    assert_eq!(joins(&bench, &opening).await, Some(second));
    assert_eq!(
        joins(&bench, &opening).await,
        None,
        "another base and another format"
    );
    let both = [TrainingDtype::Auto, TrainingDtype::Float32];
    let resolved = Opening {
        dtypes: &both,
        ..opening
    };
    assert_eq!(joins(&bench, &resolved).await, Some(exact));
}

async fn bench_state(bench: &Bench, tenant: &Tenant, job: JobId) -> JobState {
    jobs::get(bench.store(), tenant.organization, job)
        .await
        .unwrap()
        .state
}

#[tokio::test]
async fn ranks_that_do_not_fit_stay_in_the_queue() {
    let bench = Bench::new().await;
    let tenant = Tenant::new(&bench, "grace@example.com").await;
    let ranks = |rank: u32, pattern: u32| HyperparametersRequest {
        rank: Some(rank),
        rank_pattern: serde_json::from_value(serde_json::json!({"q_proj": pattern})).unwrap(),
        ..Default::default()
    };
    tenant.job(&bench, bench.base_model, ranks(33, 1)).await;
    tenant.job(&bench, bench.base_model, ranks(1, 33)).await;
    let fits = tenant.job(&bench, bench.base_model, ranks(8, 32)).await;
    let small = Opening {
        room: 32,
        ..opening(bench.base_model, &[])
    };
    let claimed = join(&bench, &small).await.unwrap();
    assert_eq!(claimed.token.job_id, fits);
    assert_eq!(queue::rank(&claimed.hyperparameters), 32);
    assert_eq!(joins(&bench, &small).await, None);
}

#[tokio::test]
async fn a_hundred_jobs_of_one_organization_do_not_keep_anothers_out() {
    let bench = Bench::new().await;
    let crowd = Tenant::new(&bench, "crowd@example.com").await;
    let single = Tenant::new(&bench, "single@example.com").await;
    for _ in 0..100 {
        crowd.plain(&bench).await;
    }
    let late = [single.plain(&bench).await, single.plain(&bench).await];
    let mut members = vec![bench.claim("worker").await.organization_id];
    let mut order = Vec::new();
    for _ in 0..5 {
        let job = join(&bench, &opening(bench.base_model, &members)).await.unwrap();
        members.push(job.organization_id);
        order.push((job.organization_id, job.token.job_id));
    }
    assert_eq!(order[0], (single.organization, late[0]), "none in the gang yet");
    assert_eq!(order[1].0, crowd.organization, "one each: the queue decides");
    assert_eq!(order[2], (single.organization, late[1]));
    assert_eq!(order[3].0, crowd.organization);
    assert_eq!(order[4].0, crowd.organization, "nobody else is left");
}

#[tokio::test]
async fn nobody_overtakes_a_job_that_has_waited_too_long_for_another_base_model() {
    let bench = Bench::new().await;
    let tenant = Tenant::new(&bench, "grace@example.com").await;
    let other_base = ready_base_model(bench.store(), None, "other").await;
    let before = tenant.plain(&bench).await;
    let starving = tenant
        .job(&bench, other_base, HyperparametersRequest::default())
        .await;
    let after = tenant.plain(&bench).await;

    let patient = Opening {
        patience: Some(Duration::from_secs(60)),
        ..opening(bench.base_model, &[])
    };
    let impatient = Opening {
        patience: Some(Duration::ZERO),
        ..patient
    };
    assert_eq!(
        joins(&bench, &impatient).await,
        Some(before),
        "it was there first"
    );
    assert_eq!(joins(&bench, &impatient).await, None);
    assert_eq!(
        joins(&bench, &patient).await,
        Some(after),
        "the other can still wait"
    );
    assert_eq!(bench.claim("worker").await.token.job_id, starving);
}

#[tokio::test]
async fn a_job_in_a_trainer_that_died_in_company_is_tried_again_alone() {
    let bench = Bench::new().await;
    let tenant = Tenant::new(&bench, "grace@example.com").await;
    let job = tenant.plain(&bench).await;
    let claimed = bench.claim("worker").await;
    assert!(!claimed.alone);
    let shared = queue::RunFailure {
        blame: Blame::Shared,
        ..failure(false)
    };
    let impatient = bench.impatient();
    let outcome = queue::fail(bench.store(), &impatient, &claimed.token, &shared)
        .await
        .unwrap();
    assert!(matches!(outcome, FailOutcome::Requeued(_)), "{outcome:?}");
    let row = jobs::get(bench.store(), tenant.organization, job).await.unwrap();
    assert_eq!((row.state, row.attempts), (JobState::Queued, 0));
    assert_eq!(joins(&bench, &opening(bench.base_model, &[])).await, None);
    let claimed = bench.claim("worker").await;
    assert!(claimed.alone);

    let others = queue::RunFailure {
        blame: Blame::Other,
        ..failure(false)
    };
    queue::fail(bench.store(), &impatient, &claimed.token, &others)
        .await
        .unwrap();
    let claimed = bench.claim("worker").await;
    let own = failure(false);
    let outcome = queue::fail(bench.store(), &impatient, &claimed.token, &own)
        .await
        .unwrap();
    assert_eq!(outcome, FailOutcome::Failed);
}

#[tokio::test]
async fn another_jobs_fault_leaves_a_job_fit_for_company() {
    let bench = Bench::new().await;
    let tenant = Tenant::new(&bench, "grace@example.com").await;
    let job = tenant.plain(&bench).await;
    let claimed = bench.claim("worker").await;
    let others = queue::RunFailure {
        blame: Blame::Other,
        ..failure(true)
    };
    queue::fail(bench.store(), &bench.impatient(), &claimed.token, &others)
        .await
        .unwrap();
    assert_eq!(joins(&bench, &opening(bench.base_model, &[])).await, Some(job));
}

#[tokio::test]
async fn a_job_that_lost_two_workers_trains_alone() {
    let bench = Bench::new().await;
    bench.job().await;
    for alone in [false, false, true] {
        let claimed = bench.claim("worker").await;
        assert_eq!(claimed.alone, alone);
        bench.let_expire(&claimed.token).await;
        let lease = queue::expired(bench.store(), &bench.impatient(), None)
            .await
            .unwrap()
            .remove(0);
        let outcome = queue::rescue(bench.store(), &bench.impatient(), &lease)
            .await
            .unwrap();
        assert_eq!(outcome == RescueOutcome::Poisoned, alone, "{outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_workers_never_share_a_job() {
    let bench = Bench::new().await;
    let mut made = HashSet::new();
    for _ in 0..30 {
        made.insert(bench.job().await.id);
    }
    let workers: Vec<_> = (0..6)
        .map(|number| {
            let (store, settings, base_model) = (bench.store().clone(), bench.settings, bench.base_model);
            tokio::spawn(async move {
                let worker = format!("worker-{number}");
                let mut mine = Vec::new();
                loop {
                    let opening = opening(base_model, &[]);
                    let next = if number % 2 == 0 {
                        queue::claim_to_join(&store, &settings, &worker, &opening).await
                    } else {
                        queue::claim(&store, &settings, &worker).await
                    };
                    match next.unwrap() {
                        Some(job) => mine.push(job.token.job_id),
                        None => return mine,
                    }
                }
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
