//! Versions made from adapters that were trained elsewhere.

use sqlx::PgConnection;
use tunesmith_types::{
    ids::{AdapterVersionId, BaseModelId, OrganizationId},
    names::{ResourceName, Sha256Digest},
};

use crate::{
    Store, StoreError,
    publication::{self, NewAdapterVersion, Publication},
};

/// The version of the adapter that was imported with this digest and is not deleted.
///
/// # Errors
/// Database errors only.
pub async fn find(
    store: &Store,
    organization: OrganizationId,
    adapter: &ResourceName,
    digest: &Sha256Digest,
) -> Result<Option<AdapterVersionId>, StoreError> {
    let mut connection = store.pool().acquire().await?;
    find_in(&mut connection, organization, adapter, digest).await
}

async fn find_in(
    connection: &mut PgConnection,
    organization: OrganizationId,
    adapter: &ResourceName,
    digest: &Sha256Digest,
) -> Result<Option<AdapterVersionId>, StoreError> {
    let version = sqlx::query_scalar!(
        "select v.id from adapter_versions v
         join adapters a on a.id = v.adapter_id
         left join adapter_version_tombstones t on t.adapter_version_id = v.id
         where v.organization_id = $1 and a.name = $2 and v.digest = $3 and v.job_id is null and t.deleted_at is null
         order by v.number limit 1",
        organization.uuid(),
        adapter.as_str(),
        digest.as_str(),
    )
    .fetch_optional(connection)
    .await?;
    Ok(version.map(AdapterVersionId::from_uuid))
}

/// Makes the next version of the adapter, and says whether it is new: where one was imported with the same digest, that
/// one is given.
///
/// # Errors
/// [`StoreError::NotFound`] where there is no such organization, or it sees no such base model.
pub async fn publish(
    store: &Store,
    organization: OrganizationId,
    adapter: &ResourceName,
    base_model: BaseModelId,
    new: &NewAdapterVersion,
) -> Result<(AdapterVersionId, bool), StoreError> {
    let mut transaction = store.pool().begin().await?;
    // Two calls at once: the second waits here and finds the version of the first.
    sqlx::query_scalar!(
        "select id from organizations where id = $1 for no key update",
        organization.uuid()
    )
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or(StoreError::NotFound("organization"))?;
    if let Some(version) = find_in(&mut transaction, organization, adapter, &new.digest).await? {
        return Ok((version, false));
    }
    let base_model = sqlx::query_scalar!(
        "select id from base_models where id = $1 and (organization_id is null or organization_id = $2)",
        base_model.uuid(),
        organization.uuid(),
    )
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or(StoreError::NotFound("base model"))?;
    let publication = Publication {
        organization,
        job: None,
        checkpoint_step: None,
        adapter: adapter.as_str(),
        base_model,
    };
    let (version, _) = publication::publish(&mut transaction, &publication, new).await?;
    transaction.commit().await?;
    Ok((version, true))
}
