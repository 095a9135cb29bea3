//! Versions that get copies of a deployment's requests.

use chrono::{DateTime, Utc};
use tunesmith_types::ids::{AdapterVersionId, DeploymentId, OrganizationId, UserId};

use crate::{Store, StoreError, notifications::notify_deployment_updated, revisions};

/// A share of a deployment's requests is also sent to this version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shadow {
    /// The version.
    pub adapter_version_id: AdapterVersionId,
    /// Percent of the requests.
    pub percent: i32,
    /// Since when.
    pub created_at: DateTime<Utc>,
}

/// Begins to mirror, in place of what was mirrored before.
///
/// # Errors
/// [`StoreError::NotFound`] for the deployment or the version; [`StoreError::Conflict`] `base_model_differs`.
pub async fn set(
    store: &Store,
    organization: OrganizationId,
    deployment: DeploymentId,
    version: AdapterVersionId,
    percent: u8,
    created_by: Option<UserId>,
) -> Result<Shadow, StoreError> {
    let mut transaction = store.pool().begin().await?;
    revisions::lock(&mut transaction, organization, deployment).await?;
    revisions::require_versions(
        &mut transaction,
        organization,
        deployment,
        &[revisions::Route::pinned(Some(version), 100)],
    )
    .await?;
    let created_at = sqlx::query_scalar!(
        "insert into shadows (deployment_id, organization_id, adapter_version_id, percent, created_by)
         values ($1, $2, $3, $4, $5)
         on conflict (deployment_id) do update
           set adapter_version_id = $3, percent = $4, created_by = $5, created_at = clock_timestamp()
         returning created_at",
        deployment.uuid(),
        organization.uuid(),
        version.uuid(),
        i32::from(percent),
        created_by.map(UserId::uuid),
    )
    .fetch_one(&mut *transaction)
    .await?;
    notify_deployment_updated(&mut transaction, deployment).await?;
    transaction.commit().await?;
    store.deployments_changed();
    Ok(Shadow {
        adapter_version_id: version,
        percent: i32::from(percent),
        created_at,
    })
}

/// What is mirrored, if anything.
///
/// # Errors
/// Database errors only.
pub async fn get(
    store: &Store,
    organization: OrganizationId,
    deployment: DeploymentId,
) -> Result<Option<Shadow>, StoreError> {
    let row = sqlx::query!(
        "select adapter_version_id, percent, created_at from shadows
         where organization_id = $1 and deployment_id = $2",
        organization.uuid(),
        deployment.uuid(),
    )
    .fetch_optional(store.pool())
    .await?;
    Ok(row.map(|row| Shadow {
        adapter_version_id: AdapterVersionId::from_uuid(row.adapter_version_id),
        percent: row.percent,
        created_at: row.created_at,
    }))
}

/// Ends the mirroring.
///
/// # Errors
/// [`StoreError::NotFound`] where nothing is mirrored.
pub async fn delete(
    store: &Store,
    organization: OrganizationId,
    deployment: DeploymentId,
) -> Result<(), StoreError> {
    let mut transaction = store.pool().begin().await?;
    let deleted = sqlx::query!(
        "delete from shadows where organization_id = $1 and deployment_id = $2",
        organization.uuid(),
        deployment.uuid(),
    )
    .execute(&mut *transaction)
    .await?;
    if deleted.rows_affected() == 0 {
        return Err(StoreError::NotFound("shadow"));
    }
    notify_deployment_updated(&mut transaction, deployment).await?;
    transaction.commit().await?;
    store.deployments_changed();
    Ok(())
}
