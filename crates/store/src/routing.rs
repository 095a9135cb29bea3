//! What the gateway needs to know: which model name leads where, and what replicas must hold for it.

use std::collections::HashMap;

use serde_json::Value;
use tunesmith_types::{
    ids::{AdapterVersionId, BaseModelId, DeploymentId, DeploymentRevisionId, OrganizationId},
    names::ResourceName,
    states::RevisionState,
};
use uuid::Uuid;

use crate::{
    Store, StoreError,
    adapters::{self, AdapterVersion},
    error::{stored, stored_json},
    revisions::Route,
};

/// A revision that answers or is to answer, with everything that a replica needs for it.
#[derive(Debug, Clone, PartialEq)]
pub struct RoutedRevision {
    /// Whose.
    pub organization_id: OrganizationId,
    /// Of which deployment.
    pub deployment_id: DeploymentId,
    /// Its public name.
    pub deployment: ResourceName,
    /// What its versions adapt.
    pub base_model_id: BaseModelId,
    /// The revision.
    pub revision_id: DeploymentRevisionId,
    /// Its number.
    pub number: i32,
    /// Pending or active.
    pub state: RevisionState,
    /// Where requests go.
    pub routes: Vec<ResolvedRoute>,
}

/// A route with its version.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedRoute {
    /// The version; none is the base model itself.
    pub version: Option<AdapterVersion>,
    /// Of 100.
    pub weight: u8,
}

struct RoutedRow {
    organization_id: Uuid,
    deployment_id: Uuid,
    deployment: String,
    base_model_id: Uuid,
    revision_id: Uuid,
    number: i32,
    state: String,
    routes: Value,
}

/// For the system: all revisions that are pending or active, whoever owns them, the oldest first.
///
/// # Errors
/// Database errors only.
pub async fn wanted(store: &Store) -> Result<Vec<RoutedRevision>, StoreError> {
    let rows = sqlx::query_as!(
        RoutedRow,
        "select d.organization_id, d.id as deployment_id, d.name as deployment, d.base_model_id, r.id as revision_id,
                r.number, r.state::text as \"state!\", r.routes
         from deployment_revisions r join deployments d on d.id = r.deployment_id
         where r.state in ('pending', 'active') order by r.created_at, r.id",
    )
    .fetch_all(store.pool())
    .await?;
    resolve_versions(store, rows).await
}

/// Where requests for a deployment's name go now; `None` where there is no such deployment, or none of its revisions
/// is active yet.
///
/// # Errors
/// Database errors only.
pub async fn resolve(
    store: &Store,
    organization: OrganizationId,
    name: &str,
) -> Result<Option<RoutedRevision>, StoreError> {
    let row = sqlx::query_as!(
        RoutedRow,
        "select d.organization_id, d.id as deployment_id, d.name as deployment, d.base_model_id, r.id as revision_id,
                r.number, r.state::text as \"state!\", r.routes
         from deployment_revisions r join deployments d on d.id = r.deployment_id
         where d.organization_id = $1 and d.name = $2 and r.state = 'active'",
        organization.uuid(),
        name,
    )
    .fetch_optional(store.pool())
    .await?;
    Ok(resolve_versions(store, row.into_iter().collect()).await?.pop())
}

async fn resolve_versions(store: &Store, rows: Vec<RoutedRow>) -> Result<Vec<RoutedRevision>, StoreError> {
    let mut parsed = Vec::with_capacity(rows.len());
    let mut ids = Vec::new();
    for row in rows {
        let routes: Vec<Route> = stored_json("deployment_revisions.routes", row.routes.clone())?;
        ids.extend(routes.iter().filter_map(|route| route.adapter_version_id));
        parsed.push((row, routes));
    }
    let versions: HashMap<AdapterVersionId, AdapterVersion> = adapters::versions_by_id(store, &ids)
        .await?
        .into_iter()
        .map(|version| (version.id, version))
        .collect();
    parsed
        .into_iter()
        .map(|(row, routes)| routed(row, &routes, &versions))
        .collect()
}

fn routed(
    row: RoutedRow,
    routes: &[Route],
    versions: &HashMap<AdapterVersionId, AdapterVersion>,
) -> Result<RoutedRevision, StoreError> {
    let mut resolved = Vec::with_capacity(routes.len());
    for route in routes {
        let version = match route.adapter_version_id {
            None => None,
            Some(id) => Some(
                versions
                    .get(&id)
                    .cloned()
                    .ok_or(StoreError::NotFound("adapter version"))?,
            ),
        };
        resolved.push(ResolvedRoute {
            version,
            weight: route.weight,
        });
    }
    Ok(RoutedRevision {
        organization_id: OrganizationId::from_uuid(row.organization_id),
        deployment_id: DeploymentId::from_uuid(row.deployment_id),
        deployment: stored("deployments.name", &row.deployment)?,
        base_model_id: BaseModelId::from_uuid(row.base_model_id),
        revision_id: DeploymentRevisionId::from_uuid(row.revision_id),
        number: row.number,
        state: stored("deployment_revisions.state", &row.state)?,
        routes: resolved,
    })
}
