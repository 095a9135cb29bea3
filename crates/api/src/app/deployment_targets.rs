//! The versions that requests about deployments name: by number, by alias, or the base model.

use tunesmith_store::adapters::{self, AdapterVersion};
use tunesmith_store::aliases;
use tunesmith_store::deployments::Deployment;
use tunesmith_store::revisions::Route;
use tunesmith_types::ids::OrganizationId;
use tunesmith_types::names::ResourceName;
use tunesmith_types::version_reference::AliasName;

use super::adapters::VERSION_KIND;
use super::servability;
use crate::error::{ApiError, OrNotFound};
use crate::state::ApiState;

/// A version as a request names it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) adapter: Option<&'a str>,
    pub(super) version: Option<i32>,
    pub(super) alias: Option<&'a str>,
}

/// What a [`Wanted`] names now.
#[derive(Debug)]
pub(super) struct Found {
    /// None for the base model.
    pub(super) version: Option<AdapterVersion>,
    alias: Option<AliasName>,
}

impl Found {
    /// A route to it, which follows the alias where it was named by one.
    pub(super) fn route(&self, weight: u8) -> Route {
        Route {
            adapter_version_id: self.version.as_ref().map(|version| version.id),
            weight,
            alias: self.alias.clone(),
        }
    }
}

/// As [`find_wanted`], where the version must have the deployment's base model.
pub(super) async fn find_fitting(
    state: &ApiState,
    organization: OrganizationId,
    deployment: &Deployment,
    wanted: &Wanted<'_>,
) -> Result<Found, ApiError> {
    let found = find_wanted(state, organization, wanted).await?;
    if let Some(version) = &found.version {
        let same = version.base_model_id == deployment.base_model_id;
        require_base(version, &deployment.name, &deployment.base_model, same)?;
    }
    Ok(found)
}

/// What a request names.
///
/// # Errors
/// The organization has no such version, or the names contradict each other.
pub(super) async fn find_wanted(
    state: &ApiState,
    organization: OrganizationId,
    wanted: &Wanted<'_>,
) -> Result<Found, ApiError> {
    let Some(adapter) = wanted.adapter else {
        let stray = wanted
            .version
            .map(|_| "version")
            .or(wanted.alias.map(|_| "alias"));
        return match stray {
            Some(field) => {
                let message = format!("`{field}` needs `adapter`, whose version it names.");
                Err(ApiError::parameter(field, message))
            }
            None => Ok(Found {
                version: None,
                alias: None,
            }),
        };
    };
    let Some(alias) = wanted.alias else {
        let version = find_version(state, organization, adapter, wanted.version).await?;
        servability::require_of_version(state, &version).await?;
        return Ok(Found {
            version: Some(version),
            alias: None,
        });
    };
    if wanted.version.is_some() {
        let message = "Give `version` or `alias`, not both.";
        return Err(ApiError::parameter("alias", message));
    }
    let alias = AliasName::parse("alias", alias)?;
    let reference = format!("{adapter}@{alias}");
    let pointed = aliases::find(&state.store, organization, adapter, &alias).await;
    let pointed = pointed.or_unknown(VERSION_KIND, "alias", &reference)?;
    let version = adapters::version(&state.store, organization, pointed.version_id).await;
    let version = version.or_unknown(VERSION_KIND, "alias", &reference)?;
    servability::require_of_version(state, &version).await?;
    Ok(Found {
        version: Some(version),
        alias: Some(alias),
    })
}

async fn find_version(
    state: &ApiState,
    organization: OrganizationId,
    adapter: &str,
    number: Option<i32>,
) -> Result<AdapterVersion, ApiError> {
    let reference = number.map_or_else(|| adapter.to_owned(), |number| format!("{adapter}@{number}"));
    if adapter.parse::<ResourceName>().is_err() {
        return Err(ApiError::unknown(VERSION_KIND, "adapter", reference));
    }
    let found = adapters::find_version(&state.store, organization, adapter, number).await;
    found.or_unknown(
        VERSION_KIND,
        if number.is_some() { "version" } else { "adapter" },
        reference,
    )
}

pub(super) fn require_base(
    version: &AdapterVersion,
    name: &ResourceName,
    base_model: &str,
    same: bool,
) -> Result<(), ApiError> {
    if same {
        return Ok(());
    }
    let message = format!(
        "`{}@{}` was trained on the base model `{}`, but the deployment `{name}` serves `{base_model}`; make a deployment of `{}`.",
        version.adapter, version.number, version.base_model, version.base_model
    );
    Err(ApiError::Invalid {
        code: "base_model_differs",
        param: Some("adapter".to_owned()),
        message,
    })
}
