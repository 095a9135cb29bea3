//! Making revisions, and moving them on.

use std::collections::HashSet;

use sqlx::PgConnection;
use tunesmith_types::{
    ids::{AdapterVersionId, DeploymentId, DeploymentRevisionId, OrganizationId, UserId},
    states::RevisionKind,
};
use uuid::Uuid;

use super::{Revision, Route, get};
use crate::{
    Store, StoreError, error::stored_json, files::to_json, notifications::notify_deployment_updated,
    rollouts, tombstones,
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
    let (revision, _) = insert(&mut transaction, organization, deployment, new).await?;
    transaction.commit().await?;
    store.deployments_changed();
    get(store, organization, revision).await
}

/// As [`create`], in the caller's transaction, who must call [`Store::deployments_changed`] after the commit.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    organization: OrganizationId,
    deployment: DeploymentId,
    new: &NewRevision<'_>,
) -> Result<(DeploymentRevisionId, i32), StoreError> {
    check_weights(new.routes)?;
    let number = take_number(connection, organization, deployment, new.expected_number).await?;
    require_versions(connection, organization, deployment, new.routes).await?;
    rollouts::supersede(connection, deployment, number, new.kind).await?;
    sqlx::query!(
        "update deployment_revisions
         set state = 'superseded', ended_at = clock_timestamp(), reason = 'a newer revision was made before it was ready'
         where organization_id = $1 and deployment_id = $2 and state = 'pending'",
        organization.uuid(),
        deployment.uuid(),
    )
    .execute(&mut *connection)
    .await?;
    let at_once = are_loaded(connection, deployment, new.routes).await?;
    if at_once {
        supersede_active(connection, deployment).await?;
    }
    let revision = DeploymentRevisionId::new();
    sqlx::query!(
        "insert into deployment_revisions (id, organization_id, deployment_id, number, kind, parent_number, routes, note,
                                           created_by, state, activated_at, loaded)
         values ($1, $2, $3, $4, $5, nullif($4 - 1, 0), $6, $7, $8,
                 case when $9 then 'active' else 'pending' end::revision_state,
                 case when $9 then clock_timestamp() end, $9)",
        revision.uuid(),
        organization.uuid(),
        deployment.uuid(),
        number,
        new.kind.as_str(),
        to_json(new.routes),
        new.note,
        new.created_by.map(UserId::uuid),
        at_once,
    )
    .execute(&mut *connection)
    .await?;
    notify_deployment_updated(connection, deployment).await?;
    Ok((revision, number))
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
    let wanted: Vec<Uuid> = versions(routes).into_iter().map(AdapterVersionId::uuid).collect();
    tombstones::keep(&mut *connection, organization, &wanted).await?;
    let rows = sqlx::query!(
        "select (v.base_model_id = d.base_model_id) as \"fits!\"
         from adapter_versions v join deployments d on d.organization_id = v.organization_id
         where v.organization_id = $1 and d.id = $2 and v.id = any($3)",
        organization.uuid(),
        deployment.uuid(),
        &wanted,
    )
    .fetch_all(connection)
    .await?;
    if rows.len() < wanted.len() {
        return Err(StoreError::NotFound("adapter version"));
    }
    if rows.iter().any(|row| !row.fits) {
        let message = "The adapter version was trained on another base model than this deployment's; \
                       make a deployment of that base model.";
        return Err(StoreError::conflict(
            "base_model_differs",
            Some("routes"),
            message,
        ));
    }
    Ok(())
}

fn versions(routes: &[Route]) -> HashSet<AdapterVersionId> {
    routes
        .iter()
        .filter_map(|route| route.adapter_version_id)
        .collect()
}

/// Whether the active revision and the one before it, which stays loaded, have all these versions on every replica.
async fn are_loaded(
    connection: &mut PgConnection,
    deployment: DeploymentId,
    routes: &[Route],
) -> Result<bool, StoreError> {
    let rows = sqlx::query!(
        "(select state = 'active' as \"active!\", loaded, routes from deployment_revisions
          where deployment_id = $1 and state = 'active')
         union all
         (select false, loaded, routes from deployment_revisions
          where deployment_id = $1 and state = 'superseded' and activated_at is not null
          order by ended_at desc, number desc limit 1)",
        deployment.uuid(),
    )
    .fetch_all(connection)
    .await?;
    if !rows.iter().any(|row| row.active) {
        return Ok(false);
    }
    let mut loaded = HashSet::new();
    for row in rows.into_iter().filter(|row| row.loaded.unwrap_or(false)) {
        let routes: Vec<Route> = stored_json("deployment_revisions.routes", row.routes.unwrap_or_default())?;
        loaded.extend(versions(&routes));
    }
    Ok(versions(routes).is_subset(&loaded))
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
