//! Public model names. Where their requests go is in their [`revisions`].

use chrono::{DateTime, Utc};
use tunesmith_types::{
    ids::{BaseModelId, DeploymentId, OrganizationId, UserId},
    list::Page,
    names::ResourceName,
    states::{RevisionKind, RevisionState},
};
use uuid::Uuid;

use crate::{
    Store, StoreError,
    error::stored,
    notifications::notify_deployment_updated,
    paging::{Rows, fetch_limit},
    revisions::{self, NewRevision, Revision, Route},
};

/// A public model name.
#[derive(Debug, Clone, PartialEq)]
pub struct Deployment {
    /// Id.
    pub id: DeploymentId,
    /// Whose.
    pub organization_id: OrganizationId,
    /// Unique in the organization.
    pub name: ResourceName,
    /// What all its versions adapt.
    pub base_model_id: BaseModelId,
    /// Its name.
    pub base_model: String,
    /// Number of its newest revision; the next one is made on top of it.
    pub last_number: i32,
    /// Who made it.
    pub created_by: Option<UserId>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// The revision that answers; none until the first is ready.
    pub active: Option<Revision>,
    /// The newest revision; the active one, one on its way, or one that failed.
    pub latest: Option<Revision>,
}

struct DeploymentRow {
    id: Uuid,
    organization_id: Uuid,
    name: String,
    base_model_id: Uuid,
    base_model: String,
    last_number: i32,
    created_by: Option<Uuid>,
    created_at: DateTime<Utc>,
}

impl DeploymentRow {
    /// Picks its revisions out of `revisions`.
    fn with(self, revisions: &[Revision]) -> Result<Deployment, StoreError> {
        let id = DeploymentId::from_uuid(self.id);
        let mine = || revisions.iter().filter(|revision| revision.deployment_id == id);
        Ok(Deployment {
            id,
            organization_id: OrganizationId::from_uuid(self.organization_id),
            name: stored("deployments.name", &self.name)?,
            base_model_id: BaseModelId::from_uuid(self.base_model_id),
            base_model: self.base_model,
            last_number: self.last_number,
            created_by: self.created_by.map(UserId::from_uuid),
            created_at: self.created_at,
            active: mine()
                .find(|revision| revision.state == RevisionState::Active)
                .cloned(),
            latest: mine()
                .find(|revision| revision.number == self.last_number)
                .cloned(),
        })
    }
}

/// `select` of whole rows; the rest of the statement, then its arguments.
macro_rules! select_deployments {
    ($rest:tt, $($argument:expr),* $(,)?) => {
        sqlx::query_as!(
            DeploymentRow,
            "select d.id, d.organization_id, d.name, d.base_model_id, b.name as base_model, d.last_number, d.created_by,
                    d.created_at
             from deployments d join base_models b on b.id = d.base_model_id " + $rest,
            $($argument),*
        )
    };
}

/// A deployment to be made, with its first revision.
#[derive(Debug, Clone)]
pub struct NewDeployment<'a> {
    /// Unique in the organization.
    pub name: &'a ResourceName,
    /// A ready model that the organization may see.
    pub base_model_id: BaseModelId,
    /// Where its requests go; the weights sum to 100.
    pub routes: &'a [Route],
    /// Who makes it.
    pub created_by: Option<UserId>,
}

/// Makes a deployment and its first revision, which is pending.
///
/// # Errors
/// [`StoreError::Conflict`] `name_taken`, or as for [`revisions::create`]; [`StoreError::NotFound`] for a base model
/// that the organization cannot see.
pub async fn create(
    store: &Store,
    organization: OrganizationId,
    new: &NewDeployment<'_>,
) -> Result<Deployment, StoreError> {
    let deployment = DeploymentId::new();
    let mut transaction = store.pool().begin().await?;
    let inserted = sqlx::query!(
        "insert into deployments (id, organization_id, name, base_model_id, created_by)
         select $1, $2, $3, b.id, $5 from base_models b
         where b.id = $4 and b.state = 'ready' and (b.organization_id = $2 or b.organization_id is null)",
        deployment.uuid(),
        organization.uuid(),
        new.name.as_str(),
        new.base_model_id.uuid(),
        new.created_by.map(UserId::uuid),
    )
    .execute(&mut *transaction)
    .await?;
    if inserted.rows_affected() == 0 {
        return Err(StoreError::NotFound("base model"));
    }
    let revision = NewRevision {
        kind: RevisionKind::Create,
        expected_number: Some(0),
        routes: new.routes,
        note: None,
        created_by: new.created_by,
    };
    revisions::insert(&mut transaction, organization, deployment, &revision).await?;
    transaction.commit().await?;
    store.deployments_changed();
    get(store, organization, deployment).await
}

/// A deployment by id.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn get(
    store: &Store,
    organization: OrganizationId,
    deployment: DeploymentId,
) -> Result<Deployment, StoreError> {
    let row = select_deployments!(
        "where d.organization_id = $1 and d.id = $2",
        organization.uuid(),
        deployment.uuid()
    )
    .fetch_optional(store.pool())
    .await?
    .ok_or(StoreError::NotFound("deployment"))?;
    let revisions = revisions::current(store, organization, &[row.id]).await?;
    row.with(&revisions)
}

/// A deployment by name.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn find(store: &Store, organization: OrganizationId, name: &str) -> Result<Deployment, StoreError> {
    let row = select_deployments!(
        "where d.organization_id = $1 and d.name = $2",
        organization.uuid(),
        name
    )
    .fetch_optional(store.pool())
    .await?
    .ok_or(StoreError::NotFound("deployment"))?;
    let revisions = revisions::current(store, organization, &[row.id]).await?;
    row.with(&revisions)
}

/// A deployment by name, with its newest revisions, at most `history` of them, the newest first.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn find_with_history(
    store: &Store,
    organization: OrganizationId,
    name: &str,
    history: u16,
) -> Result<(Deployment, Vec<Revision>), StoreError> {
    let mut connection = store.pool().acquire().await?;
    let row = select_deployments!(
        "where d.organization_id = $1 and d.name = $2",
        organization.uuid(),
        name
    )
    .fetch_optional(&mut *connection)
    .await?
    .ok_or(StoreError::NotFound("deployment"))?;
    let first = row.last_number + 1 - i32::from(history);
    let mut revisions = revisions::active_and_from(&mut connection, organization, row.id, first).await?;
    let deployment = row.with(&revisions)?;
    revisions.retain(|revision| revision.number >= first);
    Ok((deployment, revisions))
}

/// The organization's deployments, newest first.
///
/// # Errors
/// Database errors only.
pub async fn list(
    store: &Store,
    organization: OrganizationId,
    page: &Page<DeploymentId>,
) -> Result<Rows<Deployment>, StoreError> {
    let rows = select_deployments!(
        "where d.organization_id = $1
           and ($2::uuid is null
                or (d.created_at, d.id) < (select cursor.created_at, cursor.id from deployments as cursor
                                           where cursor.organization_id = $1 and cursor.id = $2))
         order by d.created_at desc, d.id desc limit $3",
        organization.uuid(),
        page.after.map(DeploymentId::uuid),
        fetch_limit(page),
    )
    .fetch_all(store.pool())
    .await?;
    let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    let revisions = revisions::current(store, organization, &ids).await?;
    let deployments = rows
        .into_iter()
        .map(|row| row.with(&revisions))
        .collect::<Result<_, _>>()?;
    Ok(Rows::cut(deployments, page))
}

/// Takes a deployment and all its revisions away.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn delete(
    store: &Store,
    organization: OrganizationId,
    deployment: DeploymentId,
) -> Result<(), StoreError> {
    let mut transaction = store.pool().begin().await?;
    let deleted = sqlx::query!(
        "delete from deployments where organization_id = $1 and id = $2",
        organization.uuid(),
        deployment.uuid(),
    )
    .execute(&mut *transaction)
    .await?;
    if deleted.rows_affected() == 0 {
        return Err(StoreError::NotFound("deployment"));
    }
    notify_deployment_updated(&mut transaction, deployment).await?;
    transaction.commit().await?;
    store.deployments_changed();
    Ok(())
}
