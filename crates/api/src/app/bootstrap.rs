//! The first key of a single-machine installation.

use tunesmith_store::api_keys::{self, NewApiKey};
use tunesmith_store::{Store, accounts};
use tunesmith_types::ids::{ApiKeyId, OrganizationId};
use tunesmith_types::principal::Role;

use crate::auth::secret::{digest, hint, new_api_key};
use crate::error::ApiError;

/// A key that was just made, with its secret.
#[derive(Clone)]
pub struct OwnerKey {
    /// The organization that it acts for.
    pub organization_id: OrganizationId,
    /// The key.
    pub id: ApiKeyId,
    /// The secret, which is stored nowhere.
    pub secret: String,
}

/// Makes an owner key of the default organization, and the organization where it is missing.
///
/// # Errors
/// The database fails.
pub async fn owner_key(store: &Store, name: &str) -> Result<OwnerKey, ApiError> {
    let organization = accounts::default_organization(store).await?;
    let secret = new_api_key();
    let new = NewApiKey {
        name,
        role: Role::Owner,
        created_by: None,
        secret_sha256: digest(&secret),
        display_prefix: &hint(&secret),
        expires_at: None,
    };
    let key = api_keys::create(store, organization.id, &new).await?;
    Ok(OwnerKey {
        organization_id: organization.id,
        id: key.id,
        secret,
    })
}

/// Whether the secret still works as a key of the default organization's owner.
///
/// # Errors
/// The database fails.
pub async fn is_owner_key(store: &Store, secret: &str) -> Result<bool, ApiError> {
    let organization = accounts::default_organization(store).await?;
    let principal = api_keys::authenticate(store, &digest(secret)).await?;
    Ok(principal.is_some_and(|p| p.organization_id == organization.id && p.role == Role::Owner))
}
