//! The catalogue of frozen models: an organization's own, and those shared with everybody.

use chrono::{DateTime, Utc};
use serde_json::Value;
use tunesmith_types::{
    ids::{BaseModelId, OrganizationId, UserId},
    list::Page,
    names::{ResourceName, Sha256Digest},
    states::BaseModelState,
};
use uuid::Uuid;

use crate::{
    Store, StoreError,
    error::{stored, stored_json, stored_json_option},
    files::{StoredFile, to_json},
    jobs::JobError,
    paging::{Rows, fetch_limit},
};

/// A model of the catalogue.
#[derive(Debug, Clone, PartialEq)]
pub struct BaseModel {
    /// Id.
    pub id: BaseModelId,
    /// Whose; none where shared with everybody.
    pub organization_id: Option<OrganizationId>,
    /// Unique in the organization, or among the shared ones.
    pub name: ResourceName,
    /// Whether it can be used.
    pub state: BaseModelState,
    /// Its files so far; all of them once it is ready.
    pub files: Vec<StoredFile>,
    /// What is known once it is ready.
    pub details: Option<BaseModelDetails>,
    /// Why it cannot be used.
    pub error: Option<JobError>,
    /// When it was registered.
    pub created_at: DateTime<Utc>,
}

/// What registering finds out about a model.
#[derive(Debug, Clone, PartialEq)]
pub struct BaseModelDetails {
    /// config.json.
    pub config: Value,
    /// Over the names and hashes of all files.
    pub digest: Sha256Digest,
    /// Of tokenizer.json.
    pub tokenizer_digest: Sha256Digest,
    /// Of the chat template, where there is one.
    pub template_digest: Option<Sha256Digest>,
    /// Its files.
    pub files: Vec<StoredFile>,
    /// Numbers in its weights.
    pub parameters: i64,
    /// Tokens of the longest sequence.
    pub max_seq_len: u32,
}

pub(crate) struct BaseModelRow {
    id: Uuid,
    organization_id: Option<Uuid>,
    name: String,
    state: String,
    config: Option<Value>,
    digest: Option<String>,
    tokenizer_digest: Option<String>,
    template_digest: Option<String>,
    files: Value,
    parameters: Option<i64>,
    max_seq_len: Option<i32>,
    error: Option<Value>,
    created_at: DateTime<Utc>,
}

impl TryFrom<BaseModelRow> for BaseModel {
    type Error = StoreError;

    fn try_from(row: BaseModelRow) -> Result<Self, StoreError> {
        let files: Vec<StoredFile> = stored_json("base_models.files", row.files)?;
        let details = match (
            row.config,
            row.digest,
            row.tokenizer_digest,
            row.parameters,
            row.max_seq_len,
        ) {
            (Some(config), Some(digest), Some(tokenizer_digest), Some(parameters), Some(max_seq_len)) => {
                Some(BaseModelDetails {
                    config,
                    digest: stored("base_models.digest", &digest)?,
                    tokenizer_digest: stored("base_models.tokenizer_digest", &tokenizer_digest)?,
                    template_digest: row
                        .template_digest
                        .map(|digest| stored("base_models.template_digest", &digest))
                        .transpose()?,
                    files: files.clone(),
                    parameters,
                    max_seq_len: max_seq_len.unsigned_abs(),
                })
            }
            _ => None,
        };
        Ok(Self {
            id: BaseModelId::from_uuid(row.id),
            organization_id: row.organization_id.map(OrganizationId::from_uuid),
            name: stored("base_models.name", &row.name)?,
            state: stored("base_models.state", &row.state)?,
            files,
            details,
            error: stored_json_option("base_models.error", row.error)?,
            created_at: row.created_at,
        })
    }
}

/// `select` of whole rows; the rest of the statement, then its arguments.
macro_rules! select_base_models {
    ($rest:tt, $($argument:expr),* $(,)?) => {
        sqlx::query_as!(
            BaseModelRow,
            "select id, organization_id, name, state::text as \"state!\", config, digest, tokenizer_digest,
                    template_digest, files, parameters, max_seq_len, error, created_at
             from base_models " + $rest,
            $($argument),*
        )
    };
}

/// A model to be registered.
#[derive(Debug, Clone)]
pub struct NewBaseModel<'a> {
    /// Made by the caller, who has named blob keys by it.
    pub id: BaseModelId,
    /// Whose; none to share it with everybody.
    pub owner: Option<OrganizationId>,
    /// Unique in the organization, or among the shared ones.
    pub name: &'a ResourceName,
    /// Who registers it.
    pub created_by: Option<UserId>,
}

/// Begins a registration: the row is pending.
///
/// # Errors
/// [`StoreError::Conflict`] `name_taken`.
pub async fn create(store: &Store, new: &NewBaseModel<'_>) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into base_models (id, organization_id, name, created_by) values ($1, $2, $3, $4)",
        new.id.uuid(),
        new.owner.map(OrganizationId::uuid),
        new.name.as_str(),
        new.created_by.map(UserId::uuid),
    )
    .execute(store.pool())
    .await?;
    Ok(())
}

/// Notes an uploaded file of a pending registration, in the place of one with the same name.
///
/// # Errors
/// [`StoreError::NotFound`] where it is not pending, or of another owner.
pub async fn record_file(
    store: &Store,
    owner: Option<OrganizationId>,
    model: BaseModelId,
    file: &StoredFile,
) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "update base_models
         set files = (select coalesce(jsonb_agg(kept), '[]') from jsonb_array_elements(files) as kept
                      where kept ->> 'name' <> $3) || jsonb_build_array($4::jsonb)
         where id = $1 and organization_id is not distinct from $2 and state = 'pending'",
        model.uuid(),
        owner.map(OrganizationId::uuid),
        file.name,
        to_json(file),
    )
    .execute(store.pool())
    .await?;
    found(done.rows_affected())
}

/// Ends a registration well: the model can be used.
///
/// # Errors
/// [`StoreError::NotFound`] where it is not pending, or of another owner.
pub async fn complete(
    store: &Store,
    owner: Option<OrganizationId>,
    model: BaseModelId,
    details: &BaseModelDetails,
) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "update base_models
         set state = 'ready', finished_at = clock_timestamp(), config = $3, digest = $4, tokenizer_digest = $5,
             template_digest = $6, files = $7, parameters = $8, max_seq_len = $9
         where id = $1 and organization_id is not distinct from $2 and state = 'pending'",
        model.uuid(),
        owner.map(OrganizationId::uuid),
        details.config,
        details.digest.as_str(),
        details.tokenizer_digest.as_str(),
        details.template_digest.as_ref().map(Sha256Digest::as_str),
        to_json(&details.files),
        details.parameters,
        i32::try_from(details.max_seq_len).unwrap_or(i32::MAX),
    )
    .execute(store.pool())
    .await?;
    found(done.rows_affected())
}

/// Ends a registration badly.
///
/// # Errors
/// [`StoreError::NotFound`] where it is not pending, or of another owner.
pub async fn fail(
    store: &Store,
    owner: Option<OrganizationId>,
    model: BaseModelId,
    error: &JobError,
) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "update base_models set state = 'failed', finished_at = clock_timestamp(), error = $3
         where id = $1 and organization_id is not distinct from $2 and state = 'pending'",
        model.uuid(),
        owner.map(OrganizationId::uuid),
        to_json(error),
    )
    .execute(store.pool())
    .await?;
    found(done.rows_affected())
}

fn found(rows: u64) -> Result<(), StoreError> {
    if rows == 0 {
        Err(StoreError::NotFound("base model"))
    } else {
        Ok(())
    }
}

/// Takes a failed or abandoned registration away, so that its name can be used again. A ready model stays.
///
/// # Errors
/// Database errors only.
pub async fn discard_unfinished(
    store: &Store,
    owner: Option<OrganizationId>,
    name: &ResourceName,
) -> Result<(), StoreError> {
    sqlx::query!(
        "delete from base_models where name = $1 and organization_id is not distinct from $2 and state <> 'ready'",
        name.as_str(),
        owner.map(OrganizationId::uuid),
    )
    .execute(store.pool())
    .await?;
    Ok(())
}

/// Takes a model of the organization away from which nothing was made.
///
/// # Errors
/// [`StoreError::NotFound`]; [`StoreError::Conflict`] `base_model_in_use`.
pub async fn delete(store: &Store, owner: OrganizationId, model: BaseModelId) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "delete from base_models where id = $1 and organization_id = $2",
        model.uuid(),
        owner.uuid(),
    )
    .execute(store.pool())
    .await?;
    found(done.rows_affected())
}

/// A model that the organization may see.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn get(
    store: &Store,
    organization: OrganizationId,
    model: BaseModelId,
) -> Result<BaseModel, StoreError> {
    let row = select_base_models!(
        "where id = $1 and (organization_id = $2 or organization_id is null)",
        model.uuid(),
        organization.uuid(),
    )
    .fetch_optional(store.pool())
    .await?;
    row.ok_or(StoreError::NotFound("base model"))?.try_into()
}

/// A model by name: the organization's own before a shared one.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn find(store: &Store, organization: OrganizationId, name: &str) -> Result<BaseModel, StoreError> {
    let row = select_base_models!(
        "where name = $1 and (organization_id = $2 or organization_id is null)
         order by organization_id nulls last limit 1",
        name,
        organization.uuid(),
    )
    .fetch_optional(store.pool())
    .await?;
    row.ok_or(StoreError::NotFound("base model"))?.try_into()
}

/// A shared model by name.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn find_shared(store: &Store, name: &str) -> Result<BaseModel, StoreError> {
    let row = select_base_models!("where name = $1 and organization_id is null", name)
        .fetch_optional(store.pool())
        .await?;
    row.ok_or(StoreError::NotFound("base model"))?.try_into()
}

/// The models that the organization may see, newest first.
///
/// # Errors
/// Database errors only.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    page: &Page<BaseModelId>,
) -> Result<Rows<BaseModel>, StoreError> {
    let rows = select_base_models!(
        "where (organization_id = $1 or organization_id is null)
           and ($2::uuid is null
                or (created_at, id) < (select cursor.created_at, cursor.id from base_models as cursor
                                       where cursor.id = $2
                                         and (cursor.organization_id = $1 or cursor.organization_id is null)))
         order by created_at desc, id desc limit $3",
        organization.uuid(),
        page.after.map(BaseModelId::uuid),
        fetch_limit(page),
    )
    .fetch_all(store.pool())
    .await?;
    let models = rows
        .into_iter()
        .map(BaseModel::try_from)
        .collect::<Result<_, _>>()?;
    Ok(Rows::cut(models, page))
}

/// For the system: any model, whoever owns it.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn get_any(store: &Store, model: BaseModelId) -> Result<BaseModel, StoreError> {
    let row = select_base_models!("where id = $1", model.uuid())
        .fetch_optional(store.pool())
        .await?;
    row.ok_or(StoreError::NotFound("base model"))?.try_into()
}

/// For the system: every model that can be used, the oldest first.
///
/// # Errors
/// Database errors only.
pub async fn ready(store: &Store) -> Result<Vec<BaseModel>, StoreError> {
    let rows = select_base_models!("where state = 'ready' order by created_at, id",)
        .fetch_all(store.pool())
        .await?;
    rows.into_iter().map(BaseModel::try_from).collect()
}
