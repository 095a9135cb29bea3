//! The immutable states of a deployment. Making one is a compare-and-set; the reconciler then moves it on:
//! pending, then active (and the one before it superseded), or failed.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;
use tunesmith_types::{
    ids::{AdapterVersionId, DeploymentId, DeploymentRevisionId, OrganizationId, UserId},
    list::Page,
    states::RevisionState,
};
use uuid::Uuid;

use crate::{
    Store, StoreError,
    error::{stored, stored_json},
    files::to_json,
    notifications::notify_deployment_updated,
    paging::{Rows, fetch_limit},
    tombstones,
};

/// Share of the requests that goes to one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The version; none is the base model itself.
    pub adapter_version_id: Option<AdapterVersionId>,
    /// Of 100.
    pub weight: u8,
}

/// One immutable state of a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// Id.
    pub id: DeploymentRevisionId,
    /// Of which deployment.
    pub deployment_id: DeploymentId,
    /// 1 for the first.
    pub number: i32,
    /// Where it stands.
    pub state: RevisionState,
    /// Where requests go.
    pub routes: Vec<Route>,
    /// Why it failed or was superseded.
    pub reason: Option<String>,
    /// Who made it.
    pub created_by: Option<UserId>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it began to answer.
    pub activated_at: Option<DateTime<Utc>>,
    /// When it failed or was superseded.
    pub ended_at: Option<DateTime<Utc>>,
}

struct RevisionRow {
    id: Uuid,
    deployment_id: Uuid,
    number: i32,
    state: String,
    routes: Value,
    reason: Option<String>,
    created_by: Option<Uuid>,
    created_at: DateTime<Utc>,
    activated_at: Option<DateTime<Utc>>,
    ended_at: Option<DateTime<Utc>>,
}

impl TryFrom<RevisionRow> for Revision {
    type Error = StoreError;

    fn try_from(row: RevisionRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: DeploymentRevisionId::from_uuid(row.id),
            deployment_id: DeploymentId::from_uuid(row.deployment_id),
            number: row.number,
            state: stored("deployment_revisions.state", &row.state)?,
            routes: stored_json("deployment_revisions.routes", row.routes)?,
            reason: row.reason,
            created_by: row.created_by.map(UserId::from_uuid),
            created_at: row.created_at,
            activated_at: row.activated_at,
            ended_at: row.ended_at,
        })
    }
}

/// `select` of whole rows; the rest of the statement, then its arguments.
macro_rules! select_revisions {
    ($rest:tt, $($argument:expr),* $(,)?) => {
        sqlx::query_as!(
            RevisionRow,
            "select r.id, r.deployment_id, r.number, r.state::text as \"state!\", r.routes, r.reason, r.created_by,
                    r.created_at, r.activated_at, r.ended_at
             from deployment_revisions r " + $rest,
            $($argument),*
        )
    };
}

/// A revision to be made.
#[derive(Debug, Clone)]
pub struct NewRevision<'a> {
    /// `last_number` of the deployment as the caller saw it; none makes it whatever came between.
    pub expected_number: Option<i32>,
    /// Where requests go; the weights sum to 100.
    pub routes: &'a [Route],
    /// Who makes it.
    pub created_by: Option<UserId>,
}

/// Makes the next revision, which is pending; one that was still pending is superseded.
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
    notify_deployment_updated(&mut transaction, deployment).await?;
    transaction.commit().await?;
    get(store, organization, revision).await
}

/// As [`create`], in the caller's transaction.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    organization: OrganizationId,
    deployment: DeploymentId,
    new: &NewRevision<'_>,
) -> Result<DeploymentRevisionId, StoreError> {
    let sum: u32 = new.routes.iter().map(|route| u32::from(route.weight)).sum();
    if sum != 100 || new.routes.iter().any(|route| route.weight == 0) {
        let message =
            format!("The weights of the routes must be at least 1 and sum to 100; they sum to {sum}.");
        return Err(StoreError::conflict(
            "weights_do_not_sum",
            Some("routes"),
            message,
        ));
    }
    let number = take_number(connection, organization, deployment, new.expected_number).await?;
    require_versions(connection, organization, deployment, new.routes).await?;
    sqlx::query!(
        "update deployment_revisions
         set state = 'superseded', ended_at = clock_timestamp(), reason = 'a newer revision was made before it was ready'
         where organization_id = $1 and deployment_id = $2 and state = 'pending'",
        organization.uuid(),
        deployment.uuid(),
    )
    .execute(&mut *connection)
    .await?;
    let revision = DeploymentRevisionId::new();
    sqlx::query!(
        "insert into deployment_revisions (id, organization_id, deployment_id, number, routes, created_by)
         values ($1, $2, $3, $4, $5, $6)",
        revision.uuid(),
        organization.uuid(),
        deployment.uuid(),
        number,
        to_json(new.routes),
        new.created_by.map(UserId::uuid),
    )
    .execute(connection)
    .await?;
    Ok(revision)
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
    let last = sqlx::query_scalar!(
        "select last_number from deployments where organization_id = $1 and id = $2",
        organization.uuid(),
        deployment.uuid(),
    )
    .fetch_optional(connection)
    .await?
    .ok_or(StoreError::NotFound("deployment"))?;
    let message = format!("The deployment is at revision {last} by now; read it again and decide anew.");
    Err(StoreError::conflict(
        "revision_conflict",
        Some("expected_number"),
        message,
    ))
}

/// Every routed version must be the organization's, not deleted, and adapt the deployment's base model.
async fn require_versions(
    connection: &mut PgConnection,
    organization: OrganizationId,
    deployment: DeploymentId,
    routes: &[Route],
) -> Result<(), StoreError> {
    let mut wanted: Vec<Uuid> = routes
        .iter()
        .filter_map(|route| route.adapter_version_id)
        .map(|id| id.uuid())
        .collect();
    wanted.sort_unstable();
    wanted.dedup();
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

/// A revision by id.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn get(
    store: &Store,
    organization: OrganizationId,
    revision: DeploymentRevisionId,
) -> Result<Revision, StoreError> {
    let row = select_revisions!(
        "where r.organization_id = $1 and r.id = $2",
        organization.uuid(),
        revision.uuid()
    )
    .fetch_optional(store.pool())
    .await?;
    row.ok_or(StoreError::NotFound("deployment revision"))?.try_into()
}

/// The revisions of a deployment, newest first; none where it is another organization's.
///
/// # Errors
/// Database errors only.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    deployment: DeploymentId,
    page: &Page<DeploymentRevisionId>,
) -> Result<Rows<Revision>, StoreError> {
    let rows = select_revisions!(
        "where r.organization_id = $1 and r.deployment_id = $2
           and ($3::uuid is null
                or r.number < (select cursor.number from deployment_revisions as cursor
                               where cursor.deployment_id = $2 and cursor.id = $3))
         order by r.number desc limit $4",
        organization.uuid(),
        deployment.uuid(),
        page.after.map(DeploymentRevisionId::uuid),
        fetch_limit(page),
    )
    .fetch_all(store.pool())
    .await?;
    let revisions = rows
        .into_iter()
        .map(Revision::try_from)
        .collect::<Result<_, _>>()?;
    Ok(Rows::cut(revisions, page))
}

/// The active and the newest revision of each deployment.
pub(crate) async fn current(
    store: &Store,
    organization: OrganizationId,
    deployments: &[Uuid],
) -> Result<Vec<Revision>, StoreError> {
    let rows = select_revisions!(
        "join deployments d on d.id = r.deployment_id
         where r.organization_id = $1 and r.deployment_id = any($2)
           and (r.state = 'active' or r.number = d.last_number)",
        organization.uuid(),
        deployments,
    )
    .fetch_all(store.pool())
    .await?;
    rows.into_iter().map(Revision::try_from).collect()
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
    sqlx::query!(
        "update deployment_revisions set state = 'superseded', ended_at = clock_timestamp()
         where deployment_id = $1 and state = 'active'",
        deployment.uuid(),
    )
    .execute(&mut *transaction)
    .await?;
    sqlx::query!(
        "update deployment_revisions set state = 'active', activated_at = clock_timestamp() where id = $1",
        revision.uuid(),
    )
    .execute(&mut *transaction)
    .await?;
    notify_deployment_updated(&mut transaction, deployment).await?;
    transaction.commit().await?;
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
