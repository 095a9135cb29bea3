//! API keys.

use axum::extract::State;
use axum::http::StatusCode;
use axum::middleware::from_fn;
use tunesmith_types::api::Deleted;
use tunesmith_types::api::api_keys::{ApiKey, CreateApiKeyRequest, CreatedApiKey};
use tunesmith_types::error::ErrorBody;
use tunesmith_types::ids::ApiKeyId;
use tunesmith_types::list::{List, PageQuery};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

use crate::app::api_keys;
use crate::error::ApiError;
use crate::extract::{Json, Named, PathId, Query};
use crate::middleware::authenticate::Admin;
use crate::middleware::idempotency::keyed_secret;
use crate::state::ApiState;

impl Named for ApiKeyId {
    const KIND: &'static str = "API key";
}

/// The operations.
pub(crate) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(create_api_key).layer(from_fn(keyed_secret)))
        .routes(routes!(list_api_keys))
        .routes(routes!(revoke_api_key))
}

/// Make an API key
///
/// Needs the role `admin`. The secret is in this answer and nowhere else.
#[utoipa::path(
    post, path = "/v1/api-keys", tag = "api keys", request_body = CreateApiKeyRequest,
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key makes one API key")),
    responses(
        (status = 201, description = "The key with its secret", body = CreatedApiKey),
        (status = 400, description = "A field breaks its rule", body = ErrorBody),
        (status = 403, description = "The caller's role is too small", body = ErrorBody),
    )
)]
async fn create_api_key(
    State(state): State<ApiState>,
    Admin(caller): Admin,
    Json(request): Json<CreateApiKeyRequest>,
) -> Result<(StatusCode, axum::Json<CreatedApiKey>), ApiError> {
    let created = api_keys::create(&state, &caller, &request).await?;
    Ok((StatusCode::CREATED, axum::Json(created)))
}

/// List API keys
#[utoipa::path(
    get, path = "/v1/api-keys", tag = "api keys", params(PageQuery),
    responses((status = 200, description = "The keys, newest first", body = List<ApiKey>))
)]
async fn list_api_keys(
    State(state): State<ApiState>,
    Admin(caller): Admin,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<List<ApiKey>>, ApiError> {
    Ok(axum::Json(api_keys::list(&state, &caller, &query).await?))
}

/// Revoke an API key
///
/// It stops working at once.
#[utoipa::path(
    delete, path = "/v1/api-keys/{id}", tag = "api keys", params(("id" = ApiKeyId, Path, description = "The key")),
    responses(
        (status = 200, description = "Revoked", body = Deleted),
        (status = 404, description = "No such key", body = ErrorBody),
    )
)]
async fn revoke_api_key(
    State(state): State<ApiState>,
    Admin(caller): Admin,
    PathId(id): PathId<ApiKeyId>,
) -> Result<axum::Json<Deleted>, ApiError> {
    api_keys::revoke(&state, &caller, id).await?;
    Ok(axum::Json(Deleted::new("api_key", id)))
}
