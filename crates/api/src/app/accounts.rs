//! Sign-up, log-in, refresh, log-out.

use std::net::IpAddr;
use std::time::Instant;

use tunesmith_store::accounts::{self, NewAccount, Organization, User};
use tunesmith_store::refresh_tokens::{self, Rotation};
use tunesmith_types::api::auth as body;
use tunesmith_types::ids::{OrganizationId, UserId};
use tunesmith_types::principal::{Principal, Role};

use crate::auth::secret::{REFRESH_TOKEN_PREFIX, digest, is_well_formed, new_refresh_token};
use crate::auth::{Attempt, AttemptLimiter};
use crate::error::ApiError;
use crate::state::ApiState;

const PASSWORD_LENGTH: std::ops::RangeInclusive<usize> = 10..=256;
const NAME_LENGTH: std::ops::RangeInclusive<usize> = 1..=100;
const MOST_EMAIL_CHARACTERS: usize = 254;

const WRONG_LOGIN: ApiError = ApiError::Unauthenticated("The e-mail address or the password is wrong.");
const WRONG_REFRESH: ApiError =
    ApiError::Unauthenticated("The refresh token is wrong, over, or was used before. Log in again.");

/// A new user with a new organization, logged in.
///
/// # Errors
/// A field breaks its rule, the address has an account, or too many attempts were made.
pub async fn sign_up(
    state: &ApiState,
    request: body::SignupRequest,
    address: Option<IpAddr>,
) -> Result<body::Session, ApiError> {
    let email = parse_email(&request.email)?;
    check_password(&request.password)?;
    let name = parse_name("organization_name", &request.organization_name)?;
    brake(&state.limits.by_address, &address_key(address))?;
    let password_hash = state.passwords.hash(request.password).await?;
    let new = NewAccount {
        email: &email,
        password_hash: &password_hash,
        organization_name: &name,
    };
    let (user, organization) = accounts::sign_up(&state.store, &new).await?;
    tracing::info!(user = %user.id, organization = %organization.id, "signed up");
    session(state, user, organization, Role::Owner).await
}

/// A session for the user's first organization.
///
/// # Errors
/// The credentials are wrong, or too many attempts were made.
pub async fn log_in(
    state: &ApiState,
    request: body::LoginRequest,
    address: Option<IpAddr>,
) -> Result<body::Session, ApiError> {
    let email = request.email.trim().to_lowercase();
    let by_address = address_key(address);
    let by_account = format!("{by_address} {:.254}", email);
    brake(&state.limits.by_address, &by_address)?;
    brake(&state.limits.by_account, &by_account)?;
    if request.password.len() > 4 * PASSWORD_LENGTH.end() {
        return Err(WRONG_LOGIN);
    }
    let known = accounts::credentials(&state.store, &email).await?;
    let (user_id, stored) = known.map(|known| (known.user_id, known.password_hash)).unzip();
    if !state.passwords.verify(request.password, stored).await? {
        return Err(WRONG_LOGIN);
    }
    let user_id = user_id.ok_or(WRONG_LOGIN)?;
    state.limits.by_account.forget(&by_account);
    let membership = accounts::memberships(&state.store, user_id)
        .await?
        .into_iter()
        .next();
    let membership = membership.ok_or(WRONG_LOGIN)?;
    let user = accounts::user(&state.store, user_id).await?;
    session(state, user, membership.organization, membership.role).await
}

/// The next pair of tokens. A token that comes twice ends all tokens of its log-in.
///
/// # Errors
/// The token is not the newest of its log-in.
pub async fn refresh(state: &ApiState, request: &body::RefreshRequest) -> Result<body::Tokens, ApiError> {
    if !is_well_formed(REFRESH_TOKEN_PREFIX, &request.refresh_token) {
        return Err(WRONG_REFRESH);
    }
    let next = new_refresh_token();
    let lifetime = state.settings.refresh_token_lifetime;
    let presented = digest(&request.refresh_token);
    match refresh_tokens::rotate(&state.store, &presented, &digest(&next), lifetime).await? {
        Rotation::Rotated {
            user_id,
            organization_id,
        } => tokens(state, user_id, organization_id, next),
        Rotation::Invalid => Err(WRONG_REFRESH),
        Rotation::Reused => {
            tracing::warn!("a refresh token came twice; its log-in is ended");
            Err(WRONG_REFRESH)
        }
    }
}

/// Ends the log-in that the token belongs to; a token that is not known is as good as ended.
///
/// # Errors
/// The database fails.
pub async fn log_out(state: &ApiState, request: &body::RefreshRequest) -> Result<(), ApiError> {
    if is_well_formed(REFRESH_TOKEN_PREFIX, &request.refresh_token) {
        refresh_tokens::revoke(&state.store, &digest(&request.refresh_token)).await?;
    }
    Ok(())
}

/// Who is calling.
///
/// # Errors
/// The database fails.
pub async fn identity(state: &ApiState, caller: &Principal) -> Result<body::Identity, ApiError> {
    let organization = accounts::organization(&state.store, caller.organization_id).await?;
    let user = match caller.user_id {
        Some(id) => Some(accounts::user(&state.store, id).await?),
        None => None,
    };
    Ok(body::Identity {
        object: "identity".to_owned(),
        organization: organization_body(organization),
        user: user.map(user_body),
        api_key_id: caller.api_key_id,
        role: caller.role,
    })
}

async fn session(
    state: &ApiState,
    user: User,
    organization: Organization,
    role: Role,
) -> Result<body::Session, ApiError> {
    let refresh_token = new_refresh_token();
    let lifetime = state.settings.refresh_token_lifetime;
    refresh_tokens::issue(
        &state.store,
        organization.id,
        user.id,
        &digest(&refresh_token),
        lifetime,
    )
    .await?;
    let tokens = tokens(state, user.id, organization.id, refresh_token)?;
    Ok(body::Session {
        object: "session".to_owned(),
        user: user_body(user),
        organization: organization_body(organization),
        role,
        tokens,
    })
}

fn tokens(
    state: &ApiState,
    user: UserId,
    organization: OrganizationId,
    refresh_token: String,
) -> Result<body::Tokens, ApiError> {
    let refresh_expires = chrono::Utc::now() + state.settings.refresh_token_lifetime;
    Ok(body::Tokens {
        access_token: state.tokens.issue(user, organization).map_err(ApiError::Token)?,
        token_type: "Bearer".to_owned(),
        expires_in: state.tokens.lifetime().as_secs(),
        refresh_token,
        refresh_expires_at: refresh_expires.timestamp(),
    })
}

fn user_body(user: User) -> body::User {
    body::User {
        id: user.id,
        object: "user".to_owned(),
        email: user.email,
        created_at: user.created_at.timestamp(),
    }
}

fn organization_body(organization: Organization) -> body::Organization {
    body::Organization {
        id: organization.id,
        object: "organization".to_owned(),
        name: organization.name,
        created_at: organization.created_at.timestamp(),
    }
}

/// An address in lower case; whether it exists, only a mail to it could tell.
fn parse_email(text: &str) -> Result<String, ApiError> {
    let email = text.trim().to_lowercase();
    let plain = |part: &str| {
        !part.is_empty()
            && !part
                .chars()
                .any(|c| c.is_whitespace() || c.is_control() || c == '@')
    };
    let valid = email.chars().count() <= MOST_EMAIL_CHARACTERS
        && email
            .split_once('@')
            .is_some_and(|(person, host)| plain(person) && plain(host));
    if valid {
        Ok(email)
    } else {
        Err(ApiError::parameter(
            "email",
            "`email` must be an e-mail address, such as ada@example.com.",
        ))
    }
}

fn check_password(password: &str) -> Result<(), ApiError> {
    let (least, most) = (PASSWORD_LENGTH.start(), PASSWORD_LENGTH.end());
    if PASSWORD_LENGTH.contains(&password.chars().count()) {
        return Ok(());
    }
    Err(ApiError::parameter(
        "password",
        format!("`password` must have {least} to {most} characters."),
    ))
}

/// A name for people: trimmed, of sane length, without control characters.
pub(super) fn parse_name(param: &str, text: &str) -> Result<String, ApiError> {
    let name = text.trim();
    if NAME_LENGTH.contains(&name.chars().count()) && !name.chars().any(char::is_control) {
        return Ok(name.to_owned());
    }
    let (least, most) = (NAME_LENGTH.start(), NAME_LENGTH.end());
    Err(ApiError::parameter(
        param,
        format!("`{param}` must have {least} to {most} characters, none of them a control character."),
    ))
}

fn address_key(address: Option<IpAddr>) -> String {
    address.map_or_else(
        || "unknown".to_owned(),
        |address| address.to_canonical().to_string(),
    )
}

fn brake(limiter: &AttemptLimiter, key: &str) -> Result<(), ApiError> {
    match limiter.attempt(key, Instant::now()) {
        Attempt::Allowed => Ok(()),
        Attempt::Refused(wait) => Err(ApiError::RateLimited {
            retry_after: wait.as_secs() + 1,
        }),
    }
}
