//! Who is calling: an API key or an access token becomes a [`Principal`] in the request.

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use tunesmith_store::StoreError;
use tunesmith_types::principal::{Principal, Role};

use crate::auth::secret::{API_KEY_PREFIX, digest, is_well_formed};
use crate::error::ApiError;
use crate::state::ApiState;

/// Most characters of a credential; a longer one is none of ours.
const LONGEST_CREDENTIAL: usize = 2048;

/// Lets only requests with valid credentials through, with their [`Principal`] as an extension.
///
/// # Errors
/// There are none, they are not valid, or the database fails.
pub async fn authenticate(
    State(state): State<ApiState>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let credential = bearer(request.headers())?;
    let principal = if credential.starts_with(API_KEY_PREFIX) {
        principal_of_key(&state, credential).await?
    } else {
        principal_of_token(&state, credential).await?
    };
    tracing::debug!(organization = %principal.organization_id, "authenticated");
    request.extensions_mut().insert(principal);
    Ok(next.run(request).await)
}

fn bearer(headers: &HeaderMap) -> Result<&str, ApiError> {
    const MISSING: ApiError = ApiError::Unauthenticated(
        "Give an API key or an access token: `Authorization: Bearer <credential>`.",
    );
    let value = headers.get(header::AUTHORIZATION).ok_or(MISSING)?;
    let text = value.to_str().map_err(|_| MISSING)?;
    let (scheme, credential) = text.split_once(' ').ok_or(MISSING)?;
    let credential = credential.trim();
    if !scheme.eq_ignore_ascii_case("bearer")
        || credential.is_empty()
        || credential.len() > LONGEST_CREDENTIAL
    {
        return Err(MISSING);
    }
    Ok(credential)
}

async fn principal_of_key(state: &ApiState, secret: &str) -> Result<Principal, ApiError> {
    const WRONG: ApiError = ApiError::Unauthenticated("The API key is wrong, revoked or over.");
    if !is_well_formed(API_KEY_PREFIX, secret) {
        return Err(WRONG);
    }
    tunesmith_store::api_keys::authenticate(&state.store, &digest(secret))
        .await?
        .ok_or(WRONG)
}

/// The role is read anew for each request, so that whoever leaves an organization is out at once.
async fn principal_of_token(state: &ApiState, token: &str) -> Result<Principal, ApiError> {
    const WRONG: ApiError = ApiError::Unauthenticated(
        "The access token is wrong or over; get a new one with `POST /v1/auth/refresh`.",
    );
    let claims = state.tokens.verify(token).map_err(|error| {
        tracing::debug!(error = &error as &dyn std::error::Error, "access token refused");
        WRONG
    })?;
    let role = match tunesmith_store::accounts::member_role(&state.store, claims.org, claims.sub).await {
        Err(StoreError::NotFound(_)) => return Err(WRONG),
        other => other?,
    };
    Ok(Principal {
        organization_id: claims.org,
        user_id: Some(claims.sub),
        api_key_id: None,
        role,
    })
}

/// The caller of an operation that every role may call.
#[derive(Debug, Clone, Copy)]
pub struct Caller(pub Principal);

/// The caller of an operation that needs at least the role `member`.
#[derive(Debug, Clone, Copy)]
pub struct Member(pub Principal);

/// The caller of an operation that needs at least the role `admin`.
#[derive(Debug, Clone, Copy)]
pub struct Admin(pub Principal);

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        caller(parts, Role::Viewer).map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Member {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        caller(parts, Role::Member).map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Admin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        caller(parts, Role::Admin).map(Self)
    }
}

fn caller(parts: &Parts, needed: Role) -> Result<Principal, ApiError> {
    const MISSING: ApiError = ApiError::Unauthenticated("This operation needs credentials.");
    let principal = parts.extensions.get::<Principal>().ok_or(MISSING)?;
    if principal.role < needed {
        Err(ApiError::Forbidden { needed })
    } else {
        Ok(*principal)
    }
}
