//! Sign-up, log-in, and who is calling.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::{ApiKeyId, OrganizationId, UserId};
use crate::principal::Role;

/// A new user and the organization that it will own.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignupRequest {
    /// Address of the user; letter case does not matter.
    #[schema(example = "ada@example.com")]
    pub email: String,
    /// 10 to 256 characters.
    pub password: String,
    /// Name of the new organization, 1 to 100 characters.
    #[schema(example = "Example Ltd")]
    pub organization_name: String,
}

/// Credentials of a user.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginRequest {
    /// Address of the user.
    pub email: String,
    /// The password.
    pub password: String,
}

/// A refresh token, for `refresh` and `logout`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RefreshRequest {
    /// As given by the last sign-up, log-in or refresh. It works once.
    pub refresh_token: String,
}

/// What a client keeps between requests.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct Tokens {
    /// A signed token for the `Authorization` header.
    pub access_token: String,
    /// Always `Bearer`.
    #[schema(example = "Bearer")]
    pub token_type: String,
    /// Seconds until the access token ends.
    pub expires_in: u64,
    /// Buys the next pair of tokens, once.
    pub refresh_token: String,
    /// When the refresh token ends.
    pub refresh_expires_at: i64,
}

/// A person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct User {
    /// Id.
    pub id: UserId,
    /// Always `user`.
    #[schema(example = "user")]
    pub object: String,
    /// Address, in lower case.
    pub email: String,
    /// When the user signed up.
    pub created_at: i64,
}

/// The tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Organization {
    /// Id.
    pub id: OrganizationId,
    /// Always `organization`.
    #[schema(example = "organization")]
    pub object: String,
    /// Name.
    pub name: String,
    /// When it was made.
    pub created_at: i64,
}

/// A user who is logged in.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// Always `session`.
    #[schema(example = "session")]
    pub object: String,
    /// The user.
    pub user: User,
    /// The organization for which the tokens act.
    pub organization: Organization,
    /// What the user may do in it.
    pub role: Role,
    /// The tokens.
    pub tokens: Tokens,
}

/// The caller, as the credentials of the request say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Identity {
    /// Always `identity`.
    #[schema(example = "identity")]
    pub object: String,
    /// The organization for which the caller acts.
    pub organization: Organization,
    /// The person, where there is one behind the credentials.
    pub user: Option<User>,
    /// The API key, where one was used.
    pub api_key_id: Option<ApiKeyId>,
    /// What the caller may do.
    pub role: Role,
}
