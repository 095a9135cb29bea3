//! Which version answers to a public name.

use std::sync::Arc;

use tunesmith_types::{
    ids::{BaseModelId, OrganizationId},
    names::ResourceName,
};

use crate::{
    GatewayError,
    catalogue::{Catalogue, Lookup},
    snapshot::{Arm, Destination, Snapshot},
    sticky::{self, Affinity},
};

/// Where one request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) base: BaseModelId,
    /// What answers.
    pub(crate) arm: Arm,
    /// The deployment that chose it; none where the base model itself was asked for.
    pub(crate) snapshot: Option<Arc<Snapshot>>,
}

/// The target of `name` within an organization: a deployment, else a base model. What belongs to others does not exist.
///
/// # Errors
/// No such name, or a deployment without an active version.
pub(crate) async fn resolve(
    catalogue: &Catalogue,
    organization: OrganizationId,
    name: &str,
    affinity: &Affinity,
) -> Result<Target, GatewayError> {
    if name.parse::<ResourceName>().is_err() {
        return Err(GatewayError::ModelNotFound(shortened(name)));
    }
    let found = catalogue.lookup(organization, name).await;
    match found.map_err(GatewayError::Store)? {
        Lookup::Found(Destination::Deployment(snapshot)) => Ok(target(snapshot, affinity)),
        Lookup::Found(Destination::Base(base)) => Ok(Target {
            base,
            arm: Arm::new(None, 100),
            snapshot: None,
        }),
        Lookup::Pending => Err(GatewayError::Starting(name.to_owned())),
        Lookup::Inactive => Err(GatewayError::NothingActive(name.to_owned())),
        Lookup::Nothing => Err(GatewayError::ModelNotFound(name.to_owned())),
    }
}

fn target(snapshot: Arc<Snapshot>, affinity: &Affinity) -> Target {
    let arms = snapshot.arms.iter().map(|arm| (arm.version, arm.weight));
    let chosen = sticky::choose(snapshot.deployment, affinity, arms);
    let arm = chosen.and_then(|place| snapshot.arms.get(place).cloned());
    Target {
        base: snapshot.base,
        arm: arm.unwrap_or_else(|| Arm::new(None, 100)),
        snapshot: Some(snapshot),
    }
}

fn shortened(name: &str) -> String {
    name.chars().take(100).collect()
}
