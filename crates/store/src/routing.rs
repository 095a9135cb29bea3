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

/// A revision that answers, is to answer, or answered before the present one, with everything that a replica needs
/// for it.
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
    /// Pending or active. Superseded: its versions are only kept loaded, as are versions that requests are mirrored to.
    pub state: RevisionState,
    /// Whether all replicas held its versions when somebody last looked.
    pub loaded: bool,
    /// Where requests go.
    pub routes: Vec<ResolvedRoute>,
    /// Where copies of requests go; known of resolved revisions only.
    pub mirror: Option<MirrorRoute>,
}

impl RoutedRevision {
    /// Whether it stands for what requests are mirrored to.
    #[must_use]
    pub fn is_mirror(&self) -> bool {
        !self.routes.is_empty() && self.routes.iter().all(|route| route.weight == 0)
    }
}

/// A version that gets copies of requests.
#[derive(Debug, Clone, PartialEq)]
pub struct MirrorRoute {
    /// The version.
    pub version: AdapterVersion,
    /// Percent of the requests.
    pub percent: u8,
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
    loaded: bool,
    routes: Value,
    mirror_version_id: Option<Uuid>,
    mirror_percent: Option<i32>,
}

/// For the system, whoever owns them: all revisions that are pending or active, the oldest first; behind them, as
/// superseded, those that answered before the active ones, and what requests are mirrored to.
///
/// # Errors
/// Database errors only.
pub async fn wanted(store: &Store) -> Result<Vec<RoutedRevision>, StoreError> {
    // All as of one moment: between two a rollback may change the active revision for the one that is kept, and one of
    // them would be in neither list.
    let mut moment = store
        .pool()
        .begin_with("begin isolation level repeatable read, read only")
        .await?;
    let live = sqlx::query_as!(
        RoutedRow,
        "select d.organization_id, d.id as deployment_id, d.name as deployment, d.base_model_id, r.id as revision_id,
                r.number, r.state::text as \"state!\", r.loaded, r.routes,
                null::uuid as mirror_version_id, null::integer as mirror_percent
         from deployment_revisions r join deployments d on d.id = r.deployment_id
         where r.state in ('pending', 'active') order by r.created_at, r.id",
    )
    .fetch_all(&mut *moment)
    .await?;
    let mut kept = sqlx::query_as!(
        RoutedRow,
        "select d.organization_id, d.id as deployment_id, d.name as deployment, d.base_model_id, r.id as revision_id,
                r.number, 'superseded' as \"state!\", r.loaded, r.routes,
                null::uuid as mirror_version_id, null::integer as mirror_percent
         from deployments d cross join lateral (
             select k.id, k.number, k.loaded, k.routes from deployment_revisions k
             where k.deployment_id = d.id and k.state = 'superseded' and k.activated_at is not null
             order by k.ended_at desc, k.number desc limit 1) r
         order by d.created_at, d.id",
    )
    .fetch_all(&mut *moment)
    .await?;
    let mirrors = sqlx::query_as!(
        RoutedRow,
        "select d.organization_id, d.id as deployment_id, d.name as deployment, d.base_model_id, r.id as revision_id,
                r.number, 'superseded' as \"state!\", r.loaded,
                jsonb_build_array(jsonb_build_object(
                    'adapter_version_id', 'ver_' || replace(s.adapter_version_id::text, '-', ''), 'weight', 0))
                    as \"routes!\",
                null::uuid as mirror_version_id, null::integer as mirror_percent
         from shadows s join deployments d on d.id = s.deployment_id
         join deployment_revisions r on r.deployment_id = d.id and r.state = 'active'
         order by s.created_at, d.id",
    )
    .fetch_all(&mut *moment)
    .await?;
    moment.commit().await?;
    kept.extend(mirrors);
    let mut wanted = resolve_versions(store, live, true).await?;
    wanted.extend(resolve_versions(store, kept, false).await?);
    Ok(wanted)
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
                r.number, r.state::text as \"state!\", r.loaded, r.routes,
                s.adapter_version_id as \"mirror_version_id?\", s.percent as \"mirror_percent?\"
         from deployment_revisions r join deployments d on d.id = r.deployment_id
         left join shadows s on s.deployment_id = d.id
         where d.organization_id = $1 and d.name = $2 and r.state = 'active'",
        organization.uuid(),
        name,
    )
    .fetch_optional(store.pool())
    .await?;
    Ok(resolve_versions(store, row.into_iter().collect(), true)
        .await?
        .pop())
}

/// Rows with their versions. `whole` says that a version that is gone is an error; otherwise its row is left out.
async fn resolve_versions(
    store: &Store,
    rows: Vec<RoutedRow>,
    whole: bool,
) -> Result<Vec<RoutedRevision>, StoreError> {
    let mut parsed = Vec::with_capacity(rows.len());
    let mut ids = Vec::new();
    for row in rows {
        let routes: Vec<Route> = stored_json("deployment_revisions.routes", row.routes.clone())?;
        ids.extend(routes.iter().filter_map(|route| route.adapter_version_id));
        ids.extend(row.mirror_version_id.map(AdapterVersionId::from_uuid));
        parsed.push((row, routes));
    }
    if parsed.is_empty() {
        return Ok(Vec::new());
    }
    let versions: HashMap<AdapterVersionId, AdapterVersion> = adapters::versions_by_id(store, &ids)
        .await?
        .into_iter()
        .map(|version| (version.id, version))
        .collect();
    let resolved = parsed
        .into_iter()
        .map(|(row, routes)| routed(row, &routes, &versions));
    if whole {
        return resolved.collect();
    }
    resolved
        .filter(|revision| !matches!(revision, Err(StoreError::NotFound(_))))
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
    let mirror = row
        .mirror_version_id
        .and_then(|id| versions.get(&AdapterVersionId::from_uuid(id)).cloned());
    let percent = row.mirror_percent.and_then(|percent| u8::try_from(percent).ok());
    Ok(RoutedRevision {
        organization_id: OrganizationId::from_uuid(row.organization_id),
        deployment_id: DeploymentId::from_uuid(row.deployment_id),
        deployment: stored("deployments.name", &row.deployment)?,
        base_model_id: BaseModelId::from_uuid(row.base_model_id),
        revision_id: DeploymentRevisionId::from_uuid(row.revision_id),
        number: row.number,
        state: stored("deployment_revisions.state", &row.state)?,
        loaded: row.loaded,
        routes: resolved,
        mirror: mirror
            .zip(percent)
            .map(|(version, percent)| MirrorRoute { version, percent }),
    })
}
