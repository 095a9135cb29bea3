//! Splits, canaries, shadows and rollbacks.

use tunesmith_store::deployments::Deployment;
use tunesmith_store::revisions::{self, NewRevision, Route};
use tunesmith_store::rollouts::{self, Canary, NewCanary};
use tunesmith_store::{StoreError, adapters, shadows};
use tunesmith_types::api::deployments as deployment_body;
use tunesmith_types::api::rollouts as body;
use tunesmith_types::ids::{AdapterVersionId, DeploymentId};
use tunesmith_types::names::ResourceName;
use tunesmith_types::principal::Principal;
use tunesmith_types::reason::Reason;
use tunesmith_types::rollouts::CanaryPlan;
use tunesmith_types::states::{CanaryState, RevisionKind};

use super::adapters::VERSION_KIND;
use super::deployment_targets::{Wanted, find_fitting};
use super::deployments::{self, find, names_of, revision_error, route_view};
use crate::error::{ApiError, OrNotFound};
use crate::state::ApiState;

/// What people call a canary.
const CANARY_KIND: &str = "canary";
/// What people call a shadow.
const SHADOW_KIND: &str = "shadow";
/// Most routes of a revision.
const MOST_ROUTES: usize = 20;

/// Makes the next revision, with shares for several versions.
///
/// # Errors
/// The organization has no such deployment or version, the shares do not sum to 100, or another revision came between.
pub async fn split(
    state: &ApiState,
    caller: &Principal,
    name: &ResourceName,
    request: &body::SplitRequest,
) -> Result<deployment_body::Deployment, ApiError> {
    let deployment = find(state, caller, name).await?;
    if request.routes.is_empty() || request.routes.len() > MOST_ROUTES {
        let message = format!("`routes` must have 1 to {MOST_ROUTES} entries.");
        return Err(ApiError::parameter("routes", message));
    }
    let mut routes: Vec<Route> = Vec::with_capacity(request.routes.len());
    for (place, given) in request.routes.iter().enumerate() {
        let weight = u8::try_from(given.weight)
            .ok()
            .filter(|weight| (1..=100).contains(weight))
            .ok_or_else(|| {
                let message = format!("`weight` must lie between 1 and 100; it is {}.", given.weight);
                ApiError::parameter(format!("routes.{place}.weight"), message)
            })?;
        let wanted = Wanted {
            adapter: given.adapter.as_deref(),
            version: given.version,
            alias: given.alias.as_deref(),
        };
        let found = find_fitting(state, caller.organization_id, &deployment, &wanted).await?;
        let route = found.route(weight);
        if routes
            .iter()
            .any(|known| known.adapter_version_id == route.adapter_version_id)
        {
            let message =
                "Two routes lead to the same version; give it one route with their weights together.";
            return Err(ApiError::parameter(format!("routes.{place}"), message));
        }
        routes.push(route);
    }
    let note = Reason::parse("reason", request.reason.as_deref())?;
    let new = NewRevision {
        kind: RevisionKind::Split,
        expected_number: request.expected_revision,
        routes: &routes,
        note: note.as_ref().map(Reason::as_str),
        created_by: caller.user_id,
    };
    revise(state, caller, name, deployment.id, &new).await
}

async fn revise(
    state: &ApiState,
    caller: &Principal,
    name: &ResourceName,
    deployment: DeploymentId,
    new: &NewRevision<'_>,
) -> Result<deployment_body::Deployment, ApiError> {
    let made = revisions::create(&state.store, caller.organization_id, deployment, new).await;
    let revision = made.map_err(revision_error)?;
    tracing::info!(%deployment, revision = revision.number, kind = %revision.kind, "revision made");
    deployments::get(state, caller, name).await
}

/// Goes back: to the revision that is named, else to where the running canary began, else to what answered before.
///
/// # Errors
/// The organization has no such deployment or revision, there is nothing to go back to, or another revision came
/// between.
pub async fn rollback(
    state: &ApiState,
    caller: &Principal,
    name: &ResourceName,
    request: &body::RollbackRequest,
) -> Result<deployment_body::Deployment, ApiError> {
    let organization = caller.organization_id;
    let found = revisions::way_back(&state.store, organization, name.as_str(), request.to_revision).await;
    let back = found.or_not_found(deployments::KIND, name)?;
    let note = Reason::parse("reason", request.reason.as_deref())?;
    let routes = back
        .routes
        .ok_or_else(|| no_way_back(name, request.to_revision))?;
    // Whoever goes back wants to stay there, wherever aliases move.
    let routes: Vec<Route> = routes
        .into_iter()
        .map(|route| Route::pinned(route.adapter_version_id, route.weight))
        .collect();
    let new = NewRevision {
        kind: RevisionKind::Rollback,
        expected_number: request.expected_revision,
        routes: &routes,
        note: note.as_ref().map(Reason::as_str),
        created_by: caller.user_id,
    };
    revise(state, caller, name, back.deployment_id, &new)
        .await
        .map_err(|error| match error {
            ApiError::NotFound {
                kind: VERSION_KIND, ..
            } => ApiError::conflict(
                "version_deleted",
                "A version of that revision is deleted; name another revision with `to_revision`, or promote a version.",
            ),
            other => other,
        })
}

async fn running_canary(
    state: &ApiState,
    caller: &Principal,
    deployment: &Deployment,
) -> Result<Option<Canary>, ApiError> {
    match rollouts::latest(&state.store, caller.organization_id, deployment.id).await {
        Ok(canary) => Ok((canary.state == CanaryState::Running).then_some(canary)),
        Err(StoreError::NotFound(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn no_way_back(name: &ResourceName, to_revision: Option<i32>) -> ApiError {
    if let Some(number) = to_revision {
        return ApiError::unknown("revision", "to_revision", number);
    }
    let message =
        format!("No revision of `{name}` has answered before the present one; name one with `to_revision`.");
    ApiError::conflict("nothing_before", message)
}

/// Begins a canary.
///
/// # Errors
/// The organization has no such deployment or version, a step or gate is out of bounds, the deployment does not answer
/// yet, or another revision came between.
pub async fn start_canary(
    state: &ApiState,
    caller: &Principal,
    name: &ResourceName,
    request: &body::CanaryRequest,
) -> Result<body::Canary, ApiError> {
    let organization = caller.organization_id;
    let plan = CanaryPlan::new(request.steps.as_deref(), request.step_seconds, request.gates)?;
    let deployment = find(state, caller, name).await?;
    let wanted = Wanted {
        adapter: Some(&request.adapter),
        version: request.version,
        alias: request.alias.as_deref(),
    };
    let candidate = candidate(state, caller, &deployment, &wanted).await?;
    let note = Reason::parse("reason", request.reason.as_deref())?;
    let new = NewCanary {
        candidate,
        plan: &plan,
        expected_number: request.expected_revision,
        note: note.as_ref().map(Reason::as_str),
        created_by: caller.user_id,
    };
    let started = rollouts::start(&state.store, organization, deployment.id, &new).await;
    let canary = started.map_err(revision_error)?;
    tracing::info!(deployment = %deployment.id, canary = %canary.id, "canary begun");
    canary_view(state, caller, canary).await
}

async fn candidate(
    state: &ApiState,
    caller: &Principal,
    deployment: &Deployment,
    wanted: &Wanted<'_>,
) -> Result<AdapterVersionId, ApiError> {
    let found = find_fitting(state, caller.organization_id, deployment, wanted).await?;
    found
        .version
        .map(|version| version.id)
        .ok_or(ApiError::Unexpected("a named adapter has no version"))
}

/// The newest canary of a deployment.
///
/// # Errors
/// The organization has no such deployment, or it never had a canary.
pub async fn canary(
    state: &ApiState,
    caller: &Principal,
    name: &ResourceName,
) -> Result<body::Canary, ApiError> {
    let deployment = find(state, caller, name).await?;
    let found = rollouts::latest(&state.store, caller.organization_id, deployment.id).await;
    canary_view(state, caller, found.or_not_found(CANARY_KIND, name)?).await
}

/// Ends the canary that runs, and goes back to the routes without it.
///
/// # Errors
/// The organization has no such deployment, or it has no canary that runs.
pub async fn abort_canary(
    state: &ApiState,
    caller: &Principal,
    name: &ResourceName,
) -> Result<body::Canary, ApiError> {
    let deployment = find(state, caller, name).await?;
    // The controller may take a step at this moment; then the canary is read again.
    for _ in 0..3 {
        let Some(canary) = running_canary(state, caller, &deployment).await? else {
            return Err(ApiError::not_found("running canary", name));
        };
        let ended = rollouts::end(
            &state.store,
            &canary,
            CanaryState::Aborted,
            "the canary was aborted",
            caller.user_id,
        )
        .await;
        match ended {
            Ok(()) => {
                let canary = rollouts::get(&state.store, caller.organization_id, canary.id).await?;
                return canary_view(state, caller, canary).await;
            }
            Err(StoreError::Conflict(conflict)) if conflict.code == "canary_moved_on" => {}
            Err(error) => return Err(error.into()),
        }
    }
    let message = "The canary moves on faster than it can be read; try again.";
    Err(ApiError::conflict("canary_moved_on", message))
}

async fn canary_view(state: &ApiState, caller: &Principal, canary: Canary) -> Result<body::Canary, ApiError> {
    let tried = [Route::pinned(Some(canary.candidate), 100)];
    let routes = canary.stable_routes.iter().chain(&tried);
    let names = names_of(state, caller.organization_id, routes).await?;
    Ok(body::Canary {
        id: canary.id,
        object: "canary".to_owned(),
        status: canary.state,
        candidate: route_view(&tried[0], &names).target,
        stable_routes: canary
            .stable_routes
            .iter()
            .map(|route| route_view(route, &names))
            .collect(),
        steps: canary.steps,
        step: canary.step + 1,
        step_seconds: canary.step_seconds,
        gates: canary.gates,
        reason: canary.reason,
        revisions: canary.revisions,
        created_at: canary.created_at.timestamp(),
        ended_at: canary.ended_at.map(|time| time.timestamp()),
    })
}

/// Begins to mirror requests to a version, in place of what was mirrored before.
///
/// # Errors
/// The organization has no such deployment or version, or the percentage is out of bounds.
pub async fn set_shadow(
    state: &ApiState,
    caller: &Principal,
    name: &ResourceName,
    request: &body::ShadowRequest,
) -> Result<body::Shadow, ApiError> {
    let given = request.percent.unwrap_or(100);
    let percent = u8::try_from(given)
        .ok()
        .filter(|percent| (1..=100).contains(percent))
        .ok_or_else(|| {
            ApiError::parameter(
                "percent",
                format!("`percent` must lie between 1 and 100; it is {given}."),
            )
        })?;
    let deployment = find(state, caller, name).await?;
    let wanted = Wanted {
        adapter: Some(&request.adapter),
        version: request.version,
        alias: request.alias.as_deref(),
    };
    let version = candidate(state, caller, &deployment, &wanted).await?;
    let shadow = shadows::set(
        &state.store,
        caller.organization_id,
        deployment.id,
        version,
        percent,
        caller.user_id,
    )
    .await
    .map_err(revision_error)?;
    shadow_view(state, caller, &shadow).await
}

/// What is mirrored.
///
/// # Errors
/// The organization has no such deployment, or nothing is mirrored.
pub async fn shadow(
    state: &ApiState,
    caller: &Principal,
    name: &ResourceName,
) -> Result<body::Shadow, ApiError> {
    let deployment = find(state, caller, name).await?;
    let shadow = shadows::get(&state.store, caller.organization_id, deployment.id).await?;
    let shadow = shadow.ok_or_else(|| ApiError::not_found(SHADOW_KIND, name))?;
    shadow_view(state, caller, &shadow).await
}

/// Ends the mirroring.
///
/// # Errors
/// As for [`shadow`].
pub async fn delete_shadow(
    state: &ApiState,
    caller: &Principal,
    name: &ResourceName,
) -> Result<(), ApiError> {
    let deployment = find(state, caller, name).await?;
    shadows::delete(&state.store, caller.organization_id, deployment.id)
        .await
        .or_not_found(SHADOW_KIND, name)
}

async fn shadow_view(
    state: &ApiState,
    caller: &Principal,
    shadow: &shadows::Shadow,
) -> Result<body::Shadow, ApiError> {
    let version = adapters::version(&state.store, caller.organization_id, shadow.adapter_version_id).await;
    let version = version.or_not_found(VERSION_KIND, shadow.adapter_version_id)?;
    Ok(body::Shadow {
        object: "shadow".to_owned(),
        version: format!("{}@{}", version.adapter, version.number),
        percent: shadow.percent,
        created_at: shadow.created_at.timestamp(),
    })
}
