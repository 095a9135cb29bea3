//! Training jobs as their owners see them. What workers do with them is in [`queue`](crate::queue).

mod create;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tunesmith_types::{
    hyperparameters::Hyperparameters,
    ids::{AdapterVersionId, BaseModelId, DatasetId, JobId, OrganizationId, UserId},
    list::Page,
    names::ResourceName,
    states::{EventLevel, JobState},
};
use uuid::Uuid;

use crate::{
    Store, StoreError,
    error::{stored, stored_json, stored_json_option},
    events::{self, NewEvent},
    files::StoredFile,
    notifications::notify_job_updated,
    paging::{Rows, fetch_limit},
};

pub use create::{NewJob, create};

/// Why something failed: a stable code, and a sentence for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobError {
    /// Stable, for programs.
    pub code: String,
    /// What is wrong, where, and how to mend it.
    pub message: String,
}

/// The version that a job begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobParent {
    /// Id.
    pub version_id: AdapterVersionId,
    /// Its adapter.
    pub adapter: ResourceName,
    /// Its number.
    pub number: i32,
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
    /// The version whose adapter it begins with.
    pub parent: Option<JobParent>,
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
    parent_version_id: Option<Uuid>,
    parent_adapter: Option<String>,
    parent_number: Option<i32>,
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
            parent: parent_of(
                row.parent_version_id,
                row.parent_adapter.as_deref(),
                row.parent_number,
            )?,
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

fn parent_of(
    version: Option<Uuid>,
    adapter: Option<&str>,
    number: Option<i32>,
) -> Result<Option<JobParent>, StoreError> {
    let (Some(version), Some(adapter), Some(number)) = (version, adapter, number) else {
        return Ok(None);
    };
    Ok(Some(JobParent {
        version_id: AdapterVersionId::from_uuid(version),
        adapter: stored("adapters.name", adapter)?,
        number,
    }))
}

/// `select` of whole rows; the rest of the statement, then its arguments.
macro_rules! select_jobs {
    ($rest:tt, $($argument:expr),* $(,)?) => {
        sqlx::query_as!(
            JobRow,
            "select j.id, j.organization_id, j.state::text as \"state!\", j.adapter, j.base_model_id,
                    b.name as base_model, j.dataset_id, d.name as dataset, d.number as dataset_number,
                    j.parent_version_id, pa.name as \"parent_adapter?\", p.number as \"parent_number?\",
                    j.hyperparameters, j.created_by, j.run_at, j.attempts, j.max_attempts, j.rescues, j.worker,
                    j.cancel_requested_at, j.step, j.total_steps, j.last_progress_at, j.error, j.adapter_version_id,
                    v.number as \"adapter_version?\", j.metrics_file, j.created_at, j.started_at, j.finished_at
             from jobs j
             join base_models b on b.id = j.base_model_id
             join datasets d on d.organization_id = j.organization_id and d.id = j.dataset_id
             left join adapter_versions v on v.id = j.adapter_version_id
             left join adapter_versions p on p.id = j.parent_version_id
             left join adapters pa on pa.id = p.adapter_id " + $rest,
            $($argument),*
        )
    };
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
