//! Immutable files of examples, named and numbered `support@3`.

use chrono::{DateTime, Utc};
use serde_json::Value;
use tunesmith_types::{
    ids::{DatasetId, OrganizationId, UserId},
    list::Page,
    names::{ResourceName, Sha256Digest},
    states::DatasetState,
};
use uuid::Uuid;

use crate::{
    Store, StoreError,
    error::stored,
    paging::{Rows, fetch_limit},
};

/// A dataset.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// Id.
    pub id: DatasetId,
    /// Whose.
    pub organization_id: OrganizationId,
    /// Name, shared by its numbers.
    pub name: ResourceName,
    /// 1 for the first upload under the name.
    pub number: i32,
    /// Whether it can be trained on.
    pub state: DatasetState,
    /// Of the bytes as uploaded.
    pub sha256: Sha256Digest,
    /// Length.
    pub bytes: i64,
    /// Where the bytes are.
    pub blob_key: String,
    /// Good examples; known after validation.
    pub examples: Option<i64>,
    /// The validator's findings.
    pub report: Option<Value>,
    /// Who uploaded it.
    pub created_by: Option<UserId>,
    /// When it was uploaded.
    pub created_at: DateTime<Utc>,
    /// When validation ended.
    pub validated_at: Option<DateTime<Utc>>,
}

struct DatasetRow {
    id: Uuid,
    organization_id: Uuid,
    name: String,
    number: i32,
    state: String,
    sha256: String,
    bytes: i64,
    blob_key: String,
    examples: Option<i64>,
    report: Option<Value>,
    created_by: Option<Uuid>,
    created_at: DateTime<Utc>,
    validated_at: Option<DateTime<Utc>>,
}

impl TryFrom<DatasetRow> for Dataset {
    type Error = StoreError;

    fn try_from(row: DatasetRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: DatasetId::from_uuid(row.id),
            organization_id: OrganizationId::from_uuid(row.organization_id),
            name: stored("datasets.name", &row.name)?,
            number: row.number,
            state: stored("datasets.state", &row.state)?,
            sha256: stored("datasets.sha256", &row.sha256)?,
            bytes: row.bytes,
            blob_key: row.blob_key,
            examples: row.examples,
            report: row.report,
            created_by: row.created_by.map(UserId::from_uuid),
            created_at: row.created_at,
            validated_at: row.validated_at,
        })
    }
}

/// `select` of whole rows; the rest of the statement, then its arguments.
macro_rules! select_datasets {
    ($rest:tt, $($argument:expr),* $(,)?) => {
        sqlx::query_as!(
            DatasetRow,
            "select id, organization_id, name, number, state::text as \"state!\", sha256, bytes, blob_key, examples,
                    report, created_by, created_at, validated_at
             from datasets " + $rest,
            $($argument),*
        )
    };
}

/// An upload whose bytes are in the object store.
#[derive(Debug, Clone)]
pub struct NewDataset<'a> {
    /// Made by the caller, who has named the blob key by it.
    pub id: DatasetId,
    /// Name; the number follows from it.
    pub name: &'a ResourceName,
    /// Of the bytes.
    pub sha256: &'a Sha256Digest,
    /// Length.
    pub bytes: i64,
    /// Where the bytes are.
    pub blob_key: &'a str,
    /// Who uploaded it.
    pub created_by: Option<UserId>,
}

/// What the validator found.
#[derive(Debug, Clone)]
pub struct Validation<'a> {
    /// Whether the dataset can be trained on.
    pub valid: bool,
    /// Good examples.
    pub examples: i64,
    /// The whole report.
    pub report: &'a Value,
}

/// Registers an upload under the next number of its name; it waits for validation.
///
/// # Errors
/// Database errors only.
pub async fn create(
    store: &Store,
    organization: OrganizationId,
    new: &NewDataset<'_>,
) -> Result<Dataset, StoreError> {
    let row = sqlx::query_as!(
        DatasetRow,
        "with numbered as (
             insert into dataset_names (organization_id, name, last_number) values ($2, $3, 1)
             on conflict (organization_id, name) do update set last_number = dataset_names.last_number + 1
             returning last_number
         )
         insert into datasets (id, organization_id, name, number, sha256, bytes, blob_key, created_by)
         select $1, $2, $3, last_number, $4, $5, $6, $7 from numbered
         returning id, organization_id, name, number, state::text as \"state!\", sha256, bytes, blob_key, examples,
                   report, created_by, created_at, validated_at",
        new.id.uuid(),
        organization.uuid(),
        new.name.as_str(),
        new.sha256.as_str(),
        new.bytes,
        new.blob_key,
        new.created_by.map(UserId::uuid),
    )
    .fetch_one(store.pool())
    .await?;
    row.try_into()
}

/// Ends the validation. A dataset that was validated before is given back as it is.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn finish_validation(
    store: &Store,
    organization: OrganizationId,
    dataset: DatasetId,
    validation: &Validation<'_>,
) -> Result<Dataset, StoreError> {
    sqlx::query!(
        "update datasets
         set state = case when $3 then 'valid'::dataset_state else 'invalid' end, examples = $4, report = $5,
             validated_at = clock_timestamp()
         where organization_id = $1 and id = $2 and state = 'validating'",
        organization.uuid(),
        dataset.uuid(),
        validation.valid,
        validation.examples,
        validation.report,
    )
    .execute(store.pool())
    .await?;
    get(store, organization, dataset).await
}

/// Takes a dataset away that no job was made from. Its number is not given again.
///
/// # Errors
/// [`StoreError::NotFound`]; [`StoreError::Conflict`] `dataset_in_use`.
pub async fn delete(
    store: &Store,
    organization: OrganizationId,
    dataset: DatasetId,
) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "delete from datasets where organization_id = $1 and id = $2",
        organization.uuid(),
        dataset.uuid(),
    )
    .execute(store.pool())
    .await?;
    if done.rows_affected() == 0 {
        Err(StoreError::NotFound("dataset"))
    } else {
        Ok(())
    }
}

/// A dataset by id.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn get(
    store: &Store,
    organization: OrganizationId,
    dataset: DatasetId,
) -> Result<Dataset, StoreError> {
    let row = select_datasets!(
        "where organization_id = $1 and id = $2",
        organization.uuid(),
        dataset.uuid()
    )
    .fetch_optional(store.pool())
    .await?;
    row.ok_or(StoreError::NotFound("dataset"))?.try_into()
}

/// A dataset by name and number; without a number, the newest of the name.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn find(
    store: &Store,
    organization: OrganizationId,
    name: &str,
    number: Option<i32>,
) -> Result<Dataset, StoreError> {
    let row = select_datasets!(
        "where organization_id = $1 and name = $2 and ($3::integer is null or number = $3)
         order by number desc limit 1",
        organization.uuid(),
        name,
        number,
    )
    .fetch_optional(store.pool())
    .await?;
    row.ok_or(StoreError::NotFound("dataset"))?.try_into()
}

/// The organization's datasets, newest first.
///
/// # Errors
/// Database errors only.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    page: &Page<DatasetId>,
) -> Result<Rows<Dataset>, StoreError> {
    let rows = select_datasets!(
        "where organization_id = $1
           and ($2::uuid is null
                or (created_at, id) < (select cursor.created_at, cursor.id from datasets as cursor
                                       where cursor.organization_id = $1 and cursor.id = $2))
         order by created_at desc, id desc limit $3",
        organization.uuid(),
        page.after.map(DatasetId::uuid),
        fetch_limit(page),
    )
    .fetch_all(store.pool())
    .await?;
    let datasets = rows
        .into_iter()
        .map(Dataset::try_from)
        .collect::<Result<_, _>>()?;
    Ok(Rows::cut(datasets, page))
}

/// For the system: datasets whose validation has not ended, the oldest first; an API process that starts takes up
/// what another has left.
///
/// # Errors
/// Database errors only.
pub async fn unvalidated(store: &Store) -> Result<Vec<Dataset>, StoreError> {
    let rows = select_datasets!("where state = 'validating' order by created_at, id limit 100",)
        .fetch_all(store.pool())
        .await?;
    rows.into_iter().map(Dataset::try_from).collect()
}
