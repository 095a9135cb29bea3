//! Where a rollback leads.

use tunesmith_types::ids::{DeploymentId, OrganizationId};

use super::Route;
use crate::{Store, StoreError, error::stored_json_option};

/// Where a deployment can go back to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WayBack {
    /// Which deployment.
    pub deployment_id: DeploymentId,
    /// The routes there; none where there is no such revision, or nothing has answered before.
    pub routes: Option<Vec<Route>>,
}

/// Finds the routes of revision `to_revision` of the deployment `name`. Where none is given: those that the canary that
/// runs began beside, or else those of the last revision that answered before the active one and sent requests
/// elsewhere; steps of canaries are passed over.
///
/// # Errors
/// [`StoreError::NotFound`] for the deployment.
pub async fn way_back(
    store: &Store,
    organization: OrganizationId,
    name: &str,
    to_revision: Option<i32>,
) -> Result<WayBack, StoreError> {
    let row = sqlx::query!(
        "select d.id,
                case when $3::integer is not null
                     then (select r.routes from deployment_revisions r where r.deployment_id = d.id and r.number = $3)
                     else coalesce(
                         (select c.stable_routes from canaries c where c.deployment_id = d.id and c.state = 'running'),
                         (select r.routes from deployment_revisions r
                          where r.deployment_id = d.id and r.state = 'superseded' and r.activated_at is not null
                            and r.kind <> 'canary'
                            and r.routes is distinct from (select active.routes from deployment_revisions active
                                                           where active.deployment_id = d.id and active.state = 'active')
                          order by r.ended_at desc, r.number desc limit 1))
                end as routes
         from deployments d where d.organization_id = $1 and d.name = $2",
        organization.uuid(),
        name,
        to_revision,
    )
    .fetch_optional(store.pool())
    .await?
    .ok_or(StoreError::NotFound("deployment"))?;
    Ok(WayBack {
        deployment_id: DeploymentId::from_uuid(row.id),
        routes: stored_json_option("deployment_revisions.routes", row.routes)?,
    })
}
