//! Deployments that follow an alias.

use sqlx::PgConnection;
use tunesmith_types::{
    ids::{AdapterId, AdapterVersionId, DeploymentId, OrganizationId, UserId},
    states::RevisionKind,
    version_reference::AliasName,
};
use uuid::Uuid;

use super::{NewRevision, Route, insert};
use crate::{StoreError, error::stored_json};

/// The alias of an adapter has moved to `version`: every deployment whose newest revision follows it gets the next
/// revision, in the mover's transaction. Returns the deployments; call
/// [`Store::deployments_changed`](crate::Store::deployments_changed) after the commit.
///
/// # Errors
/// [`StoreError::Conflict`] `base_model_differs` where a deployment that follows serves another base model than the
/// version's; then the alias must stay.
pub async fn follow_alias(
    connection: &mut PgConnection,
    organization: OrganizationId,
    adapter: AdapterId,
    alias: &AliasName,
    version: AdapterVersionId,
    moved_by: Option<UserId>,
) -> Result<Vec<DeploymentId>, StoreError> {
    // By id, so that two moves that concern the same deployments wait for each other.
    let rows = sqlx::query!(
        "select d.id, r.routes,
                array(select v.id from adapter_versions v
                      where v.organization_id = $1 and v.adapter_id = $2) as \"versions!\"
         from deployments d join deployment_revisions r on r.deployment_id = d.id and r.number = d.last_number
         where d.organization_id = $1 and r.routes @> jsonb_build_array(jsonb_build_object('alias', $3::text))
         order by d.id for update of d",
        organization.uuid(),
        adapter.uuid(),
        alias.as_str(),
    )
    .fetch_all(&mut *connection)
    .await?;
    let note = format!("the alias `{alias}` moved");
    let mut moved = Vec::new();
    for row in rows {
        let routes: Vec<Route> = stored_json("deployment_revisions.routes", row.routes)?;
        let Some(routes) = redirected(routes, &row.versions, alias, version) else {
            continue;
        };
        let new = NewRevision {
            kind: RevisionKind::Alias,
            expected_number: None,
            routes: &routes,
            note: Some(&note),
            created_by: moved_by,
        };
        let deployment = DeploymentId::from_uuid(row.id);
        insert(connection, organization, deployment, &new).await?;
        moved.push(deployment);
    }
    Ok(moved)
}

/// The routes with the alias of the adapter (whose versions are given) at its new place; none where nothing changes.
fn redirected(
    mut routes: Vec<Route>,
    of_adapter: &[Uuid],
    alias: &AliasName,
    version: AdapterVersionId,
) -> Option<Vec<Route>> {
    let mut changed = false;
    for route in &mut routes {
        let follows = route.alias.as_ref() == Some(alias)
            && route
                .adapter_version_id
                .is_some_and(|id| of_adapter.contains(&id.uuid()));
        if follows && route.adapter_version_id != Some(version) {
            route.adapter_version_id = Some(version);
            changed = true;
        }
    }
    changed.then_some(routes)
}
