//! Deployments: public model names and what they route to.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::{AdapterVersionId, BaseModelId, DeploymentId, DeploymentRevisionId, UserId};
use crate::states::{RevisionKind, RevisionState};

/// A deployment to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateDeploymentRequest {
    /// The model name that chat requests will give.
    #[schema(example = "helpdesk")]
    pub name: String,
    /// Name or id of the base model.
    pub base_model: String,
    /// Adapter whose version answers at first; absent for the base model alone.
    pub adapter: Option<String>,
    /// Version of the adapter (default: its newest).
    pub version: Option<i32>,
    /// Alias of the version, in place of its number; when it moves, the deployment follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
}

/// A version to be served from now on.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PromoteRequest {
    /// Name of the adapter; it must have the deployment's base model.
    #[schema(example = "support")]
    pub adapter: String,
    /// Version of the adapter (default: its newest).
    pub version: Option<i32>,
    /// Alias of the version, in place of its number; when it moves, the deployment follows.
    #[schema(example = "champion")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// Number of the newest revision as the caller knows it; where another came between, nothing changes.
    pub expected_revision: Option<i32>,
    /// Why, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A public model name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Deployment {
    /// Id.
    pub id: DeploymentId,
    /// Always `deployment`.
    #[schema(example = "deployment")]
    pub object: String,
    /// The model name that chat requests give.
    pub name: String,
    /// Name of the base model.
    pub base_model: String,
    /// Id of the base model.
    pub base_model_id: BaseModelId,
    /// The revision that answers now; null before the first is ready.
    pub active_revision: Option<Revision>,
    /// The newest revision, whatever its state.
    pub latest_revision: Option<Revision>,
    /// All revisions, newest first, up to 100; empty in lists.
    pub revisions: Vec<Revision>,
    /// When it was made.
    pub created_at: i64,
}

/// One immutable state of a deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Revision {
    /// Id.
    pub id: DeploymentRevisionId,
    /// Always `deployment_revision`.
    #[schema(example = "deployment_revision")]
    pub object: String,
    /// Number, from 1.
    pub number: i32,
    /// What made it.
    pub kind: RevisionKind,
    /// Number of the newest revision when it was made.
    pub parent_number: Option<i32>,
    /// State.
    pub status: RevisionState,
    /// Why it failed or was overtaken.
    pub reason: Option<String>,
    /// Why it was made.
    pub note: Option<String>,
    /// Who made it; null for what a program or a key made.
    pub created_by: Option<UserId>,
    /// Where requests go; the weights sum to 100.
    pub routes: Vec<Route>,
    /// When it was made.
    pub created_at: i64,
    /// When it began to answer.
    pub activated_at: Option<i64>,
    /// When it failed or was superseded.
    pub ended_at: Option<i64>,
}

/// A share of a deployment's requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Route {
    /// `name@number` of the adapter version, or `base`.
    #[schema(example = "support@7")]
    pub target: String,
    /// Name of the adapter; null for the base model alone.
    pub adapter: Option<String>,
    /// Number of the version.
    pub version: Option<i32>,
    /// Id of the version.
    pub adapter_version_id: Option<AdapterVersionId>,
    /// The alias that the deployment follows.
    pub alias: Option<String>,
    /// Percent of the requests.
    pub weight: i32,
}
