//! Beginning canaries, and moving them on.

use sqlx::PgConnection;
use tunesmith_types::{
    ids::{AdapterVersionId, CanaryId, DeploymentId, OrganizationId, UserId},
    rollouts::CanaryPlan,
    states::{CanaryState, RevisionKind},
};

use super::{Canary, get, mixed};
use crate::{
    Store, StoreError,
    error::stored_json,
    files::to_json,
    revisions::{self, NewRevision, Route},
};

/// A canary to be begun.
#[derive(Debug, Clone)]
pub struct NewCanary<'a> {
    /// The version that is tried.
    pub candidate: AdapterVersionId,
    /// Steps and gates.
    pub plan: &'a CanaryPlan,
    /// Number of the newest revision as the caller knows it.
    pub expected_number: Option<i32>,
    /// Why, in the caller's words.
    pub note: Option<&'a str>,
    /// Who begins it.
    pub created_by: Option<UserId>,
}

/// Begins a canary beside the routes that are active, with the revision of its first step.
///
/// # Errors
/// As for [`revisions::create`]; [`StoreError::Conflict`] `nothing_active` where the deployment does not answer yet,
/// `already_routed` where the version has requests already.
pub async fn start(
    store: &Store,
    organization: OrganizationId,
    deployment: DeploymentId,
    new: &NewCanary<'_>,
) -> Result<Canary, StoreError> {
    let mut transaction = store.pool().begin().await?;
    revisions::lock(&mut transaction, organization, deployment).await?;
    let stable = active_routes(&mut transaction, deployment).await?;
    if stable
        .iter()
        .any(|route| route.adapter_version_id == Some(new.candidate))
    {
        let message = "The version has requests of this deployment already; use `split` to change its share.";
        return Err(StoreError::conflict("already_routed", Some("adapter"), message));
    }
    let first = new.plan.steps()[0];
    let routes = mixed(&stable, new.candidate, first);
    let revision = NewRevision {
        kind: RevisionKind::Canary,
        expected_number: new.expected_number,
        routes: &routes,
        note: new.note,
        created_by: new.created_by,
    };
    end_running(
        &mut transaction,
        deployment,
        CanaryState::Superseded,
        "another canary was begun",
    )
    .await?;
    let made = revisions::insert(&mut transaction, organization, deployment, &revision).await?;
    let id = CanaryId::new();
    let steps: Vec<i32> = new.plan.steps().iter().map(|step| i32::from(*step)).collect();
    sqlx::query!(
        "insert into canaries (id, organization_id, deployment_id, stable_routes, candidate_version_id, steps,
                               step_seconds, gates, revisions, created_by)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        id.uuid(),
        organization.uuid(),
        deployment.uuid(),
        to_json(&stable),
        new.candidate.uuid(),
        &steps,
        i32::try_from(new.plan.step_seconds()).unwrap_or(i32::MAX),
        to_json(new.plan.gates()),
        &[made.number],
        new.created_by.map(UserId::uuid),
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    store.deployments_changed();
    get(store, organization, id).await
}

async fn active_routes(
    connection: &mut PgConnection,
    deployment: DeploymentId,
) -> Result<Vec<Route>, StoreError> {
    let routes = sqlx::query_scalar!(
        "select routes from deployment_revisions where deployment_id = $1 and state = 'active'",
        deployment.uuid(),
    )
    .fetch_optional(connection)
    .await?;
    match routes {
        Some(routes) => stored_json("deployment_revisions.routes", routes),
        None => {
            let message = "The deployment does not answer yet; wait until its first revision is active.";
            Err(StoreError::conflict("nothing_active", None, message))
        }
    }
}

/// Makes the revision of the step after the one that `canary` shows.
///
/// # Errors
/// [`StoreError::Conflict`] `canary_moved_on` where another controller was faster, or the canary has ended; as for
/// [`revisions::create`].
pub async fn advance(store: &Store, canary: &Canary) -> Result<(), StoreError> {
    let mut transaction = store.pool().begin().await?;
    lock_running(&mut transaction, canary).await?;
    let percent = canary
        .steps
        .get(canary.step + 1)
        .and_then(|percent| u8::try_from(*percent).ok());
    let Some(percent) = percent else {
        return Err(moved_on());
    };
    let routes = mixed(&canary.stable_routes, canary.candidate, percent);
    let note = format!("step {} of {}", canary.step + 2, canary.steps.len());
    let revision = NewRevision {
        kind: RevisionKind::Canary,
        expected_number: Some(canary.revision()),
        routes: &routes,
        note: Some(&note),
        created_by: canary.created_by,
    };
    let made = revisions::insert(
        &mut transaction,
        canary.organization_id,
        canary.deployment_id,
        &revision,
    )
    .await?;
    sqlx::query!(
        "update canaries set step = step + 1, revisions = revisions || $2::integer, reason = null where id = $1",
        canary.id.uuid(),
        made.number,
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    store.deployments_changed();
    Ok(())
}

/// Ends the canary with `state` and, unless it is completed, goes back to the routes without it.
///
/// # Errors
/// As for [`advance`].
pub async fn end(
    store: &Store,
    canary: &Canary,
    state: CanaryState,
    reason: &str,
    ended_by: Option<UserId>,
) -> Result<(), StoreError> {
    let mut transaction = store.pool().begin().await?;
    lock_running(&mut transaction, canary).await?;
    end_running(&mut transaction, canary.deployment_id, state, reason).await?;
    if state != CanaryState::Completed {
        let revision = NewRevision {
            kind: RevisionKind::Rollback,
            expected_number: None,
            routes: &canary.stable_routes,
            note: Some(reason),
            created_by: ended_by,
        };
        revisions::insert(
            &mut transaction,
            canary.organization_id,
            canary.deployment_id,
            &revision,
        )
        .await?;
    }
    transaction.commit().await?;
    store.deployments_changed();
    Ok(())
}

/// Says what a running canary waits for. Writes on a change only.
///
/// # Errors
/// Database errors only.
pub async fn say(store: &Store, canary: &Canary, words: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "update canaries set reason = $2 where id = $1 and state = 'running' and reason is distinct from $2",
        canary.id.uuid(),
        words,
    )
    .execute(store.pool())
    .await?;
    Ok(())
}

/// Locks the deployment, as whoever makes a revision does, then checks that the canary stands where `seen` shows it.
async fn lock_running(connection: &mut PgConnection, seen: &Canary) -> Result<(), StoreError> {
    revisions::lock(connection, seen.organization_id, seen.deployment_id).await?;
    let there = sqlx::query_scalar!(
        "select (state = 'running' and step = $2) as \"there!\" from canaries where id = $1",
        seen.id.uuid(),
        i32::try_from(seen.step).unwrap_or_default(),
    )
    .fetch_optional(connection)
    .await?;
    if there == Some(true) {
        Ok(())
    } else {
        Err(moved_on())
    }
}

fn moved_on() -> StoreError {
    let message = "The canary has taken its next step, or has ended; read it again and decide anew.";
    StoreError::conflict("canary_moved_on", None, message)
}

async fn end_running(
    connection: &mut PgConnection,
    deployment: DeploymentId,
    state: CanaryState,
    reason: &str,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update canaries set state = $2, reason = $3, ended_at = clock_timestamp()
         where deployment_id = $1 and state = 'running'",
        deployment.uuid(),
        state.as_str(),
        reason,
    )
    .execute(connection)
    .await?;
    Ok(())
}
