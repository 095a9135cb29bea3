//! Deleted versions. A version that an alias or a deployment needs stays; the row of one that goes stays too, with its
//! number, digest and manifest, and a tombstone beside it says who deleted it, when and why.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use tunesmith_types::ids::{AdapterVersionId, JobId, OrganizationId, UserId};
use uuid::Uuid;

use crate::{Store, StoreError, aliases};

/// That a version is deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// When.
    pub deleted_at: DateTime<Utc>,
    /// Who did it.
    pub deleted_by: Option<UserId>,
    /// Why.
    pub reason: Option<String>,
}

/// Deletes a version for good; deleting it again changes nothing. Its files are still there: see [`orphaned_keys`].
///
/// # Errors
/// [`StoreError::NotFound`]; [`StoreError::Conflict`] `version_in_use` where an alias points to it, a job that has not
/// ended begins with it, or a revision routes to it that is active, pending, or the last one that was active before.
pub async fn delete_version(
    store: &Store,
    organization: OrganizationId,
    adapter: &str,
    number: i32,
    deleted_by: Option<UserId>,
    reason: Option<&str>,
) -> Result<AdapterVersionId, StoreError> {
    let mut transaction = store.pool().begin().await?;
    let adapter_id = aliases::lock_adapter(&mut transaction, organization, adapter)
        .await
        .map_err(|error| match error {
            StoreError::NotFound(_) => StoreError::NotFound("adapter version"),
            other => other,
        })?;
    // Whoever wants to use the version holds it in share mode until he is done; see `keep`.
    let version = sqlx::query_scalar!(
        "select id from adapter_versions where organization_id = $1 and adapter_id = $2 and number = $3 for update",
        organization.uuid(),
        adapter_id.uuid(),
        number,
    )
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or(StoreError::NotFound("adapter version"))?;
    require_unused(&mut transaction, organization, version, adapter, number).await?;
    sqlx::query!(
        "insert into adapter_version_tombstones (adapter_version_id, organization_id, deleted_by, reason)
         values ($1, $2, $3, $4) on conflict (adapter_version_id) do nothing",
        version,
        organization.uuid(),
        deleted_by.map(UserId::uuid),
        reason,
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(AdapterVersionId::from_uuid(version))
}

async fn require_unused(
    connection: &mut PgConnection,
    organization: OrganizationId,
    version: Uuid,
    adapter: &str,
    number: i32,
) -> Result<(), StoreError> {
    let mut users: Vec<String> = aliases::of_versions(&mut *connection, organization, &[version])
        .await?
        .into_iter()
        .map(|alias| format!("alias `{}`", alias.name))
        .collect();
    let revisions = sqlx::query!(
        "select d.name, r.number, r.state::text as \"state!\"
         from deployment_revisions r join deployments d on d.id = r.deployment_id
         where r.organization_id = $1
           and r.routes @> jsonb_build_array(jsonb_build_object('adapter_version_id', $2::text))
           and (r.state in ('pending', 'active')
                or r.number = (select kept.number from deployment_revisions kept
                               where kept.deployment_id = r.deployment_id and kept.state = 'superseded'
                                 and kept.activated_at is not null
                               order by kept.ended_at desc, kept.number desc limit 1))
         order by d.name, r.number",
        organization.uuid(),
        AdapterVersionId::from_uuid(version).to_string(),
    )
    .fetch_all(&mut *connection)
    .await?;
    let shadows = sqlx::query_scalar!(
        "select d.name from shadows s join deployments d on d.id = s.deployment_id
         where s.organization_id = $1 and s.adapter_version_id = $2 order by d.name",
        organization.uuid(),
        version,
    )
    .fetch_all(&mut *connection)
    .await?;
    users.extend(jobs_beginning_with(connection, organization, version).await?);
    users.extend(
        shadows
            .into_iter()
            .map(|name| format!("deployment `{name}` (shadow)")),
    );
    users.extend(revisions.into_iter().map(|revision| {
        format!(
            "deployment `{}` (revision {}, {})",
            revision.name, revision.number, revision.state
        )
    }));
    if users.is_empty() {
        return Ok(());
    }
    let message = format!(
        "`{adapter}@{number}` is in use by {}; move the aliases, promote other versions twice or delete the deployments, and let the jobs end or \
         cancel them.",
        users.join(", ")
    );
    Err(StoreError::conflict("version_in_use", None, message))
}

/// Jobs that have not ended and need the version to begin with, in words.
async fn jobs_beginning_with(
    connection: &mut PgConnection,
    organization: OrganizationId,
    version: Uuid,
) -> Result<Vec<String>, StoreError> {
    let jobs = sqlx::query_scalar!(
        "select id from jobs
         where organization_id = $1 and parent_version_id = $2 and state in ('queued', 'running') order by id",
        organization.uuid(),
        version,
    )
    .fetch_all(connection)
    .await?;
    let words = |job| format!("job `{}`, which begins with it", JobId::from_uuid(job));
    Ok(jobs.into_iter().map(words).collect())
}

/// Keys of the files of a deleted version that no other row names. They may be removed from the object store, at any
/// time and as often as one likes.
///
/// # Errors
/// Database errors only.
pub async fn orphaned_keys(
    store: &Store,
    organization: OrganizationId,
    version: AdapterVersionId,
) -> Result<Vec<String>, StoreError> {
    let keys = sqlx::query_scalar!(
        "select file ->> 'key' as \"key!\"
         from adapter_versions v
         join adapter_version_tombstones t on t.adapter_version_id = v.id
         cross join jsonb_array_elements(v.files) as file
         where v.organization_id = $1 and v.id = $2
           and not exists (
               select from adapter_versions other
               where other.organization_id = $1 and other.id <> v.id
                 and other.files @> jsonb_build_array(jsonb_build_object('key', file ->> 'key'))
                 and not exists (select from adapter_version_tombstones gone where gone.adapter_version_id = other.id))
           and not exists (
               select from checkpoints c
               where c.organization_id = $1
                 and c.files @> jsonb_build_array(jsonb_build_object('key', file ->> 'key')))",
        organization.uuid(),
        version.uuid(),
    )
    .fetch_all(store.pool())
    .await?;
    Ok(keys)
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
