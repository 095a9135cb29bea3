//! The registry: adapters and their immutable versions. Versions are made by [`queue::complete`](crate::queue::complete).

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use tunesmith_types::{
    ids::{AdapterId, AdapterVersionId, BaseModelId, JobId, OrganizationId},
    list::Page,
    names::{ResourceName, Sha256Digest},
};
use uuid::Uuid;

use crate::{
    Store, StoreError,
    error::{stored, stored_json},
    files::{StoredFile, to_json},
    paging::{Rows, fetch_limit},
};

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
    /// When it was made.
    pub created_at: DateTime<Utc>,
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
    created_at: DateTime<Utc>,
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
            created_at: row.created_at,
        })
    }
}

/// `select` of whole versions; the rest of the statement, then its arguments.
macro_rules! select_versions {
    ($rest:tt, $($argument:expr),* $(,)?) => {
        sqlx::query_as!(
            VersionRow,
            "select v.id, v.organization_id, v.adapter_id, a.name as adapter, v.number, v.job_id, v.base_model_id,
                    b.name as base_model, v.digest, v.manifest, v.files, v.bytes, v.metrics, v.created_at
             from adapter_versions v
             join adapters a on a.id = v.adapter_id
             join base_models b on b.id = v.base_model_id " + $rest,
            $($argument),*
        )
    };
}

/// A version to be published.
#[derive(Debug, Clone)]
pub struct NewAdapterVersion {
    /// Over the files.
    pub digest: Sha256Digest,
    /// What serving enforces.
    pub manifest: Value,
    /// Its files; at least one.
    pub files: Vec<StoredFile>,
    /// Final numbers of the training.
    pub metrics: Value,
}

/// What a version is made of.
pub(crate) struct Publication<'a> {
    pub(crate) organization: OrganizationId,
    pub(crate) job: JobId,
    pub(crate) adapter: &'a str,
    pub(crate) base_model: Uuid,
}

/// Inserts the next version of the named adapter in the caller's transaction; the adapter is made with its first.
pub(crate) async fn publish(
    connection: &mut PgConnection,
    publication: &Publication<'_>,
    new: &NewAdapterVersion,
) -> Result<(AdapterVersionId, i32), StoreError> {
    let adapter = sqlx::query!(
        "insert into adapters (id, organization_id, name, last_number) values ($1, $2, $3, 1)
         on conflict (organization_id, name) do update set last_number = adapters.last_number + 1
         returning id, last_number",
        AdapterId::new().uuid(),
        publication.organization.uuid(),
        publication.adapter,
    )
    .fetch_one(&mut *connection)
    .await?;
    let version = AdapterVersionId::new();
    let bytes: u64 = new.files.iter().map(|file| file.bytes).sum();
    sqlx::query!(
        "insert into adapter_versions (id, organization_id, adapter_id, number, job_id, base_model_id, digest, manifest,
                                       files, bytes, metrics)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        version.uuid(),
        publication.organization.uuid(),
        adapter.id,
        adapter.last_number,
        publication.job.uuid(),
        publication.base_model,
        new.digest.as_str(),
        new.manifest,
        to_json(&new.files),
        i64::try_from(bytes).unwrap_or(i64::MAX),
        new.metrics,
    )
    .execute(connection)
    .await?;
    Ok((version, adapter.last_number))
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

/// The versions of an adapter, newest first; none where there is no such adapter.
///
/// # Errors
/// Database errors only.
pub async fn versions(
    store: &Store,
    organization: OrganizationId,
    name: &str,
    page: &Page<AdapterVersionId>,
) -> Result<Rows<AdapterVersion>, StoreError> {
    let rows = select_versions!(
        "where v.organization_id = $1 and a.name = $2
           and ($3::uuid is null
                or v.number < (select cursor.number from adapter_versions as cursor
                               where cursor.organization_id = $1 and cursor.id = $3
                                 and cursor.adapter_id = v.adapter_id))
         order by v.number desc limit $4",
        organization.uuid(),
        name,
        page.after.map(AdapterVersionId::uuid),
        fetch_limit(page),
    )
    .fetch_all(store.pool())
    .await?;
    let versions = rows
        .into_iter()
        .map(AdapterVersion::try_from)
        .collect::<Result<_, _>>()?;
    Ok(Rows::cut(versions, page))
}

/// A version by adapter name and number; without a number, the newest.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn find_version(
    store: &Store,
    organization: OrganizationId,
    name: &str,
    number: Option<i32>,
) -> Result<AdapterVersion, StoreError> {
    let row = select_versions!(
        "where v.organization_id = $1 and a.name = $2 and ($3::integer is null or v.number = $3)
         order by v.number desc limit 1",
        organization.uuid(),
        name,
        number,
    )
    .fetch_optional(store.pool())
    .await?;
    row.ok_or(StoreError::NotFound("adapter version"))?.try_into()
}

/// A version by id.
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

/// Keeps these versions from being deleted until the caller's transaction ends.
///
/// # Errors
/// [`StoreError::NotFound`] where one is deleted already, or another organization's.
pub(crate) async fn keep(
    connection: &mut PgConnection,
    organization: OrganizationId,
    versions: &[Uuid],
) -> Result<(), StoreError> {
    let locked = sqlx::query!(
        "select id from adapter_versions where organization_id = $1 and id = any($2) order by id for share",
        organization.uuid(),
        versions,
    )
    .fetch_all(&mut *connection)
    .await?;
    // A statement of its own: what was deleted while the one before waited is seen only now.
    let deleted = sqlx::query_scalar!(
        "select exists (select from adapter_version_tombstones where adapter_version_id = any($1)) as \"deleted!\"",
        versions,
    )
    .fetch_one(connection)
    .await?;
    if deleted || locked.len() < versions.len() {
        return Err(StoreError::NotFound("adapter version"));
    }
    Ok(())
}
