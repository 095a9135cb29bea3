//! Where versions come from and where they went: dataset, job, version, alias and deployment, in one walk.
//!
//! A walk begins with some versions, jobs or datasets and takes in what they were made from and what was made of them.
//! It goes no further sideways: of a version's parents and children only the next are named.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use tunesmith_types::{
    ids::{AdapterVersionId, BaseModelId, DatasetId, DeploymentId, JobId, OrganizationId},
    names::{ResourceName, Sha256Digest},
    states::{JobState, RevisionState},
};
use uuid::Uuid;

use crate::{
    Store, StoreError,
    aliases::{self, Alias},
    error::{stored, stored_json},
    revisions::Route,
};

/// Most jobs that a walk takes in, and most versions of them; the newest.
pub const MOST_ROWS: i64 = 1000;

/// What a walk begins with.
#[derive(Debug, Clone, Default)]
pub struct Start {
    /// Versions.
    pub versions: Vec<AdapterVersionId>,
    /// Jobs, with all that they made.
    pub jobs: Vec<JobId>,
    /// Datasets, with all jobs that learned from them.
    pub datasets: Vec<DatasetId>,
}

/// What a walk has found, the oldest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Lineage {
    /// What was learned from.
    pub datasets: Vec<DatasetNode>,
    /// What learned.
    pub jobs: Vec<JobNode>,
    /// What was made.
    pub versions: Vec<VersionNode>,
    /// What points to the versions.
    pub aliases: Vec<Alias>,
    /// What routes to the versions, or did.
    pub revisions: Vec<RevisionNode>,
}

/// A dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetNode {
    /// Id.
    pub id: DatasetId,
    /// Name, shared by its numbers.
    pub name: ResourceName,
    /// Its number.
    pub number: i32,
    /// Of the bytes.
    pub sha256: Sha256Digest,
    /// When it was uploaded.
    pub created_at: DateTime<Utc>,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobNode {
    /// Id.
    pub id: JobId,
    /// Where it stands.
    pub state: JobState,
    /// What it learns from.
    pub dataset_id: DatasetId,
    /// What it tunes.
    pub base_model_id: BaseModelId,
    /// The version whose adapter it begins with.
    pub parent: Option<AdapterVersionId>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// A version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionNode {
    /// Id.
    pub id: AdapterVersionId,
    /// Name of its adapter.
    pub adapter: ResourceName,
    /// Its number.
    pub number: i32,
    /// Names its content.
    pub digest: Sha256Digest,
    /// What made it.
    pub job_id: Option<JobId>,
    /// Of which of the job's checkpoints.
    pub checkpoint_step: Option<i64>,
    /// The version whose adapter its training began with.
    pub parent: Option<AdapterVersionId>,
    /// The versions whose training began with its adapter.
    pub children: Vec<AdapterVersionId>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was deleted.
    pub deleted_at: Option<DateTime<Utc>>,
}

/// A revision of a deployment that routes to a version of the walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionNode {
    /// Which deployment.
    pub deployment_id: DeploymentId,
    /// Its name.
    pub deployment: ResourceName,
    /// Number of the revision.
    pub number: i32,
    /// Where it stands.
    pub state: RevisionState,
    /// All its routes.
    pub routes: Vec<Route>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// Walks from `start`; what is another organization's is not found.
///
/// # Errors
/// Database errors only.
pub async fn walk(store: &Store, organization: OrganizationId, start: &Start) -> Result<Lineage, StoreError> {
    // One snapshot, so that nothing names what is not there.
    let mut transaction = store.pool().begin().await?;
    sqlx::query!("set transaction isolation level repeatable read read only")
        .execute(&mut *transaction)
        .await?;
    let connection = &mut *transaction;
    let of_datasets = jobs_of(connection, organization, &start.datasets).await?;
    let mut jobs: BTreeSet<Uuid> = start.jobs.iter().map(|job| job.uuid()).collect();
    jobs.extend(of_datasets);
    let versions = versions(connection, organization, start, &jobs).await?;
    jobs.extend(
        versions
            .iter()
            .filter_map(|version| version.job_id)
            .map(JobId::uuid),
    );
    let jobs = job_nodes(connection, organization, &jobs).await?;
    let mut datasets: BTreeSet<Uuid> = start.datasets.iter().map(|dataset| dataset.uuid()).collect();
    datasets.extend(jobs.iter().map(|job| job.dataset_id.uuid()));
    let datasets = dataset_nodes(connection, organization, &datasets).await?;
    let ids: Vec<Uuid> = versions.iter().map(|version| version.id.uuid()).collect();
    let aliases = aliases::of_versions(connection, organization, &ids).await?;
    let revisions = revisions(connection, organization, &versions).await?;
    transaction.commit().await?;
    Ok(Lineage {
        datasets,
        jobs,
        versions,
        aliases,
        revisions,
    })
}

/// The versions to which a deployment routes or has routed.
///
/// # Errors
/// Database errors only.
pub async fn versions_of_deployment(
    store: &Store,
    organization: OrganizationId,
    deployment: DeploymentId,
) -> Result<Vec<AdapterVersionId>, StoreError> {
    let rows = sqlx::query_scalar!(
        "select routes from deployment_revisions where organization_id = $1 and deployment_id = $2",
        organization.uuid(),
        deployment.uuid(),
    )
    .fetch_all(store.pool())
    .await?;
    let mut found = BTreeSet::new();
    for routes in rows {
        let routes: Vec<Route> = stored_json("deployment_revisions.routes", routes)?;
        found.extend(routes.iter().filter_map(|route| route.adapter_version_id));
    }
    Ok(found.into_iter().collect())
}

async fn jobs_of(
    connection: &mut PgConnection,
    organization: OrganizationId,
    datasets: &[DatasetId],
) -> Result<Vec<Uuid>, StoreError> {
    let datasets: Vec<Uuid> = datasets.iter().map(|dataset| dataset.uuid()).collect();
    let jobs = sqlx::query_scalar!(
        "select id from jobs where organization_id = $1 and dataset_id = any($2) order by created_at desc limit $3",
        organization.uuid(),
        &datasets,
        MOST_ROWS,
    )
    .fetch_all(connection)
    .await?;
    Ok(jobs)
}

struct VersionRow {
    id: Uuid,
    adapter: String,
    number: i32,
    digest: String,
    job_id: Option<Uuid>,
    checkpoint_step: Option<i64>,
    parent_version_id: Option<Uuid>,
    children: Vec<Uuid>,
    created_at: DateTime<Utc>,
    deleted_at: Option<DateTime<Utc>>,
}

/// The versions that the walk begins with, those that the jobs made or begin with, and the next relatives of the first.
async fn versions(
    connection: &mut PgConnection,
    organization: OrganizationId,
    start: &Start,
    jobs: &BTreeSet<Uuid>,
) -> Result<Vec<VersionNode>, StoreError> {
    let first: Vec<Uuid> = start.versions.iter().map(|version| version.uuid()).collect();
    let jobs: Vec<Uuid> = jobs.iter().copied().collect();
    let mut rows = sqlx::query_as!(
        VersionRow,
        "select v.id, a.name as adapter, v.number, v.digest, v.job_id, v.checkpoint_step, v.parent_version_id,
                array(select child.id from adapter_versions child
                      where child.parent_version_id = v.id order by child.created_at, child.id) as \"children!\",
                v.created_at, t.deleted_at as \"deleted_at?\"
         from adapter_versions v
         join adapters a on a.id = v.adapter_id
         left join adapter_version_tombstones t on t.adapter_version_id = v.id
         where v.organization_id = $1
           and (v.id = any($2) or v.job_id = any($3) or v.parent_version_id = any($2)
                or v.id in (select known.parent_version_id from adapter_versions known where known.id = any($2))
                or v.id in (select begun.parent_version_id from jobs begun
                            where begun.organization_id = $1 and begun.id = any($3)))
         order by v.created_at desc, v.id desc limit $4",
        organization.uuid(),
        &first,
        &jobs,
        MOST_ROWS,
    )
    .fetch_all(connection)
    .await?;
    rows.reverse();
    rows.into_iter().map(version_node).collect()
}

fn version_node(row: VersionRow) -> Result<VersionNode, StoreError> {
    Ok(VersionNode {
        id: AdapterVersionId::from_uuid(row.id),
        adapter: stored("adapters.name", &row.adapter)?,
        number: row.number,
        digest: stored("adapter_versions.digest", &row.digest)?,
        job_id: row.job_id.map(JobId::from_uuid),
        checkpoint_step: row.checkpoint_step,
        parent: row.parent_version_id.map(AdapterVersionId::from_uuid),
        children: row
            .children
            .into_iter()
            .map(AdapterVersionId::from_uuid)
            .collect(),
        created_at: row.created_at,
        deleted_at: row.deleted_at,
    })
}

async fn job_nodes(
    connection: &mut PgConnection,
    organization: OrganizationId,
    jobs: &BTreeSet<Uuid>,
) -> Result<Vec<JobNode>, StoreError> {
    let ids: Vec<Uuid> = jobs.iter().copied().collect();
    let rows = sqlx::query!(
        "select id, state::text as \"state!\", dataset_id, base_model_id, parent_version_id, created_at
         from jobs where organization_id = $1 and id = any($2) order by created_at, id",
        organization.uuid(),
        &ids,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(JobNode {
                id: JobId::from_uuid(row.id),
                state: stored("jobs.state", &row.state)?,
                dataset_id: DatasetId::from_uuid(row.dataset_id),
                base_model_id: BaseModelId::from_uuid(row.base_model_id),
                parent: row.parent_version_id.map(AdapterVersionId::from_uuid),
                created_at: row.created_at,
            })
        })
        .collect()
}

async fn dataset_nodes(
    connection: &mut PgConnection,
    organization: OrganizationId,
    datasets: &BTreeSet<Uuid>,
) -> Result<Vec<DatasetNode>, StoreError> {
    let ids: Vec<Uuid> = datasets.iter().copied().collect();
    let rows = sqlx::query!(
        "select id, name, number, sha256, created_at
         from datasets where organization_id = $1 and id = any($2) order by created_at, id",
        organization.uuid(),
        &ids,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(DatasetNode {
                id: DatasetId::from_uuid(row.id),
                name: stored("datasets.name", &row.name)?,
                number: row.number,
                sha256: stored("datasets.sha256", &row.sha256)?,
                created_at: row.created_at,
            })
        })
        .collect()
}

struct RevisionRow {
    deployment_id: Uuid,
    deployment: String,
    number: i32,
    state: String,
    routes: Value,
    created_at: DateTime<Utc>,
}

async fn revisions(
    connection: &mut PgConnection,
    organization: OrganizationId,
    versions: &[VersionNode],
) -> Result<Vec<RevisionNode>, StoreError> {
    let ids: Vec<String> = versions.iter().map(|version| version.id.to_string()).collect();
    let rows = sqlx::query_as!(
        RevisionRow,
        "select r.deployment_id, d.name as deployment, r.number, r.state::text as \"state!\", r.routes, r.created_at
         from deployment_revisions r join deployments d on d.id = r.deployment_id
         where r.organization_id = $1
           and exists (select from jsonb_array_elements(r.routes) as route
                       where route ->> 'adapter_version_id' = any($2::text[]))
         order by d.name, r.number",
        organization.uuid(),
        &ids,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(RevisionNode {
                deployment_id: DeploymentId::from_uuid(row.deployment_id),
                deployment: stored("deployments.name", &row.deployment)?,
                number: row.number,
                state: stored("deployment_revisions.state", &row.state)?,
                routes: stored_json("deployment_revisions.routes", row.routes)?,
                created_at: row.created_at,
            })
        })
        .collect()
}
