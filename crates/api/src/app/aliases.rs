//! Aliases of adapter versions: moved by compare-and-set, protected ones by admins only, each move kept.

use tunesmith_store::alias_history::{self, AliasMove};
use tunesmith_store::aliases::{self, Alias, Expected, Mover, Target};
use tunesmith_store::{StoreError, adapters as stored_adapters};
use tunesmith_types::api::aliases as body;
use tunesmith_types::ids::AliasMoveId;
use tunesmith_types::list::{List, PageQuery};
use tunesmith_types::names::ResourceName;
use tunesmith_types::principal::{Principal, Role};
use tunesmith_types::reason::Reason;
use tunesmith_types::version_reference::AliasName;

use super::adapters::{self, VERSION_KIND};
use crate::error::{ApiError, OrNotFound};
use crate::state::ApiState;

/// What people call it.
pub const KIND: &str = "alias";

/// All aliases of an adapter.
///
/// # Errors
/// The organization has no such adapter.
pub async fn list(
    state: &ApiState,
    caller: &Principal,
    adapter: &ResourceName,
) -> Result<body::Aliases, ApiError> {
    require_adapter(state, caller, adapter).await?;
    let found = aliases::list(&state.store, caller.organization_id, adapter.as_str()).await?;
    Ok(body::Aliases {
        object: "list".to_owned(),
        data: found.into_iter().map(view).collect(),
    })
}

/// One alias.
///
/// # Errors
/// The organization has no such adapter or alias.
pub async fn get(
    state: &ApiState,
    caller: &Principal,
    adapter: &ResourceName,
    alias: &AliasName,
) -> Result<body::Alias, ApiError> {
    let found = aliases::find(&state.store, caller.organization_id, adapter.as_str(), alias).await;
    Ok(view(found.or_not_found(KIND, format!("{adapter}@{alias}"))?))
}

/// Points an alias to a version; a new name makes a new alias.
///
/// # Errors
/// The organization has no such adapter or version, the version is deleted, the alias is elsewhere than expected, it
/// is protected and the caller no admin, or it is `previous`, which follows `champion`.
pub async fn set(
    state: &ApiState,
    caller: &Principal,
    adapter: &ResourceName,
    alias: &AliasName,
    request: &body::MoveAliasRequest,
) -> Result<body::Alias, ApiError> {
    require_adapter(state, caller, adapter).await?;
    let reason = Reason::parse("reason", request.reason.as_deref())?;
    let reference = format!("{adapter}@{}", request.version);
    let version =
        stored_adapters::resolve_reference(&state.store, caller.organization_id, adapter, &request.version)
            .await
            .or_unknown(VERSION_KIND, "version", &reference)?;
    adapters::require_present(&version)?;
    let target = Target {
        version: version.number,
        protected: request.protected,
    };
    let expected = match request.expected_version {
        None => Expected::Anything,
        Some(None) => Expected::Absent,
        Some(Some(number)) => Expected::Version(number),
    };
    let mover = mover(caller, expected, reason.as_ref());
    let moved = aliases::move_alias(
        &state.store,
        caller.organization_id,
        adapter.as_str(),
        alias,
        &target,
        &mover,
    )
    .await
    .or_unknown(VERSION_KIND, "version", &reference)?;
    tracing::info!(%adapter, %alias, version = version.number, "alias moved");
    Ok(view(moved))
}

/// Takes an alias away; its history stays.
///
/// # Errors
/// As for [`set`].
pub async fn delete(
    state: &ApiState,
    caller: &Principal,
    adapter: &ResourceName,
    alias: &AliasName,
    query: &body::DeleteAliasQuery,
) -> Result<(), ApiError> {
    require_adapter(state, caller, adapter).await?;
    let reason = Reason::parse("reason", query.reason.as_deref())?;
    let expected = query
        .expected_version
        .map_or(Expected::Anything, Expected::Version);
    let mover = mover(caller, expected, reason.as_ref());
    aliases::delete(
        &state.store,
        caller.organization_id,
        adapter.as_str(),
        alias,
        &mover,
    )
    .await
    .or_not_found(KIND, format!("{adapter}@{alias}"))?;
    tracing::info!(%adapter, %alias, "alias deleted");
    Ok(())
}

/// The moves of one alias, or of all aliases of an adapter, newest first; those of deleted aliases too.
///
/// # Errors
/// The organization has no such adapter, the alias never was, or the page request is wrong.
pub async fn history(
    state: &ApiState,
    caller: &Principal,
    adapter: &ResourceName,
    alias: Option<&AliasName>,
    query: &PageQuery,
) -> Result<List<body::AliasMove>, ApiError> {
    let page = query.parse::<AliasMoveId>()?;
    require_adapter(state, caller, adapter).await?;
    let organization = caller.organization_id;
    let rows = alias_history::history(&state.store, organization, adapter.as_str(), alias, &page).await?;
    if let (Some(alias), true, None) = (alias, rows.rows.is_empty(), page.after) {
        return Err(ApiError::not_found(KIND, format!("{adapter}@{alias}")));
    }
    let data = rows.rows.into_iter().map(move_view).collect();
    Ok(List::new(data, rows.has_more, |row: &body::AliasMove| {
        row.id.to_string()
    }))
}

async fn require_adapter(
    state: &ApiState,
    caller: &Principal,
    adapter: &ResourceName,
) -> Result<(), ApiError> {
    let found: Result<_, StoreError> =
        stored_adapters::find(&state.store, caller.organization_id, adapter.as_str()).await;
    found.or_not_found(adapters::KIND, adapter).map(drop)
}

fn mover<'a>(caller: &Principal, expected: Expected, reason: Option<&'a Reason>) -> Mover<'a> {
    Mover {
        expected,
        user: caller.user_id,
        may_change_protected: caller.role >= Role::Admin,
        reason: reason.map(Reason::as_str),
    }
}

fn view(alias: Alias) -> body::Alias {
    body::Alias {
        object: "adapter_alias".to_owned(),
        name: alias.name,
        reference: format!("{}@{}", alias.adapter, alias.version),
        adapter: alias.adapter.to_string(),
        version: alias.version,
        adapter_version_id: alias.version_id,
        digest: alias.digest.to_string(),
        protected: alias.protected,
        moved_by: alias.moved_by,
        moved_at: alias.moved_at.timestamp(),
    }
}

fn move_view(row: AliasMove) -> body::AliasMove {
    body::AliasMove {
        id: row.id,
        object: "alias_move".to_owned(),
        alias: row.alias,
        from_version: row.from,
        to_version: row.to,
        protected: row.protected,
        moved_by: row.moved_by,
        reason: row.reason,
        moved_at: row.moved_at.timestamp(),
    }
}
