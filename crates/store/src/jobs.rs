//! Training jobs as their owners see them. What workers do with them is in [`queue`](crate::queue).

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgConnection;
use tunesmith_types::{
    hyperparameters::Hyperparameters,
    ids::{AdapterVersionId, BaseModelId, DatasetId, JobId, OrganizationId, UserId},
    list::Page,
    names::ResourceName,
    states::{BaseModelState, DatasetState, EventLevel, JobState},
};
use uuid::Uuid;

use crate::{
    Store, StoreError,
    error::{stored, stored_json, stored_json_option},
    events::{self, NewEvent},
    files::{StoredFile, to_json},
    notifications::{notify_job_queued, notify_job_updated},
    paging::{Rows, fetch_limit},
};

/// Why something failed: a stable code, and a sentence for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobError {
    /// Stable, for programs.
    pub code: String,
    /// What is wrong, where, and how to mend it.
    pub message: String,
}

/// A training job.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Id.
    pub id: JobId,
    /// Whose.
    pub organization_id: OrganizationId,
    /// Where it stands.
    pub state: JobState,
    /// The adapter whose next version it makes.
    pub adapter: ResourceName,
    /// What it tunes.
    pub base_model_id: BaseModelId,
    /// Its name.
    pub base_model: String,
    /// What it learns from.
    pub dataset_id: DatasetId,
    /// Its name.
    pub dataset: String,
    /// Its number.
    pub dataset_number: i32,
    /// Every value decided.
    pub hyperparameters: Hyperparameters,
    /// Who made it.
    pub created_by: Option<UserId>,
    /// A queued job does not start before this time.
    pub run_at: DateTime<Utc>,
    /// Runs that ended with an error.
    pub attempts: i32,
    /// Attempts after which it fails.
    pub max_attempts: i32,
    /// Runs whose worker went silent.
    pub rescues: i32,
    /// Who trains it now.
    pub worker: Option<String>,
    /// When somebody asked to cancel it.
    pub cancel_requested_at: Option<DateTime<Utc>>,
    /// Optimizer steps done.
    pub step: i64,
    /// Optimizer steps to do; known once a run has started.
    pub total_steps: Option<i64>,
    /// When the last step ended.
    pub last_progress_at: Option<DateTime<Utc>>,
    /// Why it failed.
    pub error: Option<JobError>,
    /// What it made.
    pub adapter_version_id: Option<AdapterVersionId>,
    /// Number of what it made.
    pub adapter_version: Option<i32>,
    /// All metrics as one file, at the end.
    pub metrics_file: Option<StoredFile>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When its first run began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

struct JobRow {
    id: Uuid,
    organization_id: Uuid,
    state: String,
    adapter: String,
    base_model_id: Uuid,
    base_model: String,
    dataset_id: Uuid,
    dataset: String,
    dataset_number: i32,
    hyperparameters: Value,
    created_by: Option<Uuid>,
    run_at: DateTime<Utc>,
    attempts: i32,
    max_attempts: i32,
    rescues: i32,
    worker: Option<String>,
    cancel_requested_at: Option<DateTime<Utc>>,
    step: i64,
    total_steps: Option<i64>,
    last_progress_at: Option<DateTime<Utc>>,
    error: Option<Value>,
    adapter_version_id: Option<Uuid>,
    adapter_version: Option<i32>,
    metrics_file: Option<Value>,
    created_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
}

impl TryFrom<JobRow> for Job {
    type Error = StoreError;

    fn try_from(row: JobRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: JobId::from_uuid(row.id),
            organization_id: OrganizationId::from_uuid(row.organization_id),
            state: stored("jobs.state", &row.state)?,
            adapter: stored("jobs.adapter", &row.adapter)?,
            base_model_id: BaseModelId::from_uuid(row.base_model_id),
            base_model: row.base_model,
            dataset_id: DatasetId::from_uuid(row.dataset_id),
            dataset: row.dataset,
            dataset_number: row.dataset_number,
            hyperparameters: stored_json("jobs.hyperparameters", row.hyperparameters)?,
            created_by: row.created_by.map(UserId::from_uuid),
            run_at: row.run_at,
            attempts: row.attempts,
            max_attempts: row.max_attempts,
            rescues: row.rescues,
            worker: row.worker,
            cancel_requested_at: row.cancel_requested_at,
            step: row.step,
            total_steps: row.total_steps,
            last_progress_at: row.last_progress_at,
            error: stored_json_option("jobs.error", row.error)?,
            adapter_version_id: row.adapter_version_id.map(AdapterVersionId::from_uuid),
            adapter_version: row.adapter_version,
            metrics_file: stored_json_option("jobs.metrics_file", row.metrics_file)?,
            created_at: row.created_at,
            started_at: row.started_at,
            finished_at: row.finished_at,
        })
    }
}

/// `select` of whole rows; the rest of the statement, then its arguments.
macro_rules! select_jobs {
    ($rest:tt, $($argument:expr),* $(,)?) => {
        sqlx::query_as!(
            JobRow,
            "select j.id, j.organization_id, j.state::text as \"state!\", j.adapter, j.base_model_id,
                    b.name as base_model, j.dataset_id, d.name as dataset, d.number as dataset_number,
                    j.hyperparameters, j.created_by, j.run_at, j.attempts, j.max_attempts, j.rescues, j.worker,
                    j.cancel_requested_at, j.step, j.total_steps, j.last_progress_at, j.error, j.adapter_version_id,
                    v.number as \"adapter_version?\", j.metrics_file, j.created_at, j.started_at, j.finished_at
             from jobs j
             join base_models b on b.id = j.base_model_id
             join datasets d on d.organization_id = j.organization_id and d.id = j.dataset_id
             left join adapter_versions v on v.id = j.adapter_version_id " + $rest,
            $($argument),*
        )
    };
}

/// A job to be queued.
#[derive(Debug, Clone)]
pub struct NewJob<'a> {
    /// The adapter whose next version it makes.
    pub adapter: &'a ResourceName,
    /// A ready model that the organization may see.
    pub base_model_id: BaseModelId,
    /// A valid dataset of the organization.
    pub dataset_id: DatasetId,
    /// Every value decided.
    pub hyperparameters: &'a Hyperparameters,
    /// Runs with an error after which it fails, 1 to 20.
    pub max_attempts: i32,
    /// Who makes it.
    pub created_by: Option<UserId>,
}

/// Queues a job and wakes the workers, in one transaction.
///
/// # Errors
/// [`StoreError::NotFound`] for a dataset or base model that the organization cannot see; [`StoreError::Conflict`]
/// `dataset_not_valid` or `base_model_not_ready`.
pub async fn create(
    store: &Store,
    organization: OrganizationId,
    new: &NewJob<'_>,
) -> Result<Job, StoreError> {
    let job = JobId::new();
    let mut transaction = store.pool().begin().await?;
    require_valid_dataset(&mut transaction, organization, new.dataset_id).await?;
    require_ready_base_model(&mut transaction, organization, new.base_model_id).await?;
    sqlx::query!(
        "insert into jobs (id, organization_id, adapter, base_model_id, dataset_id, hyperparameters, max_attempts,
                           created_by)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        job.uuid(),
        organization.uuid(),
        new.adapter.as_str(),
        new.base_model_id.uuid(),
        new.dataset_id.uuid(),
        to_json(new.hyperparameters),
        new.max_attempts,
        new.created_by.map(UserId::uuid),
    )
    .execute(&mut *transaction)
    .await?;
    let event = NewEvent::new(EventLevel::Info, "queued", "the job waits for a worker");
    events::append(&mut transaction, organization, job, &event).await?;
    notify_job_queued(&mut transaction, job).await?;
    notify_job_updated(&mut transaction, job).await?;
    transaction.commit().await?;
    get(store, organization, job).await
}

async fn require_valid_dataset(
    connection: &mut PgConnection,
    organization: OrganizationId,
    dataset: DatasetId,
) -> Result<(), StoreError> {
    let text = sqlx::query_scalar!(
        "select state::text as \"state!\" from datasets where organization_id = $1 and id = $2 for share",
        organization.uuid(),
        dataset.uuid(),
    )
    .fetch_optional(connection)
    .await?
    .ok_or(StoreError::NotFound("dataset"))?;
    let message = match stored("datasets.state", &text)? {
        DatasetState::Valid => return Ok(()),
        DatasetState::Validating => "The dataset is still being validated; wait until its state is `valid`.",
        DatasetState::Invalid => {
            "The dataset has errors; read its report, mend the file and upload it again."
        }
    };
    Err(StoreError::conflict(
        "dataset_not_valid",
        Some("dataset"),
        message,
    ))
}

async fn require_ready_base_model(
    connection: &mut PgConnection,
    organization: OrganizationId,
    model: BaseModelId,
) -> Result<(), StoreError> {
    let text = sqlx::query_scalar!(
        "select state::text as \"state!\" from base_models
         where id = $2 and (organization_id = $1 or organization_id is null) for share",
        organization.uuid(),
        model.uuid(),
    )
    .fetch_optional(connection)
    .await?
    .ok_or(StoreError::NotFound("base model"))?;
    let message = match stored("base_models.state", &text)? {
        BaseModelState::Ready => return Ok(()),
        BaseModelState::Pending => {
            "The base model is still being registered; wait until its state is `ready`."
        }
        BaseModelState::Failed => {
            "The base model could not be registered; its error says why. Choose another one."
        }
    };
    Err(StoreError::conflict(
        "base_model_not_ready",
        Some("base_model"),
        message,
    ))
}

/// A job by id.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn get(store: &Store, organization: OrganizationId, job: JobId) -> Result<Job, StoreError> {
    let row = select_jobs!(
        "where j.organization_id = $1 and j.id = $2",
        organization.uuid(),
        job.uuid()
    )
    .fetch_optional(store.pool())
    .await?;
    row.ok_or(StoreError::NotFound("training job"))?.try_into()
}

/// Which jobs a list shows.
#[derive(Debug, Clone, Copy, Default)]
pub struct JobFilter<'a> {
    /// Only jobs in this state.
    pub state: Option<JobState>,
    /// Only jobs of this adapter.
    pub adapter: Option<&'a str>,
}

/// The organization's jobs, newest first.
///
/// # Errors
/// Database errors only.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    filter: &JobFilter<'_>,
    page: &Page<JobId>,
) -> Result<Rows<Job>, StoreError> {
    let rows = select_jobs!(
        "where j.organization_id = $1
           and ($2::uuid is null
                or (j.created_at, j.id) < (select cursor.created_at, cursor.id from jobs as cursor
                                           where cursor.organization_id = $1 and cursor.id = $2))
           and ($3::text is null or j.state = $3::text::job_state)
           and ($4::text is null or j.adapter = $4)
         order by j.created_at desc, j.id desc limit $5",
        organization.uuid(),
        page.after.map(JobId::uuid),
        filter.state.map(JobState::as_str),
        filter.adapter,
        fetch_limit(page),
    )
    .fetch_all(store.pool())
    .await?;
    let jobs = rows.into_iter().map(Job::try_from).collect::<Result<_, _>>()?;
    Ok(Rows::cut(jobs, page))
}

/// Asks to cancel a job. A queued job is cancelled at once; a running one when its worker hears of it, unless it
/// succeeds before. Asking again changes nothing.
///
/// # Errors
/// [`StoreError::NotFound`]; [`StoreError::Conflict`] `job_finished` where it has succeeded or failed.
pub async fn request_cancel(
    store: &Store,
    organization: OrganizationId,
    job: JobId,
) -> Result<Job, StoreError> {
    let mut transaction = store.pool().begin().await?;
    let changed = sqlx::query_scalar!(
        "update jobs
         set cancel_requested_at = clock_timestamp(),
             state = case when state = 'queued' then 'cancelled'::job_state else state end,
             finished_at = case when state = 'queued' then clock_timestamp() end
         where organization_id = $1 and id = $2 and state in ('queued', 'running') and cancel_requested_at is null
         returning state::text as \"state!\"",
        organization.uuid(),
        job.uuid(),
    )
    .fetch_optional(&mut *transaction)
    .await?;
    if let Some(state) = changed {
        let event = if state == JobState::Cancelled.as_str() {
            NewEvent::new(
                EventLevel::Info,
                "cancelled",
                "the job was cancelled before it started",
            )
        } else {
            NewEvent::new(
                EventLevel::Info,
                "cancel_requested",
                "the worker was asked to stop",
            )
        };
        events::append(&mut transaction, organization, job, &event.with(json!({}))).await?;
        notify_job_updated(&mut transaction, job).await?;
        transaction.commit().await?;
        return get(store, organization, job).await;
    }
    drop(transaction);
    let job = get(store, organization, job).await?;
    match job.state {
        JobState::Succeeded | JobState::Failed => Err(StoreError::conflict(
            "job_finished",
            None,
            format!(
                "The job has {} already; it cannot be cancelled any more.",
                job.state
            ),
        )),
        JobState::Queued | JobState::Running | JobState::Cancelled => Ok(job),
    }
}
