//! Who is calling: put into each request by the API's authentication layer, read by every handler.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::{ApiKeyId, OrganizationId, UserId};

/// What a member of an organization may do; each role may do all that the ones below it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Uploads, trains, deploys.
    Member,
    /// Manages members and keys.
    Admin,
    /// Owns the organization.
    Owner,
}

impl Role {
    /// As stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }
}

/// An authenticated caller and the organization for which it acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Principal {
    /// The tenant; every query of the request is about its rows.
    pub organization_id: OrganizationId,
    /// The person, where an access token was used, or who made the API key.
    pub user_id: Option<UserId>,
    /// The key, where one was used.
    pub api_key_id: Option<ApiKeyId>,
    /// What the caller may do.
    pub role: Role,
}
