//! Which version answers to a public name.

use tunesmith_store::routing::{ResolvedRoute, RoutedRevision};
use tunesmith_types::{
    ids::{BaseModelId, OrganizationId},
    names::ResourceName,
};

use crate::{
    GatewayError,
    catalogue::{Catalogue, DeploymentState, engine_name},
};

/// Where requests for a name go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) base: BaseModelId,
    /// The replica's name of the adapter version; none for the base model itself.
    pub(crate) adapter: Option<String>,
    /// Value of `x-tunesmith-version`: `<adapter>@<number>`, or `base`.
    pub(crate) label: String,
}

/// The target of `name` within an organization: a deployment, else a base model. What belongs to others does not exist.
///
/// # Errors
/// No such name, or a deployment without an active version.
pub(crate) async fn resolve(
    catalogue: &Catalogue,
    organization: OrganizationId,
    name: &str,
) -> Result<Target, GatewayError> {
    if name.parse::<ResourceName>().is_err() {
        return Err(GatewayError::ModelNotFound(shortened(name)));
    }
    match catalogue
        .deployment(organization, name)
        .await
        .map_err(GatewayError::Store)?
    {
        Some(DeploymentState::Active(revision)) => {
            return Ok(target(&revision, uuid::Uuid::new_v4().as_u128()));
        }
        Some(DeploymentState::Pending) => return Err(GatewayError::Starting(name.to_owned())),
        Some(DeploymentState::Inactive) => return Err(GatewayError::NothingActive(name.to_owned())),
        None => {}
    }
    let base = catalogue
        .base_model_by_name(organization, name)
        .await
        .map_err(GatewayError::Store)?;
    let base = base.ok_or_else(|| GatewayError::ModelNotFound(name.to_owned()))?;
    Ok(Target {
        base,
        adapter: None,
        label: "base".to_owned(),
    })
}

/// One of the revision's routes, each as often as its weight says.
fn target(revision: &RoutedRevision, random: u128) -> Target {
    let mut place = random
        % revision
            .routes
            .iter()
            .map(|route| u128::from(route.weight))
            .sum::<u128>()
            .max(1);
    let chosen = revision
        .routes
        .iter()
        .find(|route| match place.checked_sub(u128::from(route.weight)) {
            Some(rest) => {
                place = rest;
                false
            }
            None => true,
        });
    let version = chosen.and_then(|ResolvedRoute { version, .. }| version.as_ref());
    Target {
        base: revision.base_model_id,
        adapter: version.map(engine_name),
        label: version.map_or_else(
            || "base".to_owned(),
            |version| format!("{}@{}", version.adapter, version.number),
        ),
    }
}

fn shortened(name: &str) -> String {
    name.chars().take(100).collect()
}
