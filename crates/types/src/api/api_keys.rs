//! API keys: secrets of an organization for programs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::ApiKeyId;
use crate::principal::Role;

/// A key to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateApiKeyRequest {
    /// What the key is for, 1 to 100 characters.
    #[schema(example = "nightly retraining")]
    pub name: String,
    /// What the key may do; at most what its maker may (default `member`, or the maker's role where that is less).
    pub role: Option<Role>,
    /// Seconds until the key ends, 60 to 157680000 (five years); absent for a key that does not end.
    pub expires_in: Option<u64>,
}

/// A key, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiKey {
    /// Id.
    pub id: ApiKeyId,
    /// Always `api_key`.
    #[schema(example = "api_key")]
    pub object: String,
    /// What the key is for.
    pub name: String,
    /// The secret's beginning, to tell keys apart.
    #[schema(example = "tsk_4fQ2…")]
    pub hint: String,
    /// What the key may do.
    pub role: Role,
    /// When it was made.
    pub created_at: i64,
    /// When it ends; null for never.
    pub expires_at: Option<i64>,
    /// When somebody ended it.
    pub revoked_at: Option<i64>,
    /// When it was last used, to within a minute.
    pub last_used_at: Option<i64>,
}

/// A new key with its secret, which is shown this once.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedApiKey {
    /// The key.
    #[serde(flatten)]
    pub api_key: ApiKey,
    /// `tsk_`, 43 characters, and a checksum of 6. Only its hash is stored.
    pub secret: String,
}
