//! A worker that lost its lease has no effect whatever it tries.

use tunesmith_store::{
    StoreError, checkpoints,
    events::NewEvent,
    metrics::{self, NewMetric},
    queue::{self, LeaseToken, NewCheckpoint, RescueOutcome, RunStart},
    runs,
};
use tunesmith_types::states::{EventLevel, JobState, RunOutcome};
use uuid::Uuid;

use crate::fixtures::{Bench, completion, failure, file};

fn step(number: i64, loss: f64) -> NewMetric {
    NewMetric {
        step: number,
        loss: Some(loss),
        ..NewMetric::default()
    }
}

fn checkpoint(step: i64) -> NewCheckpoint {
    NewCheckpoint {
        step,
        files: vec![file("state.json")],
        config_hash: "hash".into(),
    }
}

/// Tries every write that there is, and expects each to be refused.
async fn assert_fenced(bench: &Bench, token: &LeaseToken) {
    let store = bench.store();
    let event = NewEvent::new(EventLevel::Info, "ghost", "written by a ghost");
    let start = RunStart {
        total_steps: 99,
        resumed_from_step: 0,
        device: "cpu",
        dtype: "float32",
        event: &event,
    };
    let refusals = [
        ("renew", queue::renew(store, &bench.settings, token).await.err()),
        (
            "record_start",
            queue::record_start(store, token, &start).await.err(),
        ),
        (
            "record_metrics",
            queue::record_metrics(store, token, &[step(9, 9.0)]).await.err(),
        ),
        (
            "record_checkpoint",
            queue::record_checkpoint(store, token, &checkpoint(9)).await.err(),
        ),
        (
            "record_event",
            queue::record_event(store, token, &event).await.err(),
        ),
        (
            "complete",
            queue::complete(store, token, &completion()).await.err(),
        ),
        (
            "fail",
            queue::fail(store, &bench.settings, token, &failure(true))
                .await
                .err(),
        ),
        ("release", queue::release(store, token).await.err()),
        ("finish_cancel", queue::finish_cancel(store, token).await.err()),
    ];
    for (write, error) in refusals {
        assert!(
            matches!(error, Some(StoreError::LeaseLost)),
            "{write} gave {error:?}"
        );
    }
}

#[tokio::test]
async fn after_a_take_over_every_write_of_the_first_worker_is_refused() {
    let bench = Bench::new().await;
    let job = bench.job().await;
    let zombie = bench.claim("zombie").await.token;
    queue::record_metrics(bench.store(), &zombie, &[step(1, 1.0)])
        .await
        .unwrap();
    bench.let_expire(&zombie).await;
    let rescued = queue::reap(bench.store(), &bench.impatient()).await.unwrap();
    assert_eq!(rescued[0].1, RescueOutcome::Requeued);
    assert_fenced(&bench, &zombie).await;
    let second = bench.claim("second").await.token;
    assert!(second.epoch > zombie.epoch);
    assert_ne!(second.lease_id, zombie.lease_id);
    let before = bench.reload(job.id).await;
    let events = bench.event_codes(job.id).await;

    assert_fenced(&bench, &zombie).await;

    assert_eq!(bench.reload(job.id).await, before);
    assert_eq!(bench.event_codes(job.id).await, events);
    let numbers = metrics::list(bench.store(), bench.organization, job.id, None, 100)
        .await
        .unwrap();
    assert_eq!(numbers.len(), 1);
    assert!(
        checkpoints::list(bench.store(), bench.organization, job.id, 10)
            .await
            .unwrap()
            .is_empty()
    );
    queue::complete(bench.store(), &second, &completion())
        .await
        .unwrap();
    assert_fenced(&bench, &zombie).await;
    assert_fenced(&bench, &second).await;
}

#[tokio::test]
async fn an_expired_lease_is_refused_before_anybody_takes_over() {
    let bench = Bench::new().await;
    let job = bench.job().await;
    let token = bench.claim("slow").await.token;
    bench.let_expire(&token).await;
    assert_fenced(&bench, &token).await;
    // Its time is not over for the reaper: the grace separates the two.
    assert!(
        queue::reap(bench.store(), &bench.settings)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(bench.reload(job.id).await.state, JobState::Running);
}

#[tokio::test]
async fn the_epoch_alone_is_not_enough() {
    let bench = Bench::new().await;
    bench.job().await;
    let token = bench.claim("worker").await.token;
    let same_epoch = LeaseToken {
        lease_id: Uuid::now_v7(),
        ..token
    };
    let same_lease = LeaseToken {
        epoch: token.epoch + 1,
        ..token
    };
    assert_fenced(&bench, &same_epoch).await;
    assert_fenced(&bench, &same_lease).await;
    queue::renew(bench.store(), &bench.settings, &token)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_later_run_overwrites_steps_and_resumes_from_the_newest_checkpoint() {
    let bench = Bench::new().await;
    let job = bench.job().await;
    let store = bench.store();
    let first = bench.claim("first").await.token;
    queue::record_metrics(store, &first, &[step(1, 1.0), step(2, 2.0), step(3, 3.0)])
        .await
        .unwrap();
    let id = queue::record_checkpoint(store, &first, &checkpoint(1))
        .await
        .unwrap();
    assert_eq!(
        queue::record_checkpoint(store, &first, &checkpoint(1))
            .await
            .unwrap(),
        id
    );
    queue::record_checkpoint(store, &first, &checkpoint(2))
        .await
        .unwrap();
    queue::release(store, &first).await.unwrap();

    let second = bench.claim("second").await;
    assert_eq!(second.attempts, 0);
    let steps: Vec<i64> = second
        .checkpoints
        .iter()
        .map(|checkpoint| checkpoint.step)
        .collect();
    assert_eq!(steps, [2, 1]);
    // Both were damaged, so it starts again; its own checkpoint is now the one to trust.
    queue::record_checkpoint(store, &second.token, &checkpoint(1))
        .await
        .unwrap();
    let batch = [step(2, 20.0), step(2, 21.0), NewMetric::evaluation(2, 0.7, 0.9)];
    queue::record_metrics(store, &second.token, &batch).await.unwrap();
    let found = checkpoints::list(store, bench.organization, job.id, 10)
        .await
        .unwrap();
    assert_eq!(found[0].epoch, second.token.epoch);
    let numbers = metrics::list(store, bench.organization, job.id, Some(1), 100)
        .await
        .unwrap();
    assert_eq!(
        numbers.iter().map(|row| row.loss.unwrap()).collect::<Vec<_>>(),
        [21.0, 3.0]
    );
    assert_eq!(numbers[0].eval_loss, Some(0.7));
    let outcomes: Vec<_> = runs::list(store, bench.organization, job.id).await.unwrap();
    assert_eq!(
        outcomes.iter().map(|run| run.outcome).collect::<Vec<_>>(),
        [Some(RunOutcome::Released), None]
    );
}

#[tokio::test]
async fn a_start_sets_progress_back_to_the_checkpoint() {
    let bench = Bench::new().await;
    let job = bench.job().await;
    let token = bench.claim("worker").await.token;
    queue::record_metrics(bench.store(), &token, &[step(7, 1.0)])
        .await
        .unwrap();
    assert_eq!(bench.reload(job.id).await.step, 7);
    let event = NewEvent::new(EventLevel::Info, "training", "training begins");
    let start = RunStart {
        total_steps: 10,
        resumed_from_step: 5,
        device: "cpu",
        dtype: "float32",
        event: &event,
    };
    queue::record_start(bench.store(), &token, &start).await.unwrap();
    let reloaded = bench.reload(job.id).await;
    assert_eq!((reloaded.step, reloaded.total_steps), (5, Some(10)));
    let run = runs::list(bench.store(), bench.organization, job.id)
        .await
        .unwrap()
        .remove(0);
    assert_eq!(
        (run.device.as_deref(), run.resumed_from_step),
        (Some("cpu"), Some(5))
    );
}
