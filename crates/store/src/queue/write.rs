//! What a run writes while it runs. Each statement checks the lease itself.

use std::collections::BTreeMap;

use serde_json::json;
use tunesmith_types::{ids::CheckpointId, states::EventLevel};

use super::{LeaseToken, lock_held};
use crate::{
    Store, StoreError,
    events::{self, NewEvent},
    files::{StoredFile, to_json},
    metrics::NewMetric,
    notifications::notify_job_updated,
};

/// What the trainer says once model and data are loaded.
#[derive(Debug, Clone)]
pub struct RunStart<'a> {
    /// Optimizer steps of the whole job.
    pub total_steps: i64,
    /// Step of the checkpoint that it resumed from; 0 for a fresh start.
    pub resumed_from_step: i64,
    /// `cpu` or `cuda:0`.
    pub device: &'a str,
    /// `float32` or `bfloat16`.
    pub dtype: &'a str,
    /// The same event for people, with more numbers.
    pub event: &'a NewEvent,
}

/// A checkpoint whose files are in the object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCheckpoint {
    /// Optimizer steps done.
    pub step: i64,
    /// Its files; at least one.
    pub files: Vec<StoredFile>,
    /// Of the configuration that a resuming run must have too.
    pub config_hash: String,
}

/// Notes that training begins, and from which step.
///
/// # Errors
/// [`StoreError::LeaseLost`].
pub async fn record_start(store: &Store, token: &LeaseToken, start: &RunStart<'_>) -> Result<(), StoreError> {
    let mut transaction = store.pool().begin().await?;
    let held = lock_held(&mut transaction, token).await?;
    sqlx::query!(
        "update jobs set total_steps = $4, step = $5, last_progress_at = clock_timestamp()
         where id = $1 and epoch = $2 and lease_id = $3",
        token.job_id.uuid(),
        token.epoch,
        token.lease_id,
        start.total_steps,
        start.resumed_from_step,
    )
    .execute(&mut *transaction)
    .await?;
    sqlx::query!(
        "update runs set device = $4, dtype = $5, resumed_from_step = $6
         where job_id = $1 and epoch = $2 and lease_id = $3",
        token.job_id.uuid(),
        token.epoch,
        token.lease_id,
        start.device,
        start.dtype,
        start.resumed_from_step,
    )
    .execute(&mut *transaction)
    .await?;
    events::append(&mut transaction, held.organization_id, token.job_id, start.event).await?;
    notify_job_updated(&mut transaction, token.job_id).await?;
    transaction.commit().await?;
    Ok(())
}

/// Writes the numbers of some steps, and moves the job's progress to the last of them. A step that is there already is
/// overwritten. An empty batch does nothing.
///
/// # Errors
/// [`StoreError::LeaseLost`].
pub async fn record_metrics(
    store: &Store,
    token: &LeaseToken,
    batch: &[NewMetric],
) -> Result<(), StoreError> {
    let mut by_step: BTreeMap<i64, NewMetric> = BTreeMap::new();
    for metric in batch {
        by_step
            .entry(metric.step)
            .and_modify(|known| known.merge(metric))
            .or_insert_with(|| metric.clone());
    }
    let Some((&last_step, _)) = by_step.last_key_value() else {
        return Ok(());
    };
    let columns = Columns::of(by_step.values());
    let mut transaction = store.pool().begin().await?;
    let held = sqlx::query_scalar!(
        "with held as (
             update jobs set step = greatest(step, $4), last_progress_at = clock_timestamp()
             where id = $1 and epoch = $2 and lease_id = $3 and state = 'running' and lease_until > clock_timestamp()
             returning id, organization_id
         ), written as (
             insert into job_metrics as known
                 (organization_id, job_id, step, data_epoch, loss, learning_rate, grad_norm, tokens, supervised_tokens,
                  seconds, eval_loss, eval_token_accuracy)
             select held.organization_id, held.id, new.*
             from held, unnest($5::bigint[], $6::float8[], $7::float8[], $8::float8[], $9::float8[], $10::bigint[],
                               $11::bigint[], $12::float8[], $13::float8[], $14::float8[]) as new
             on conflict (job_id, step) do update
             set data_epoch = coalesce(excluded.data_epoch, known.data_epoch),
                 loss = coalesce(excluded.loss, known.loss),
                 learning_rate = coalesce(excluded.learning_rate, known.learning_rate),
                 grad_norm = coalesce(excluded.grad_norm, known.grad_norm),
                 tokens = coalesce(excluded.tokens, known.tokens),
                 supervised_tokens = coalesce(excluded.supervised_tokens, known.supervised_tokens),
                 seconds = coalesce(excluded.seconds, known.seconds),
                 eval_loss = coalesce(excluded.eval_loss, known.eval_loss),
                 eval_token_accuracy = coalesce(excluded.eval_token_accuracy, known.eval_token_accuracy),
                 recorded_at = clock_timestamp()
         )
         select count(*) as \"held!\" from held",
        token.job_id.uuid(),
        token.epoch,
        token.lease_id,
        last_step,
        &columns.step,
        &columns.data_epoch as &[Option<f64>],
        &columns.loss as &[Option<f64>],
        &columns.learning_rate as &[Option<f64>],
        &columns.grad_norm as &[Option<f64>],
        &columns.tokens as &[Option<i64>],
        &columns.supervised_tokens as &[Option<i64>],
        &columns.seconds as &[Option<f64>],
        &columns.eval_loss as &[Option<f64>],
        &columns.eval_token_accuracy as &[Option<f64>],
    )
    .fetch_one(&mut *transaction)
    .await?;
    if held == 0 {
        return Err(StoreError::LeaseLost);
    }
    notify_job_updated(&mut transaction, token.job_id).await?;
    transaction.commit().await?;
    Ok(())
}

/// A batch of metrics as one array a column.
#[derive(Default)]
struct Columns {
    step: Vec<i64>,
    data_epoch: Vec<Option<f64>>,
    loss: Vec<Option<f64>>,
    learning_rate: Vec<Option<f64>>,
    grad_norm: Vec<Option<f64>>,
    tokens: Vec<Option<i64>>,
    supervised_tokens: Vec<Option<i64>>,
    seconds: Vec<Option<f64>>,
    eval_loss: Vec<Option<f64>>,
    eval_token_accuracy: Vec<Option<f64>>,
}

impl Columns {
    fn of<'a>(metrics: impl Iterator<Item = &'a NewMetric>) -> Self {
        let mut columns = Self::default();
        for metric in metrics {
            columns.step.push(metric.step);
            columns.data_epoch.push(metric.data_epoch);
            columns.loss.push(metric.loss);
            columns.learning_rate.push(metric.learning_rate);
            columns.grad_norm.push(metric.grad_norm);
            columns.tokens.push(metric.tokens);
            columns.supervised_tokens.push(metric.supervised_tokens);
            columns.seconds.push(metric.seconds);
            columns.eval_loss.push(metric.eval_loss);
            columns.eval_token_accuracy.push(metric.eval_token_accuracy);
        }
        columns
    }
}

/// Registers a checkpoint; from now on a run can resume from it. Registering it again under the same lease gives the
/// same id.
///
/// # Errors
/// [`StoreError::LeaseLost`].
pub async fn record_checkpoint(
    store: &Store,
    token: &LeaseToken,
    new: &NewCheckpoint,
) -> Result<CheckpointId, StoreError> {
    let mut transaction = store.pool().begin().await?;
    let held = lock_held(&mut transaction, token).await?;
    let row = sqlx::query!(
        "insert into checkpoints as known (id, organization_id, job_id, epoch, step, files, config_hash)
         values ($1, $2, $3, $4, $5, $6, $7)
         on conflict (job_id, epoch, step) do update set files = excluded.files, config_hash = excluded.config_hash
         returning id, (known.id = $1) as \"new!\"",
        CheckpointId::new().uuid(),
        held.organization_id.uuid(),
        token.job_id.uuid(),
        token.epoch,
        new.step,
        to_json(&new.files),
        new.config_hash,
    )
    .fetch_one(&mut *transaction)
    .await?;
    let checkpoint = CheckpointId::from_uuid(row.id);
    if row.new {
        let event = NewEvent::new(
            EventLevel::Info,
            "checkpoint",
            format!("a checkpoint at step {} is saved", new.step),
        )
        .with(json!({"step": new.step, "checkpoint": checkpoint}));
        events::append(&mut transaction, held.organization_id, token.job_id, &event).await?;
    }
    notify_job_updated(&mut transaction, token.job_id).await?;
    transaction.commit().await?;
    Ok(checkpoint)
}

/// Notes something that happened to the run.
///
/// # Errors
/// [`StoreError::LeaseLost`].
pub async fn record_event(store: &Store, token: &LeaseToken, event: &NewEvent) -> Result<(), StoreError> {
    let mut transaction = store.pool().begin().await?;
    let held = lock_held(&mut transaction, token).await?;
    events::append(&mut transaction, held.organization_id, token.job_id, event).await?;
    notify_job_updated(&mut transaction, token.job_id).await?;
    transaction.commit().await?;
    Ok(())
}
