//! Where versions come from and where they went, asked from any end.

use std::collections::BTreeMap;

use tunesmith_store::lineage::{self, Lineage, RevisionNode, Start, VersionNode};
use tunesmith_store::{adapters, aliases::Alias, datasets, deployments, jobs};
use tunesmith_types::api::lineage as body;
use tunesmith_types::ids::{AdapterVersionId, DatasetId, JobId};
use tunesmith_types::names::ResourceName;
use tunesmith_types::principal::Principal;
use tunesmith_types::version_reference::VersionReference;

use super::adapters::VERSION_KIND;
use crate::error::{ApiError, OrNotFound};
use crate::state::ApiState;

/// The lineage of one version, deleted or not.
///
/// # Errors
/// The organization has no such version.
pub async fn of_version(
    state: &ApiState,
    caller: &Principal,
    name: &ResourceName,
    reference: &VersionReference,
) -> Result<body::Lineage, ApiError> {
    let version = adapters::resolve_reference(&state.store, caller.organization_id, name, reference)
        .await
        .or_not_found(VERSION_KIND, format!("{name}@{reference}"))?;
    let start = Start {
        versions: vec![version.id],
        ..Start::default()
    };
    walk(state, caller, &start).await
}

/// All that was made from a dataset.
///
/// # Errors
/// The organization has no such dataset.
pub async fn of_dataset(
    state: &ApiState,
    caller: &Principal,
    dataset: DatasetId,
) -> Result<body::Lineage, ApiError> {
    datasets::get(&state.store, caller.organization_id, dataset)
        .await
        .or_not_found(super::datasets::KIND, dataset)?;
    let start = Start {
        datasets: vec![dataset],
        ..Start::default()
    };
    walk(state, caller, &start).await
}

/// What a job learned from and what it made.
///
/// # Errors
/// The organization has no such job.
pub async fn of_job(state: &ApiState, caller: &Principal, job: JobId) -> Result<body::Lineage, ApiError> {
    jobs::get(&state.store, caller.organization_id, job)
        .await
        .or_not_found(super::jobs::KIND, job)?;
    let start = Start {
        jobs: vec![job],
        ..Start::default()
    };
    walk(state, caller, &start).await
}

/// What has answered under a deployment's name.
///
/// # Errors
/// The organization has no such deployment.
pub async fn of_deployment(
    state: &ApiState,
    caller: &Principal,
    name: &ResourceName,
) -> Result<body::Lineage, ApiError> {
    let organization = caller.organization_id;
    let deployment = deployments::find(&state.store, organization, name.as_str())
        .await
        .or_not_found(super::deployments::KIND, name)?;
    let versions = lineage::versions_of_deployment(&state.store, organization, deployment.id).await?;
    let start = Start {
        versions,
        ..Start::default()
    };
    walk(state, caller, &start).await
}

async fn walk(state: &ApiState, caller: &Principal, start: &Start) -> Result<body::Lineage, ApiError> {
    let found = lineage::walk(&state.store, caller.organization_id, start).await?;
    Ok(view(found))
}

fn view(found: Lineage) -> body::Lineage {
    let references: BTreeMap<AdapterVersionId, String> = found
        .versions
        .iter()
        .map(|version| (version.id, format!("{}@{}", version.adapter, version.number)))
        .collect();
    body::Lineage {
        object: "lineage".to_owned(),
        datasets: found
            .datasets
            .into_iter()
            .map(|dataset| body::LineageDataset {
                id: dataset.id,
                reference: format!("{}@{}", dataset.name, dataset.number),
                sha256: dataset.sha256.to_string(),
                created_at: dataset.created_at.timestamp(),
            })
            .collect(),
        jobs: found
            .jobs
            .into_iter()
            .map(|job| body::LineageJob {
                id: job.id,
                status: job.state,
                dataset_id: job.dataset_id,
                base_model_id: job.base_model_id,
                parent: job.parent,
                created_at: job.created_at.timestamp(),
            })
            .collect(),
        versions: found
            .versions
            .into_iter()
            .map(|version| version_view(version, &found.aliases))
            .collect(),
        deployments: found
            .revisions
            .into_iter()
            .map(|revision| revision_view(revision, &references))
            .collect(),
    }
}

fn version_view(version: VersionNode, aliases: &[Alias]) -> body::LineageVersion {
    body::LineageVersion {
        id: version.id,
        reference: format!("{}@{}", version.adapter, version.number),
        digest: version.digest.to_string(),
        job_id: version.job_id,
        checkpoint_step: version.checkpoint_step,
        parent: version.parent,
        children: version.children,
        aliases: aliases
            .iter()
            .filter(|alias| alias.version_id == version.id)
            .map(|alias| alias.name.to_string())
            .collect(),
        created_at: version.created_at.timestamp(),
        deleted_at: version.deleted_at.map(|time| time.timestamp()),
    }
}

fn revision_view(
    revision: RevisionNode,
    references: &BTreeMap<AdapterVersionId, String>,
) -> body::LineageRevision {
    let routes = revision.routes.iter().filter_map(|route| {
        let id = route.adapter_version_id?;
        Some(body::LineageRoute {
            adapter_version_id: id,
            reference: references.get(&id)?.clone(),
            weight: i32::from(route.weight),
        })
    });
    body::LineageRevision {
        deployment_id: revision.deployment_id,
        deployment: revision.deployment.to_string(),
        revision: revision.number,
        status: revision.state,
        routes: routes.collect(),
        created_at: revision.created_at.timestamp(),
    }
}
