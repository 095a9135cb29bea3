//! The registry: adapters and their immutable versions. Versions are made by [`queue::complete`](crate::queue::complete),
//! [`checkpoints::publish`](crate::checkpoints::publish) and [`imports::publish`](crate::imports::publish).

use chrono::{DateTime, Utc};
use serde_json::Value;
use tunesmith_types::{
    ids::{AdapterId, AdapterVersionId, BaseModelId, JobId, OrganizationId, UserId},
    list::Page,
    names::{ResourceName, Sha256Digest},
    version_reference::VersionReference,
};
use uuid::Uuid;

use crate::{
    Store, StoreError, aliases,
    error::{stored, stored_json},
    files::StoredFile,
    paging::{Rows, fetch_limit},
    tombstones::Deletion,
};

pub use crate::publication::NewAdapterVersion;

/// A named adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapter {
    /// Id.
    pub id: AdapterId,
    /// Unique in the organization.
    pub name: ResourceName,
    /// Number of its newest version.
    pub last_number: i32,
    /// When its first version was made.
    pub created_at: DateTime<Utc>,
}

/// One version; it never changes.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterVersion {
    /// Id.
    pub id: AdapterVersionId,
    /// Whose.
    pub organization_id: OrganizationId,
    /// Of which adapter.
    pub adapter_id: AdapterId,
    /// Its name.
    pub adapter: ResourceName,
    /// 1 for the first.
    pub number: i32,
    /// Which job made it.
    pub job_id: Option<JobId>,
    /// What it adapts.
    pub base_model_id: BaseModelId,
    /// Its name.
    pub base_model: String,
    /// Over the files.
    pub digest: Sha256Digest,
    /// What serving enforces.
    pub manifest: Value,
    /// Its files.
    pub files: Vec<StoredFile>,
    /// Their length together.
    pub bytes: i64,
    /// Final numbers of the training.
    pub metrics: Value,
    /// Optimizer steps of the checkpoint that it was made from; none where it is what the job ended with.
    pub checkpoint_step: Option<i64>,
    /// The version whose adapter its training began with.
    pub parent_version_id: Option<AdapterVersionId>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Where it is deleted: its row stays, its files are gone.
    pub deletion: Option<Deletion>,
}

struct AdapterRow {
    id: Uuid,
    name: String,
    last_number: i32,
    created_at: DateTime<Utc>,
}

impl TryFrom<AdapterRow> for Adapter {
    type Error = StoreError;

    fn try_from(row: AdapterRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: AdapterId::from_uuid(row.id),
            name: stored("adapters.name", &row.name)?,
            last_number: row.last_number,
            created_at: row.created_at,
        })
    }
}

struct VersionRow {
    id: Uuid,
    organization_id: Uuid,
    adapter_id: Uuid,
    adapter: String,
    number: i32,
    job_id: Option<Uuid>,
    base_model_id: Uuid,
    base_model: String,
    digest: String,
    manifest: Value,
    files: Value,
    bytes: i64,
    metrics: Value,
    checkpoint_step: Option<i64>,
    parent_version_id: Option<Uuid>,
    created_at: DateTime<Utc>,
    deleted_at: Option<DateTime<Utc>>,
    deleted_by: Option<Uuid>,
    deletion_reason: Option<String>,
}

impl TryFrom<VersionRow> for AdapterVersion {
    type Error = StoreError;

    fn try_from(row: VersionRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: AdapterVersionId::from_uuid(row.id),
            organization_id: OrganizationId::from_uuid(row.organization_id),
            adapter_id: AdapterId::from_uuid(row.adapter_id),
            adapter: stored("adapters.name", &row.adapter)?,
            number: row.number,
            job_id: row.job_id.map(JobId::from_uuid),
            base_model_id: BaseModelId::from_uuid(row.base_model_id),
            base_model: row.base_model,
            digest: stored("adapter_versions.digest", &row.digest)?,
            manifest: row.manifest,
            files: stored_json("adapter_versions.files", row.files)?,
            bytes: row.bytes,
            metrics: row.metrics,
            checkpoint_step: row.checkpoint_step,
            parent_version_id: row.parent_version_id.map(AdapterVersionId::from_uuid),
            created_at: row.created_at,
            deletion: row.deleted_at.map(|deleted_at| Deletion {
                deleted_at,
                deleted_by: row.deleted_by.map(UserId::from_uuid),
                reason: row.deletion_reason,
            }),
        })
    }
}

/// `select` of whole versions; the rest of the statement, then its arguments.
macro_rules! select_versions {
    ($rest:tt, $($argument:expr),* $(,)?) => {
        sqlx::query_as!(
            VersionRow,
            "select v.id, v.organization_id, v.adapter_id, a.name as adapter, v.number, v.job_id, v.base_model_id,
                    b.name as base_model, v.digest, v.manifest, v.files, v.bytes, v.metrics, v.checkpoint_step,
                    v.parent_version_id, v.created_at, t.deleted_at as \"deleted_at?\", t.deleted_by,
                    t.reason as deletion_reason
             from adapter_versions v
             join adapters a on a.id = v.adapter_id
             join base_models b on b.id = v.base_model_id
             left join adapter_version_tombstones t on t.adapter_version_id = v.id " + $rest,
            $($argument),*
        )
    };
}

/// The organization's adapters, newest first.
///
/// # Errors
/// Database errors only.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    page: &Page<AdapterId>,
) -> Result<Rows<Adapter>, StoreError> {
    let rows = sqlx::query_as!(
        AdapterRow,
        "select id, name, last_number, created_at from adapters
         where organization_id = $1
           and ($2::uuid is null
                or (created_at, id) < (select cursor.created_at, cursor.id from adapters as cursor
                                       where cursor.organization_id = $1 and cursor.id = $2))
         order by created_at desc, id desc limit $3",
        organization.uuid(),
        page.after.map(AdapterId::uuid),
        fetch_limit(page),
    )
    .fetch_all(store.pool())
    .await?;
    let adapters = rows
        .into_iter()
        .map(Adapter::try_from)
        .collect::<Result<_, _>>()?;
    Ok(Rows::cut(adapters, page))
}

/// An adapter by name.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn find(store: &Store, organization: OrganizationId, name: &str) -> Result<Adapter, StoreError> {
    let row = sqlx::query_as!(
        AdapterRow,
        "select id, name, last_number, created_at from adapters where organization_id = $1 and name = $2",
        organization.uuid(),
        name,
    )
    .fetch_optional(store.pool())
    .await?;
    row.ok_or(StoreError::NotFound("adapter"))?.try_into()
}

/// The versions of an adapter that are not deleted, newest first; none where there is no such adapter.
///
/// # Errors
/// Database errors only.
pub async fn versions(
    store: &Store,
    organization: OrganizationId,
    name: &str,
    page: &Page<AdapterVersionId>,
) -> Result<Rows<AdapterVersion>, StoreError> {
    list_versions(store, organization, name, false, page).await
}

/// As [`versions`], with those that are deleted.
///
/// # Errors
/// Database errors only.
pub async fn all_versions(
    store: &Store,
    organization: OrganizationId,
    name: &str,
    page: &Page<AdapterVersionId>,
) -> Result<Rows<AdapterVersion>, StoreError> {
    list_versions(store, organization, name, true, page).await
}

async fn list_versions(
    store: &Store,
    organization: OrganizationId,
    name: &str,
    with_deleted: bool,
    page: &Page<AdapterVersionId>,
) -> Result<Rows<AdapterVersion>, StoreError> {
    let rows = select_versions!(
        "where v.organization_id = $1 and a.name = $2
           and ($3::uuid is null
                or v.number < (select cursor.number from adapter_versions as cursor
                               where cursor.organization_id = $1 and cursor.id = $3
                                 and cursor.adapter_id = v.adapter_id))
           and ($5 or t.deleted_at is null)
         order by v.number desc limit $4",
        organization.uuid(),
        name,
        page.after.map(AdapterVersionId::uuid),
        fetch_limit(page),
        with_deleted,
    )
    .fetch_all(store.pool())
    .await?;
    let versions = rows
        .into_iter()
        .map(AdapterVersion::try_from)
        .collect::<Result<_, _>>()?;
    Ok(Rows::cut(versions, page))
}

/// A version by adapter name and number; without a number, the newest. Deleted ones are not found.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn find_version(
    store: &Store,
    organization: OrganizationId,
    name: &str,
    number: Option<i32>,
) -> Result<AdapterVersion, StoreError> {
    let version = find_any_version(store, organization, name, number).await?;
    match version.deletion {
        None => Ok(version),
        Some(_) => Err(StoreError::NotFound("adapter version")),
    }
}

/// As [`find_version`], but finds deleted ones too; without a number, the newest that is not deleted before those.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn find_any_version(
    store: &Store,
    organization: OrganizationId,
    name: &str,
    number: Option<i32>,
) -> Result<AdapterVersion, StoreError> {
    let row = select_versions!(
        "where v.organization_id = $1 and a.name = $2 and ($3::integer is null or v.number = $3)
         order by (t.deleted_at is not null), v.number desc limit 1",
        organization.uuid(),
        name,
        number,
    )
    .fetch_optional(store.pool())
    .await?;
    row.ok_or(StoreError::NotFound("adapter version"))?.try_into()
}

/// The version that a reference means now. One named by its number may be deleted.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn resolve_reference(
    store: &Store,
    organization: OrganizationId,
    name: &ResourceName,
    reference: &VersionReference,
) -> Result<AdapterVersion, StoreError> {
    match reference {
        VersionReference::Number(number) => {
            find_any_version(store, organization, name.as_str(), Some(*number)).await
        }
        VersionReference::Latest => find_version(store, organization, name.as_str(), None).await,
        VersionReference::Alias(alias) => {
            let alias = aliases::find(store, organization, name.as_str(), alias).await?;
            version(store, organization, alias.version_id).await
        }
    }
}

/// A version by id, deleted or not.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn version(
    store: &Store,
    organization: OrganizationId,
    version: AdapterVersionId,
) -> Result<AdapterVersion, StoreError> {
    let row = select_versions!(
        "where v.organization_id = $1 and v.id = $2",
        organization.uuid(),
        version.uuid()
    )
    .fetch_optional(store.pool())
    .await?;
    row.ok_or(StoreError::NotFound("adapter version"))?.try_into()
}

/// Adapter and number of the organization's versions with these ids, deleted or not.
///
/// # Errors
/// Database errors only.
pub async fn names(
    store: &Store,
    organization: OrganizationId,
    versions: &[AdapterVersionId],
) -> Result<Vec<(AdapterVersionId, ResourceName, i32)>, StoreError> {
    let ids: Vec<Uuid> = versions.iter().map(|version| version.uuid()).collect();
    let rows = sqlx::query!(
        "select v.id, a.name, v.number from adapter_versions v join adapters a on a.id = v.adapter_id
         where v.organization_id = $1 and v.id = any($2)",
        organization.uuid(),
        &ids,
    )
    .fetch_all(store.pool())
    .await?;
    rows.into_iter()
        .map(|row| {
            let name = stored("adapters.name", &row.name)?;
            Ok((AdapterVersionId::from_uuid(row.id), name, row.number))
        })
        .collect()
}

/// The versions with these ids, whoever owns them; the routes of a revision were checked when it was made.
pub(crate) async fn versions_by_id(
    store: &Store,
    versions: &[AdapterVersionId],
) -> Result<Vec<AdapterVersion>, StoreError> {
    if versions.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<Uuid> = versions.iter().map(|version| version.uuid()).collect();
    let rows = select_versions!("where v.id = any($1)", &ids)
        .fetch_all(store.pool())
        .await?;
    rows.into_iter().map(AdapterVersion::try_from).collect()
}
