//! Sign-up, log-in, and who is calling.

use std::net::{IpAddr, SocketAddr};

use axum::Extension;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use tunesmith_types::api::auth::{Identity, LoginRequest, RefreshRequest, Session, SignupRequest, Tokens};
use tunesmith_types::error::ErrorBody;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::accounts;
use crate::error::ApiError;
use crate::extract::Json;
use crate::middleware::authenticate::Caller;
use crate::state::ApiState;

/// Operations without a caller.
pub(crate) fn public() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(sign_up))
        .routes(routes!(log_in))
        .routes(routes!(refresh_tokens))
        .routes(routes!(log_out))
}

/// Operations with a caller.
pub(crate) fn private() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(get_organization))
}

type Connection = Option<Extension<ConnectInfo<SocketAddr>>>;

fn address(connection: Connection) -> Option<IpAddr> {
    connection.map(|Extension(ConnectInfo(address))| address.ip())
}

/// Sign up
///
/// Makes a user and an organization that the user owns, and logs the user in.
#[utoipa::path(
    post, path = "/v1/auth/signup", tag = "auth", security(()), request_body = SignupRequest,
    responses(
        (status = 201, description = "The user, logged in", body = Session),
        (status = 400, description = "A field breaks its rule", body = ErrorBody),
        (status = 409, description = "The address has an account", body = ErrorBody),
        (status = 429, description = "Too many attempts", body = ErrorBody),
    )
)]
async fn sign_up(
    State(state): State<ApiState>,
    connection: Connection,
    Json(request): Json<SignupRequest>,
) -> Result<(StatusCode, axum::Json<Session>), ApiError> {
    let session = accounts::sign_up(&state, request, address(connection)).await?;
    Ok((StatusCode::CREATED, axum::Json(session)))
}

/// Log in
#[utoipa::path(
    post, path = "/v1/auth/login", tag = "auth", security(()), request_body = LoginRequest,
    responses(
        (status = 200, description = "The user, logged in", body = Session),
        (status = 401, description = "The address or the password is wrong", body = ErrorBody),
        (status = 429, description = "Too many attempts", body = ErrorBody),
    )
)]
async fn log_in(
    State(state): State<ApiState>,
    connection: Connection,
    Json(request): Json<LoginRequest>,
) -> Result<axum::Json<Session>, ApiError> {
    Ok(axum::Json(
        accounts::log_in(&state, request, address(connection)).await?,
    ))
}

/// Get the next tokens
///
/// A refresh token works once. One that comes twice was copied: all tokens of its log-in end.
#[utoipa::path(
    post, path = "/v1/auth/refresh", tag = "auth", security(()), request_body = RefreshRequest,
    responses(
        (status = 200, description = "The next tokens", body = Tokens),
        (status = 401, description = "The token is not the newest of its log-in", body = ErrorBody),
    )
)]
async fn refresh_tokens(
    State(state): State<ApiState>,
    Json(request): Json<RefreshRequest>,
) -> Result<axum::Json<Tokens>, ApiError> {
    Ok(axum::Json(accounts::refresh(&state, &request).await?))
}

/// Log out
///
/// Ends the log-in that the refresh token belongs to.
#[utoipa::path(
    post, path = "/v1/auth/logout", tag = "auth", security(()), request_body = RefreshRequest,
    responses((status = 204, description = "Logged out"))
)]
async fn log_out(
    State(state): State<ApiState>,
    Json(request): Json<RefreshRequest>,
) -> Result<StatusCode, ApiError> {
    accounts::log_out(&state, &request).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Say who is calling
#[utoipa::path(
    get, path = "/v1/organization", tag = "auth",
    responses(
        (status = 200, description = "Organization, user and role of the credentials", body = Identity),
        (status = 401, description = "No valid credentials", body = ErrorBody),
    )
)]
async fn get_organization(
    State(state): State<ApiState>,
    caller: Caller,
) -> Result<axum::Json<Identity>, ApiError> {
    Ok(axum::Json(accounts::identity(&state, &caller.0).await?))
}
