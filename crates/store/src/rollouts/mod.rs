//! Canaries: roll-outs that go from step to step. Each step is a revision, made by compare-and-set, so that any number
//! of controllers may try and one of them moves the canary on; every other revision ends it.

mod shares;
mod write;

use chrono::{DateTime, Utc};
use serde_json::Value;
use tunesmith_types::{
    ids::{AdapterVersionId, CanaryId, DeploymentId, OrganizationId, UserId},
    rollouts::CanaryGates,
    states::{CanaryState, RevisionState},
};
use uuid::Uuid;

pub use self::{
    shares::mixed,
    write::{NewCanary, advance, end, say, start},
};
use crate::{
    Store, StoreError,
    error::{stored, stored_json},
    revisions::Route,
};

/// A roll-out by steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Canary {
    /// Id.
    pub id: CanaryId,
    /// Whose.
    pub organization_id: OrganizationId,
    /// Of which deployment.
    pub deployment_id: DeploymentId,
    /// Where it stands.
    pub state: CanaryState,
    /// Where requests go without it.
    pub stable_routes: Vec<Route>,
    /// The version that is tried.
    pub candidate: AdapterVersionId,
    /// Percent of the requests by step.
    pub steps: Vec<i32>,
    /// Index of the present or last step.
    pub step: usize,
    /// Length of a step.
    pub step_seconds: i32,
    /// What must hold before the next.
    pub gates: CanaryGates,
    /// Numbers of its revisions, one a step.
    pub revisions: Vec<i32>,
    /// Why it ended, or what it waits for.
    pub reason: Option<String>,
    /// Who began it.
    pub created_by: Option<UserId>,
    /// When it began.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// State of the present step's revision.
    pub revision_state: RevisionState,
    /// Why that revision failed, where it did.
    pub revision_reason: Option<String>,
    /// For how long the present step has had requests, by the database's clock.
    pub seconds_in_step: Option<f64>,
}

impl Canary {
    /// Number of the present step's revision.
    #[must_use]
    pub fn revision(&self) -> i32 {
        self.revisions.last().copied().unwrap_or_default()
    }

    /// Percent of the requests in the present step.
    #[must_use]
    pub fn percent(&self) -> i32 {
        self.steps.get(self.step).copied().unwrap_or_default()
    }
}

struct CanaryRow {
    id: Uuid,
    organization_id: Uuid,
    deployment_id: Uuid,
    state: String,
    stable_routes: Value,
    candidate_version_id: Uuid,
    steps: Vec<i32>,
    step: i32,
    step_seconds: i32,
    gates: Value,
    revisions: Vec<i32>,
    reason: Option<String>,
    created_by: Option<Uuid>,
    created_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
    revision_state: String,
    revision_reason: Option<String>,
    seconds_in_step: Option<f64>,
}

impl TryFrom<CanaryRow> for Canary {
    type Error = StoreError;

    fn try_from(row: CanaryRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: CanaryId::from_uuid(row.id),
            organization_id: OrganizationId::from_uuid(row.organization_id),
            deployment_id: DeploymentId::from_uuid(row.deployment_id),
            state: stored("canaries.state", &row.state)?,
            stable_routes: stored_json("canaries.stable_routes", row.stable_routes)?,
            candidate: AdapterVersionId::from_uuid(row.candidate_version_id),
            steps: row.steps,
            step: usize::try_from(row.step).unwrap_or_default(),
            step_seconds: row.step_seconds,
            gates: stored_json("canaries.gates", row.gates)?,
            revisions: row.revisions,
            reason: row.reason,
            created_by: row.created_by.map(UserId::from_uuid),
            created_at: row.created_at,
            ended_at: row.ended_at,
            revision_state: stored("deployment_revisions.state", &row.revision_state)?,
            revision_reason: row.revision_reason,
            seconds_in_step: row.seconds_in_step,
        })
    }
}

/// `select` of whole rows; the rest of the statement, then its arguments.
macro_rules! select_canaries {
    ($rest:tt, $($argument:expr),* $(,)?) => {
        sqlx::query_as!(
            CanaryRow,
            "select c.id, c.organization_id, c.deployment_id, c.state, c.stable_routes, c.candidate_version_id, c.steps,
                    c.step, c.step_seconds, c.gates, c.revisions, c.reason, c.created_by, c.created_at, c.ended_at,
                    r.state::text as \"revision_state!\", r.reason as revision_reason,
                    extract(epoch from clock_timestamp() - r.activated_at)::float8 as seconds_in_step
             from canaries c join deployment_revisions r
               on r.deployment_id = c.deployment_id and r.number = c.revisions[cardinality(c.revisions)] " + $rest,
            $($argument),*
        )
    };
}

/// A canary by id.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn get(
    store: &Store,
    organization: OrganizationId,
    canary: CanaryId,
) -> Result<Canary, StoreError> {
    let row = select_canaries!(
        "where c.organization_id = $1 and c.id = $2",
        organization.uuid(),
        canary.uuid()
    )
    .fetch_optional(store.pool())
    .await?;
    row.ok_or(StoreError::NotFound("canary"))?.try_into()
}

/// The newest canary of a deployment, whatever its state.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn latest(
    store: &Store,
    organization: OrganizationId,
    deployment: DeploymentId,
) -> Result<Canary, StoreError> {
    let row = select_canaries!(
        "where c.organization_id = $1 and c.deployment_id = $2 order by c.created_at desc, c.id desc limit 1",
        organization.uuid(),
        deployment.uuid()
    )
    .fetch_optional(store.pool())
    .await?;
    row.ok_or(StoreError::NotFound("canary"))?.try_into()
}

/// For the system: all canaries that run, whoever owns them.
///
/// # Errors
/// Database errors only.
pub async fn running(store: &Store) -> Result<Vec<Canary>, StoreError> {
    let rows = select_canaries!("where c.state = 'running' order by c.created_at, c.id",)
        .fetch_all(store.pool())
        .await?;
    rows.into_iter().map(Canary::try_from).collect()
}
