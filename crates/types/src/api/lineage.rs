//! Where versions come from and where they went.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::{AdapterVersionId, BaseModelId, DatasetId, DeploymentId, JobId};
use crate::states::{JobState, RevisionState};

/// Dataset, job, version, alias and deployment, as they hang together; the oldest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Lineage {
    /// Always `lineage`.
    #[schema(example = "lineage")]
    pub object: String,
    /// What was learned from.
    pub datasets: Vec<LineageDataset>,
    /// What learned.
    pub jobs: Vec<LineageJob>,
    /// What was made.
    pub versions: Vec<LineageVersion>,
    /// The revisions of deployments that route to the versions, or did.
    pub deployments: Vec<LineageRevision>,
}

/// A dataset of a lineage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LineageDataset {
    /// Id.
    pub id: DatasetId,
    /// `name@number`.
    #[schema(example = "support@3")]
    pub reference: String,
    /// Of the bytes.
    pub sha256: String,
    /// When it was uploaded.
    pub created_at: i64,
}

/// A job of a lineage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LineageJob {
    /// Id.
    pub id: JobId,
    /// State.
    pub status: JobState,
    /// What it learns from.
    pub dataset_id: DatasetId,
    /// What it tunes.
    pub base_model_id: BaseModelId,
    /// The version whose adapter it begins with.
    pub parent: Option<AdapterVersionId>,
    /// When it was made.
    pub created_at: i64,
}

/// A version of a lineage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LineageVersion {
    /// Id.
    pub id: AdapterVersionId,
    /// `name@number`.
    #[schema(example = "support@7")]
    pub reference: String,
    /// Names its content.
    pub digest: String,
    /// What made it.
    pub job_id: Option<JobId>,
    /// Of which of the job's checkpoints; null where it is what the job ended with.
    pub checkpoint_step: Option<i64>,
    /// The version whose adapter its training began with.
    pub parent: Option<AdapterVersionId>,
    /// The versions whose training began with its adapter.
    pub children: Vec<AdapterVersionId>,
    /// The aliases that point to it.
    pub aliases: Vec<String>,
    /// When it was made.
    pub created_at: i64,
    /// When it was deleted.
    pub deleted_at: Option<i64>,
}

/// A revision of a deployment in a lineage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LineageRevision {
    /// Id of the deployment.
    pub deployment_id: DeploymentId,
    /// Its name.
    pub deployment: String,
    /// Number of the revision.
    pub revision: i32,
    /// State.
    pub status: RevisionState,
    /// Its routes to versions of this lineage.
    pub routes: Vec<LineageRoute>,
    /// When it was made.
    pub created_at: i64,
}

/// A route to a version of a lineage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LineageRoute {
    /// The version.
    pub adapter_version_id: AdapterVersionId,
    /// `name@number`.
    #[schema(example = "support@7")]
    pub reference: String,
    /// Percent of the requests.
    pub weight: i32,
}
