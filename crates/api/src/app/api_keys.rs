//! API keys.

use chrono::{TimeDelta, Utc};
use tunesmith_store::api_keys::{self, NewApiKey};
use tunesmith_types::api::api_keys as body;
use tunesmith_types::ids::ApiKeyId;
use tunesmith_types::list::{List, PageQuery};
use tunesmith_types::principal::{Principal, Role};

use super::accounts::parse_name;
use crate::auth::secret::{digest, hint, new_api_key};
use crate::error::ApiError;
use crate::state::ApiState;

const LIFETIME_SECONDS: std::ops::RangeInclusive<u64> = 60..=157_680_000;

/// Makes a key; its secret is in the answer and nowhere else.
///
/// # Errors
/// A field breaks its rule, or the key would be allowed more than its maker.
pub async fn create(
    state: &ApiState,
    caller: &Principal,
    request: &body::CreateApiKeyRequest,
) -> Result<body::CreatedApiKey, ApiError> {
    let name = parse_name("name", &request.name)?;
    let role = request.role.unwrap_or(Role::Member.min(caller.role));
    if role > caller.role {
        let message = format!("`role` may be at most your own, `{}`.", caller.role.as_str());
        return Err(ApiError::parameter("role", message));
    }
    let expires_at = match request.expires_in {
        None => None,
        Some(seconds) if LIFETIME_SECONDS.contains(&seconds) => Some(
            Utc::now()
                + TimeDelta::seconds(i64::try_from(seconds).expect("invariant: within the bounds above")),
        ),
        Some(seconds) => {
            let (least, most) = (LIFETIME_SECONDS.start(), LIFETIME_SECONDS.end());
            let message =
                format!("`expires_in` must be from {least} to {most} seconds; {seconds} was given.");
            return Err(ApiError::parameter("expires_in", message));
        }
    };
    let secret = new_api_key();
    let new = NewApiKey {
        name: &name,
        role,
        created_by: caller.user_id,
        secret_sha256: digest(&secret),
        display_prefix: &hint(&secret),
        expires_at,
    };
    let key = api_keys::create(&state.store, caller.organization_id, &new).await?;
    Ok(body::CreatedApiKey {
        api_key: view(key),
        secret,
    })
}

/// The organization's keys.
///
/// # Errors
/// The page request is wrong.
pub async fn list(
    state: &ApiState,
    caller: &Principal,
    query: &PageQuery,
) -> Result<List<body::ApiKey>, ApiError> {
    let page = query.parse()?;
    let rows = api_keys::list(&state.store, caller.organization_id, &page).await?;
    let keys = rows.rows.into_iter().map(view).collect();
    Ok(List::new(keys, rows.has_more, |key: &body::ApiKey| {
        key.id.to_string()
    }))
}

/// Ends a key at once.
///
/// # Errors
/// The organization has no such key.
pub async fn revoke(state: &ApiState, caller: &Principal, key: ApiKeyId) -> Result<(), ApiError> {
    api_keys::revoke(&state.store, caller.organization_id, key).await?;
    Ok(())
}

fn view(key: api_keys::ApiKey) -> body::ApiKey {
    body::ApiKey {
        id: key.id,
        object: "api_key".to_owned(),
        name: key.name,
        hint: key.display_prefix,
        role: key.role,
        created_at: key.created_at.timestamp(),
        expires_at: key.expires_at.map(|time| time.timestamp()),
        revoked_at: key.revoked_at.map(|time| time.timestamp()),
        last_used_at: key.last_used_at.map(|time| time.timestamp()),
    }
}
