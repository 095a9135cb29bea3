//! Credentials: passwords, API keys, access tokens, and the brake on guessing them. Nothing here knows HTTP or SQL.

pub mod access_token;
pub mod password;
pub mod rate_limit;
pub mod secret;

pub use access_token::{AccessClaims, AccessTokens, SigningKey, SigningKeyError, TokenError};
pub use password::{PasswordError, Passwords};
pub use rate_limit::{Attempt, AttemptLimiter};
