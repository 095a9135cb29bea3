//! Making revisions, and moving them on.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use tunesmith_types::{
    ids::{AdapterVersionId, DeploymentId, DeploymentRevisionId, OrganizationId, UserId},
    states::RevisionKind,
};
use uuid::Uuid;

use super::{Revision, Route};
use crate::{
    Store, StoreError,
    error::stored,
    files::to_json,
    notifications::{DEPLOYMENT_UPDATED, notify_deployment_updated},
    tombstones,
};

/// A revision to be made.
#[derive(Debug, Clone)]
pub struct NewRevision<'a> {
    /// What makes it.
    pub kind: RevisionKind,
    /// `last_number` of the deployment as the caller saw it; none makes it whatever came between.
    pub expected_number: Option<i32>,
    /// Where requests go; the weights sum to 100.
    pub routes: &'a [Route],
    /// Why, in the caller's words.
    pub note: Option<&'a str>,
    /// Who makes it.
    pub created_by: Option<UserId>,
}

impl<'a> NewRevision<'a> {
    /// A revision of this kind, on top of whatever there is, by nobody in particular.
    #[must_use]
    pub const fn new(kind: RevisionKind, routes: &'a [Route]) -> Self {
        Self {
            kind,
            expected_number: None,
            routes,
            note: None,
            created_by: None,
        }
    }
}

/// Makes the next revision. It is active at once where the replicas hold all its versions already, and pending
/// otherwise; one that was still pending is superseded, and so is a canary that was running.
///
/// # Errors
/// [`StoreError::NotFound`] for the deployment or a version; [`StoreError::Conflict`] `revision_conflict` where
/// another revision came between, `weights_do_not_sum`, or `base_model_differs`.
pub async fn create(
    store: &Store,
    organization: OrganizationId,
    deployment: DeploymentId,
    new: &NewRevision<'_>,
) -> Result<Revision, StoreError> {
    let mut transaction = store.pool().begin().await?;
    let revision = insert(&mut transaction, organization, deployment, new).await?;
    transaction.commit().await?;
    store.deployments_changed();
    Ok(revision)
}

/// As [`create`], in the caller's transaction, who must call [`Store::deployments_changed`] after the commit.
///
/// Three statements: the first locks the deployment, the second its versions, and the third sees what others left.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    organization: OrganizationId,
    deployment: DeploymentId,
    new: &NewRevision<'_>,
) -> Result<Revision, StoreError> {
    check_weights(new.routes)?;
    let number = take_number(connection, organization, deployment, new.expected_number).await?;
    let wanted: Vec<AdapterVersionId> = versions(new.routes).into_iter().collect();
    hold_versions(connection, organization, deployment, &wanted).await?;
    let id = DeploymentRevisionId::new();
    let made = make(connection, organization, deployment, id, number, new, &wanted).await?;
    if made.deleted {
        return Err(StoreError::NotFound("adapter version"));
    }
    Ok(Revision {
        id,
        deployment_id: deployment,
        number,
        kind: new.kind,
        parent_number: Some(number - 1).filter(|parent| *parent > 0),
        state: stored("deployment_revisions.state", &made.state)?,
        routes: new.routes.to_vec(),
        note: new.note.map(ToOwned::to_owned),
        reason: None,
        created_by: new.created_by,
        created_at: made.created_at,
        activated_at: made.activated_at,
        ended_at: None,
    })
}

struct MadeRow {
    state: String,
    created_at: DateTime<Utc>,
    activated_at: Option<DateTime<Utc>>,
    /// One of its versions is deleted: the caller's transaction must not be committed.
    deleted: bool,
}

async fn make(
    connection: &mut PgConnection,
    organization: OrganizationId,
    deployment: DeploymentId,
    id: DeploymentRevisionId,
    number: i32,
    new: &NewRevision<'_>,
    wanted: &[AdapterVersionId],
) -> Result<MadeRow, StoreError> {
    let names: Vec<String> = wanted.iter().map(ToString::to_string).collect();
    let wanted: Vec<Uuid> = wanted.iter().map(|version| version.uuid()).collect();
    let made = sqlx::query_file_as!(
        MadeRow,
        "src/revisions/make.sql",
        id.uuid(),
        deployment.uuid(),
        organization.uuid(),
        number,
        new.kind.as_str(),
        to_json(new.routes),
        new.note,
        new.created_by.map(UserId::uuid),
        &names,
        format!("revision {number} ({}) was made", new.kind),
        &wanted,
        DEPLOYMENT_UPDATED,
        deployment.to_string(),
    )
    .fetch_one(connection)
    .await?;
    Ok(made)
}

fn check_weights(routes: &[Route]) -> Result<(), StoreError> {
    let sum: u32 = routes.iter().map(|route| u32::from(route.weight)).sum();
    if sum == 100 && routes.iter().all(|route| route.weight > 0) {
        return Ok(());
    }
    let message = format!("The weights of the routes must be at least 1 and sum to 100; they sum to {sum}.");
    Err(StoreError::conflict(
        "weights_do_not_sum",
        Some("routes"),
        message,
    ))
}

/// Locks the deployment until the caller's transaction ends, and gives the number of its newest revision.
pub(crate) async fn lock(
    connection: &mut PgConnection,
    organization: OrganizationId,
    deployment: DeploymentId,
) -> Result<i32, StoreError> {
    sqlx::query_scalar!(
        "select last_number from deployments where organization_id = $1 and id = $2 for update",
        organization.uuid(),
        deployment.uuid(),
    )
    .fetch_optional(connection)
    .await?
    .ok_or(StoreError::NotFound("deployment"))
}

/// Raises the deployment's counter where it stands as expected, and with that locks the deployment.
async fn take_number(
    connection: &mut PgConnection,
    organization: OrganizationId,
    deployment: DeploymentId,
    expected: Option<i32>,
) -> Result<i32, StoreError> {
    let taken = sqlx::query_scalar!(
        "update deployments set last_number = last_number + 1
         where organization_id = $1 and id = $2 and ($3::integer is null or last_number = $3)
         returning last_number",
        organization.uuid(),
        deployment.uuid(),
        expected,
    )
    .fetch_optional(&mut *connection)
    .await?;
    if let Some(number) = taken {
        return Ok(number);
    }
    let last = lock(connection, organization, deployment).await?;
    let message = format!("The deployment is at revision {last} by now; read it again and decide anew.");
    Err(StoreError::conflict(
        "revision_conflict",
        Some("expected_number"),
        message,
    ))
}

/// Every routed version must be the organization's, not deleted, and adapt the deployment's base model.
pub(crate) async fn require_versions(
    connection: &mut PgConnection,
    organization: OrganizationId,
    deployment: DeploymentId,
    routes: &[Route],
) -> Result<(), StoreError> {
    let wanted: Vec<AdapterVersionId> = versions(routes).into_iter().collect();
    hold_versions(connection, organization, deployment, &wanted).await?;
    let wanted: Vec<Uuid> = wanted.into_iter().map(AdapterVersionId::uuid).collect();
    tombstones::keep(connection, organization, &wanted).await
}

/// Keeps the versions from being deleted until the caller's transaction ends. Whether one was deleted before is to be
/// asked in a statement behind this one; see [`tombstones::keep`].
async fn hold_versions(
    connection: &mut PgConnection,
    organization: OrganizationId,
    deployment: DeploymentId,
    wanted: &[AdapterVersionId],
) -> Result<(), StoreError> {
    if wanted.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = wanted.iter().map(|version| version.uuid()).collect();
    let fits = sqlx::query_scalar!(
        "select (v.base_model_id = d.base_model_id) as \"fits!\"
         from adapter_versions v join deployments d on d.organization_id = v.organization_id
         where v.organization_id = $1 and d.id = $2 and v.id = any($3)
         order by v.id for share of v",
        organization.uuid(),
        deployment.uuid(),
        &ids,
    )
    .fetch_all(connection)
    .await?;
    if fits.len() < wanted.len() {
        return Err(StoreError::NotFound("adapter version"));
    }
    if fits.iter().all(|fits| *fits) {
        return Ok(());
    }
    let message = "The adapter version was trained on another base model than this deployment's; \
                   make a deployment of that base model.";
    Err(StoreError::conflict(
        "base_model_differs",
        Some("routes"),
        message,
    ))
}

fn versions(routes: &[Route]) -> HashSet<AdapterVersionId> {
    routes
        .iter()
        .filter_map(|route| route.adapter_version_id)
        .collect()
}

async fn supersede_active(connection: &mut PgConnection, deployment: DeploymentId) -> Result<(), StoreError> {
    sqlx::query!(
        "update deployment_revisions set state = 'superseded', ended_at = clock_timestamp()
         where deployment_id = $1 and state = 'active'",
        deployment.uuid(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A pending revision is ready: it answers from now on, and the one before it does not.
///
/// # Errors
/// [`StoreError::Conflict`] `revision_not_pending` where a newer one has overtaken it; [`StoreError::NotFound`].
pub async fn activate(
    store: &Store,
    organization: OrganizationId,
    revision: DeploymentRevisionId,
) -> Result<(), StoreError> {
    let mut transaction = store.pool().begin().await?;
    let deployment = lock_pending(&mut transaction, organization, revision).await?;
    supersede_active(&mut transaction, deployment).await?;
    sqlx::query!(
        "update deployment_revisions set state = 'active', activated_at = clock_timestamp(), loaded = true where id = $1",
        revision.uuid(),
    )
    .execute(&mut *transaction)
    .await?;
    notify_deployment_updated(&mut transaction, deployment).await?;
    transaction.commit().await?;
    store.deployments_changed();
    Ok(())
}

/// A pending revision cannot be made ready; the one before it goes on answering.
///
/// # Errors
/// As for [`activate`].
pub async fn fail(
    store: &Store,
    organization: OrganizationId,
    revision: DeploymentRevisionId,
    reason: &str,
) -> Result<(), StoreError> {
    let mut transaction = store.pool().begin().await?;
    let deployment = lock_pending(&mut transaction, organization, revision).await?;
    sqlx::query!(
        "update deployment_revisions set state = 'failed', ended_at = clock_timestamp(), reason = $2 where id = $1",
        revision.uuid(),
        reason,
    )
    .execute(&mut *transaction)
    .await?;
    notify_deployment_updated(&mut transaction, deployment).await?;
    transaction.commit().await?;
    store.deployments_changed();
    Ok(())
}

/// The reconciler says whether all replicas hold the versions of an active or superseded revision. Writes on a change
/// only.
///
/// # Errors
/// Database errors only.
pub async fn set_loaded(
    store: &Store,
    organization: OrganizationId,
    revision: DeploymentRevisionId,
    loaded: bool,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update deployment_revisions set loaded = $3 where organization_id = $1 and id = $2 and loaded <> $3",
        organization.uuid(),
        revision.uuid(),
        loaded,
    )
    .execute(store.pool())
    .await?;
    Ok(())
}

/// Locks the deployment, as [`take_number`] does, then checks that the revision is still pending.
async fn lock_pending(
    connection: &mut PgConnection,
    organization: OrganizationId,
    revision: DeploymentRevisionId,
) -> Result<DeploymentId, StoreError> {
    let deployment = sqlx::query_scalar!(
        "select d.id from deployments d join deployment_revisions r on r.deployment_id = d.id
         where r.organization_id = $1 and r.id = $2 for update of d",
        organization.uuid(),
        revision.uuid(),
    )
    .fetch_optional(&mut *connection)
    .await?
    .ok_or(StoreError::NotFound("deployment revision"))?;
    let pending = sqlx::query_scalar!(
        "select (state = 'pending') as \"pending!\" from deployment_revisions where id = $1",
        revision.uuid(),
    )
    .fetch_one(connection)
    .await?;
    if pending {
        return Ok(DeploymentId::from_uuid(deployment));
    }
    let message = "The revision is not pending any more; a newer one has overtaken it.";
    Err(StoreError::conflict("revision_not_pending", None, message))
}
