//! Deployments: public model names, and the revisions that say which version answers.

use std::collections::BTreeMap;

use tunesmith_store::adapters;
use tunesmith_store::deployments::{self, NewDeployment};
use tunesmith_store::revisions::{self, NewRevision, Revision, Route};
use tunesmith_types::api::deployments as body;
use tunesmith_types::ids::{AdapterVersionId, DeploymentId, OrganizationId};
use tunesmith_types::list::{List, MAX_LIMIT, PageQuery};
use tunesmith_types::names::ResourceName;
use tunesmith_types::principal::Principal;
use tunesmith_types::reason::Reason;
use tunesmith_types::states::{BaseModelState, RevisionKind};

use super::base_models;
use super::deployment_targets::{Wanted, find_fitting, find_wanted, require_base};
use crate::error::{ApiError, OrNotFound};
use crate::state::ApiState;

/// What people call it.
pub const KIND: &str = "deployment";
/// All requests.
const WHOLE: u8 = 100;

/// Makes a deployment with its first revision, which is pending until a replica answers for it.
///
/// # Errors
/// A field breaks its rule, names what the organization cannot see, or the version has another base model.
pub async fn create(
    state: &ApiState,
    caller: &Principal,
    request: &body::CreateDeploymentRequest,
) -> Result<body::Deployment, ApiError> {
    let organization = caller.organization_id;
    let name = ResourceName::parse("name", &request.name)?;
    let model = base_models::lookup(state, organization, &request.base_model).await;
    let model = model.or_unknown(base_models::KIND, "base_model", &request.base_model)?;
    if model.state != BaseModelState::Ready {
        let message = format!(
            "The base model `{}` is {}; only a ready one can be deployed.",
            model.name, model.state
        );
        return Err(ApiError::Conflict {
            code: "base_model_not_ready",
            param: Some("base_model"),
            message,
        });
    }
    let wanted = Wanted {
        adapter: request.adapter.as_deref(),
        version: request.version,
        alias: request.alias.as_deref(),
    };
    let found = find_wanted(state, organization, &wanted).await?;
    if let Some(version) = &found.version {
        require_base(
            version,
            &name,
            model.name.as_str(),
            version.base_model_id == model.id,
        )?;
    }
    let routes = [found.route(WHOLE)];
    let new = NewDeployment {
        name: &name,
        base_model_id: model.id,
        routes: &routes,
        created_by: caller.user_id,
    };
    let deployment = deployments::create(&state.store, organization, &new).await;
    let deployment = deployment.or_unknown(base_models::KIND, "base_model", &request.base_model)?;
    tracing::info!(deployment = %deployment.id, %name, "deployment made");
    let history: Vec<Revision> = deployment.latest.iter().cloned().collect();
    view(state, organization, deployment, &history).await
}

/// Makes the next revision, which sends all requests to one version once it is ready.
///
/// # Errors
/// The organization has no such deployment or version, the version has another base model, or another revision came
/// between.
pub async fn promote(
    state: &ApiState,
    caller: &Principal,
    name: &ResourceName,
    request: &body::PromoteRequest,
) -> Result<body::Deployment, ApiError> {
    let organization = caller.organization_id;
    let deployment = find(state, caller, name).await?;
    let wanted = Wanted {
        adapter: Some(&request.adapter),
        version: request.version,
        alias: request.alias.as_deref(),
    };
    let found = find_fitting(state, organization, &deployment, &wanted).await?;
    let routes = [found.route(WHOLE)];
    let note = Reason::parse("reason", request.reason.as_deref())?;
    let new = NewRevision {
        kind: RevisionKind::Promote,
        expected_number: request.expected_revision,
        routes: &routes,
        note: note.as_ref().map(Reason::as_str),
        created_by: caller.user_id,
    };
    let revision = revisions::create(&state.store, organization, deployment.id, &new)
        .await
        .map_err(revision_error)?;
    tracing::info!(deployment = %deployment.id, revision = revision.number, "version promoted");
    get(state, caller, name).await
}

/// The organization's deployments, without their histories.
///
/// # Errors
/// The page request is wrong.
pub async fn list(
    state: &ApiState,
    caller: &Principal,
    query: &PageQuery,
) -> Result<List<body::Deployment>, ApiError> {
    let page = query.parse()?;
    let rows = deployments::list(&state.store, caller.organization_id, &page).await?;
    let mut data = Vec::with_capacity(rows.rows.len());
    for deployment in rows.rows {
        data.push(view(state, caller.organization_id, deployment, &[]).await?);
    }
    Ok(List::new(data, rows.has_more, |deployment: &body::Deployment| {
        deployment.id.to_string()
    }))
}

/// One deployment with its revisions.
///
/// # Errors
/// The organization has no such deployment.
pub async fn get(
    state: &ApiState,
    caller: &Principal,
    name: &ResourceName,
) -> Result<body::Deployment, ApiError> {
    let organization = caller.organization_id;
    let found = deployments::find_with_history(&state.store, organization, name.as_str(), MAX_LIMIT).await;
    let (deployment, history) = found.or_not_found(KIND, name)?;
    view(state, organization, deployment, &history).await
}

/// Takes a deployment away; its name can be used again.
///
/// # Errors
/// The organization has no such deployment.
pub async fn delete(
    state: &ApiState,
    caller: &Principal,
    name: &ResourceName,
) -> Result<DeploymentId, ApiError> {
    let deployment = find(state, caller, name).await?;
    deployments::delete(&state.store, caller.organization_id, deployment.id)
        .await
        .or_not_found(KIND, name)?;
    Ok(deployment.id)
}

pub(super) async fn find(
    state: &ApiState,
    caller: &Principal,
    name: &ResourceName,
) -> Result<deployments::Deployment, ApiError> {
    deployments::find(&state.store, caller.organization_id, name.as_str())
        .await
        .or_not_found(KIND, name)
}

/// What the store says of a new revision, with the request's names for its fields.
pub(super) fn revision_error(error: tunesmith_store::StoreError) -> ApiError {
    match ApiError::from(error) {
        ApiError::Conflict {
            code: code @ "revision_conflict",
            message,
            ..
        } => ApiError::Conflict {
            code,
            param: Some("expected_revision"),
            message,
        },
        // These are wrong whatever the state of things.
        ApiError::Conflict {
            code: code @ ("weights_do_not_sum" | "base_model_differs"),
            param,
            message,
        } => ApiError::Invalid {
            code,
            param: param.map(ToOwned::to_owned),
            message,
        },
        other => other,
    }
}

/// `adapter@number` of the versions that revisions route to.
pub(super) type Names = BTreeMap<AdapterVersionId, (String, i32)>;

pub(super) async fn view(
    state: &ApiState,
    organization: OrganizationId,
    deployment: deployments::Deployment,
    history: &[Revision],
) -> Result<body::Deployment, ApiError> {
    let all = history.iter().chain(&deployment.active).chain(&deployment.latest);
    let names = names_of(state, organization, all.flat_map(|revision| &revision.routes)).await?;
    Ok(body::Deployment {
        id: deployment.id,
        object: "deployment".to_owned(),
        name: deployment.name.to_string(),
        base_model: deployment.base_model,
        base_model_id: deployment.base_model_id,
        active_revision: deployment
            .active
            .as_ref()
            .map(|revision| revision_view(revision, &names)),
        latest_revision: deployment
            .latest
            .as_ref()
            .map(|revision| revision_view(revision, &names)),
        revisions: history
            .iter()
            .map(|revision| revision_view(revision, &names))
            .collect(),
        created_at: deployment.created_at.timestamp(),
    })
}

/// The names of the versions that `routes` lead to.
pub(super) async fn names_of(
    state: &ApiState,
    organization: OrganizationId,
    routes: impl Iterator<Item = &Route>,
) -> Result<Names, ApiError> {
    let mut ids: Vec<AdapterVersionId> = routes.filter_map(|route| route.adapter_version_id).collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() {
        return Ok(Names::new());
    }
    let found = adapters::names(&state.store, organization, &ids).await?;
    let named = found
        .into_iter()
        .map(|(id, adapter, number)| (id, (adapter.to_string(), number)));
    Ok(named.collect())
}

fn revision_view(revision: &revisions::Revision, names: &Names) -> body::Revision {
    body::Revision {
        id: revision.id,
        object: "deployment_revision".to_owned(),
        number: revision.number,
        kind: revision.kind,
        parent_number: revision.parent_number,
        status: revision.state,
        reason: revision.reason.clone(),
        note: revision.note.clone(),
        created_by: revision.created_by,
        routes: revision
            .routes
            .iter()
            .map(|route| route_view(route, names))
            .collect(),
        created_at: revision.created_at.timestamp(),
        activated_at: revision.activated_at.map(|time| time.timestamp()),
        ended_at: revision.ended_at.map(|time| time.timestamp()),
    }
}

pub(super) fn route_view(route: &Route, names: &Names) -> body::Route {
    let named = route.adapter_version_id.and_then(|id| names.get(&id));
    body::Route {
        target: named.map_or_else(
            || "base".to_owned(),
            |(adapter, number)| format!("{adapter}@{number}"),
        ),
        adapter: named.map(|(adapter, _)| adapter.clone()),
        version: named.map(|(_, number)| *number),
        adapter_version_id: route.adapter_version_id,
        alias: route.alias.as_ref().map(ToString::to_string),
        weight: i32::from(route.weight),
    }
}
