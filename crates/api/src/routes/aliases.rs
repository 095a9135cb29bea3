//! Aliases of adapter versions.

use axum::extract::{Path, State};
use tunesmith_types::api::Deleted;
use tunesmith_types::api::aliases::{Alias, AliasMove, Aliases, DeleteAliasQuery, MoveAliasRequest};
use tunesmith_types::error::ErrorBody;
use tunesmith_types::list::{List, PageQuery};
use tunesmith_types::names::ResourceName;
use tunesmith_types::version_reference::AliasName;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::name_in_path;
use crate::app::{adapters, aliases};
use crate::error::ApiError;
use crate::extract::{Json, Query};
use crate::middleware::authenticate::{Caller, Member};
use crate::state::ApiState;

/// The operations.
pub(crate) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(list_aliases))
        .routes(routes!(get_alias))
        .routes(routes!(move_alias))
        .routes(routes!(delete_alias))
        .routes(routes!(list_alias_moves))
        .routes(routes!(list_adapter_history))
}

fn alias_in_path(adapter: &str, alias: &str) -> Result<(ResourceName, AliasName), ApiError> {
    let absent = || ApiError::not_found(aliases::KIND, format!("{adapter}@{alias}"));
    let name = adapter.parse().map_err(|_| absent())?;
    Ok((name, alias.parse().map_err(|_| absent())?))
}

/// List the aliases of an adapter
#[utoipa::path(
    get, path = "/v1/adapters/{name}/aliases", tag = "adapters",
    params(("name" = String, Path, description = "The adapter")),
    responses(
        (status = 200, description = "All of them, by name", body = Aliases),
        (status = 404, description = "No such adapter", body = ErrorBody),
    )
)]
async fn list_aliases(
    State(state): State<ApiState>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<axum::Json<Aliases>, ApiError> {
    let name = name_in_path(adapters::KIND, &name)?;
    Ok(axum::Json(aliases::list(&state, &caller.0, &name).await?))
}

/// Get an alias
#[utoipa::path(
    get, path = "/v1/adapters/{name}/aliases/{alias}", tag = "adapters",
    params(("name" = String, Path, description = "The adapter"), ("alias" = String, Path, description = "The alias")),
    responses(
        (status = 200, description = "The alias", body = Alias),
        (status = 404, description = "No such adapter or alias", body = ErrorBody),
    )
)]
async fn get_alias(
    State(state): State<ApiState>,
    caller: Caller,
    Path((name, alias)): Path<(String, String)>,
) -> Result<axum::Json<Alias>, ApiError> {
    let (name, alias) = alias_in_path(&name, &alias)?;
    Ok(axum::Json(aliases::get(&state, &caller.0, &name, &alias).await?))
}

/// Move an alias
///
/// Points it to a version, as one compare-and-set; a new name makes a new alias. When `champion` moves, `previous`
/// becomes what `champion` was.
#[utoipa::path(
    put, path = "/v1/adapters/{name}/aliases/{alias}", tag = "adapters", request_body = MoveAliasRequest,
    params(("name" = String, Path, description = "The adapter"), ("alias" = String, Path, description = "The alias")),
    responses(
        (status = 200, description = "The alias where it is now", body = Alias),
        (status = 400, description = "A field breaks its rule, or the name cannot be that of an alias", body = ErrorBody),
        (status = 403, description = "The alias is protected, and you are no admin", body = ErrorBody),
        (status = 404, description = "No such adapter or version", body = ErrorBody),
        (status = 409, description = "The alias is not where you thought, or it is `previous`", body = ErrorBody),
        (status = 410, description = "The version is deleted", body = ErrorBody),
    )
)]
async fn move_alias(
    State(state): State<ApiState>,
    Member(caller): Member,
    Path((name, alias)): Path<(String, String)>,
    Json(request): Json<MoveAliasRequest>,
) -> Result<axum::Json<Alias>, ApiError> {
    let name = name_in_path(adapters::KIND, &name)?;
    let alias = AliasName::parse("alias", &alias)?;
    Ok(axum::Json(
        aliases::set(&state, &caller, &name, &alias, &request).await?,
    ))
}

/// Delete an alias
///
/// Its history stays.
#[utoipa::path(
    delete, path = "/v1/adapters/{name}/aliases/{alias}", tag = "adapters",
    params(
        ("name" = String, Path, description = "The adapter"),
        ("alias" = String, Path, description = "The alias"),
        DeleteAliasQuery,
    ),
    responses(
        (status = 200, description = "Deleted", body = Deleted),
        (status = 403, description = "The alias is protected, and you are no admin", body = ErrorBody),
        (status = 404, description = "No such adapter or alias", body = ErrorBody),
        (status = 409, description = "The alias is not where you thought, or it is `previous`", body = ErrorBody),
    )
)]
async fn delete_alias(
    State(state): State<ApiState>,
    Member(caller): Member,
    Path((name, alias)): Path<(String, String)>,
    Query(query): Query<DeleteAliasQuery>,
) -> Result<axum::Json<Deleted>, ApiError> {
    let (name, alias) = alias_in_path(&name, &alias)?;
    aliases::delete(&state, &caller, &name, &alias, &query).await?;
    Ok(axum::Json(Deleted::new("adapter_alias", alias)))
}

/// List the moves of an alias
#[utoipa::path(
    get, path = "/v1/adapters/{name}/aliases/{alias}/history", tag = "adapters",
    params(
        ("name" = String, Path, description = "The adapter"),
        ("alias" = String, Path, description = "The alias; it may be deleted"),
        PageQuery,
    ),
    responses(
        (status = 200, description = "The moves, newest first", body = List<AliasMove>),
        (status = 404, description = "No such adapter, and never was such an alias", body = ErrorBody),
    )
)]
async fn list_alias_moves(
    State(state): State<ApiState>,
    caller: Caller,
    Path((name, alias)): Path<(String, String)>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<List<AliasMove>>, ApiError> {
    let (name, alias) = alias_in_path(&name, &alias)?;
    Ok(axum::Json(
        aliases::history(&state, &caller.0, &name, Some(&alias), &query).await?,
    ))
}

/// List the moves of all aliases of an adapter
#[utoipa::path(
    get, path = "/v1/adapters/{name}/history", tag = "adapters",
    params(("name" = String, Path, description = "The adapter"), PageQuery),
    responses(
        (status = 200, description = "The moves, newest first", body = List<AliasMove>),
        (status = 404, description = "No such adapter", body = ErrorBody),
    )
)]
async fn list_adapter_history(
    State(state): State<ApiState>,
    caller: Caller,
    Path(name): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<axum::Json<List<AliasMove>>, ApiError> {
    let name = name_in_path(adapters::KIND, &name)?;
    Ok(axum::Json(
        aliases::history(&state, &caller.0, &name, None, &query).await?,
    ))
}
