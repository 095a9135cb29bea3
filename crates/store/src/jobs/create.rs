//! Queueing a job.

use sqlx::PgConnection;
use tunesmith_types::{
    hyperparameters::Hyperparameters,
    ids::{AdapterVersionId, BaseModelId, DatasetId, JobId, OrganizationId, UserId},
    names::ResourceName,
    states::{BaseModelState, DatasetState, EventLevel},
};

use super::{Job, get};
use crate::{
    Store, StoreError,
    error::stored,
    events::{self, NewEvent},
    files::to_json,
    notifications::{notify_job_queued, notify_job_updated},
    tombstones,
};

/// A job to be queued.
#[derive(Debug, Clone)]
pub struct NewJob<'a> {
    /// The adapter whose next version it makes.
    pub adapter: &'a ResourceName,
    /// A ready model that the organization may see.
    pub base_model_id: BaseModelId,
    /// A valid dataset of the organization.
    pub dataset_id: DatasetId,
    /// A version of the organization, of the same base model, whose adapter it begins with; none for a fresh one.
    pub parent_version_id: Option<AdapterVersionId>,
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
/// [`StoreError::NotFound`] for a dataset or base model that the organization cannot see, and for a version that it does
/// not have or has deleted; [`StoreError::Conflict`] `dataset_not_valid` or `base_model_not_ready`.
pub async fn create(
    store: &Store,
    organization: OrganizationId,
    new: &NewJob<'_>,
) -> Result<Job, StoreError> {
    let job = JobId::new();
    let mut transaction = store.pool().begin().await?;
    require_valid_dataset(&mut transaction, organization, new.dataset_id).await?;
    require_ready_base_model(&mut transaction, organization, new.base_model_id).await?;
    let parent = new.parent_version_id.map(AdapterVersionId::uuid);
    if let Some(parent) = parent {
        tombstones::keep(&mut transaction, organization, &[parent]).await?;
    }
    sqlx::query!(
        "insert into jobs (id, organization_id, adapter, base_model_id, dataset_id, hyperparameters, max_attempts,
                           created_by, parent_version_id)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        job.uuid(),
        organization.uuid(),
        new.adapter.as_str(),
        new.base_model_id.uuid(),
        new.dataset_id.uuid(),
        to_json(new.hyperparameters),
        new.max_attempts,
        new.created_by.map(UserId::uuid),
        parent,
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
