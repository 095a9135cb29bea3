//! The immutable states of a deployment. Making one is a compare-and-set; the reconciler then moves it on:
//! pending, then active (and the one before it superseded), or failed. Where all that it routes to is loaded already,
//! it is active at once.

mod alias;
mod rollback;
mod write;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;
use tunesmith_types::{
    ids::{AdapterVersionId, DeploymentId, DeploymentRevisionId, OrganizationId, UserId},
    list::Page,
    states::{RevisionKind, RevisionState},
    version_reference::AliasName,
};
use uuid::Uuid;

pub(crate) use self::write::{insert, lock, require_versions};
pub use self::{
    alias::follow_alias,
    rollback::{WayBack, way_back},
    write::{NewRevision, activate, create, fail, set_loaded},
};
use crate::{
    Store, StoreError,
    error::{stored, stored_json},
    paging::{Rows, fetch_limit},
};

/// Share of the requests that goes to one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The version; none is the base model itself.
    pub adapter_version_id: Option<AdapterVersionId>,
    /// Of 100.
    pub weight: u8,
    /// The alias by which the version was named: when it moves, the deployment follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<AliasName>,
}

impl Route {
    /// A share for this version, whatever happens to aliases.
    #[must_use]
    pub const fn pinned(adapter_version_id: Option<AdapterVersionId>, weight: u8) -> Self {
        Self {
            adapter_version_id,
            weight,
            alias: None,
        }
    }
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
    /// What made it.
    pub kind: RevisionKind,
    /// The newest revision when it was made.
    pub parent_number: Option<i32>,
    /// Where it stands.
    pub state: RevisionState,
    /// Where requests go.
    pub routes: Vec<Route>,
    /// Why it was made, in the words of whoever made it.
    pub note: Option<String>,
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
    kind: String,
    parent_number: Option<i32>,
    state: String,
    routes: Value,
    note: Option<String>,
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
            kind: stored("deployment_revisions.kind", &row.kind)?,
            parent_number: row.parent_number,
            note: row.note,
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
            "select r.id, r.deployment_id, r.number, r.kind, r.parent_number, r.state::text as \"state!\", r.routes,
                    r.note, r.reason, r.created_by, r.created_at, r.activated_at, r.ended_at
             from deployment_revisions r " + $rest,
            $($argument),*
        )
    };
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

/// The active revision of a deployment, and those from number `from` on; newest first.
pub(crate) async fn active_and_from(
    connection: &mut PgConnection,
    organization: OrganizationId,
    deployment: Uuid,
    from: i32,
) -> Result<Vec<Revision>, StoreError> {
    let rows = select_revisions!(
        "where r.organization_id = $1 and r.deployment_id = $2 and (r.state = 'active' or r.number >= $3)
         order by r.number desc",
        organization.uuid(),
        deployment,
        from,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(Revision::try_from).collect()
}

/// A revision by its number.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn find(
    store: &Store,
    organization: OrganizationId,
    deployment: DeploymentId,
    number: i32,
) -> Result<Revision, StoreError> {
    let row = select_revisions!(
        "where r.organization_id = $1 and r.deployment_id = $2 and r.number = $3",
        organization.uuid(),
        deployment.uuid(),
        number,
    )
    .fetch_optional(store.pool())
    .await?;
    row.ok_or(StoreError::NotFound("deployment revision"))?.try_into()
}
