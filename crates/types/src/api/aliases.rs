//! Aliases of adapter versions and their history.

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::ids::{AdapterVersionId, AliasMoveId, UserId};
use crate::version_reference::{AliasName, VersionReference};

/// A name that points to one version of an adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Alias {
    /// Always `adapter_alias`.
    #[schema(example = "adapter_alias")]
    pub object: String,
    /// Name of the alias.
    pub name: AliasName,
    /// Name of the adapter.
    pub adapter: String,
    /// Number of the version that it points to.
    pub version: i32,
    /// `name@number` of that version.
    #[schema(example = "support@7")]
    pub reference: String,
    /// Id of that version.
    pub adapter_version_id: AdapterVersionId,
    /// Digest of that version.
    pub digest: String,
    /// Only admins and owners move, delete or unprotect it.
    pub protected: bool,
    /// Who moved it last.
    pub moved_by: Option<UserId>,
    /// When it was moved last.
    pub moved_at: i64,
}

/// Where an alias shall point to.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveAliasRequest {
    /// Version of the adapter: a number, another alias, or `latest`.
    pub version: VersionReference,
    /// Number of the version that it points to now, or null where it must not exist yet: where that is not so, nothing
    /// changes. Absent, it is moved from wherever it is.
    #[serde(
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<i32>)]
    pub expected_version: Option<Option<i32>>,
    /// Why, for whoever comes after you; at most 1000 characters.
    pub reason: Option<String>,
    /// Whether only admins and owners may change it from now on; absent leaves that as it is.
    pub protected: Option<bool>,
}

/// Tells null from absent.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<i32>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Query of the deletion of an alias.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeleteAliasQuery {
    /// Number of the version that it points to now: where that is not so, nothing changes.
    pub expected_version: Option<i32>,
    /// Why, for whoever comes after you; at most 1000 characters.
    pub reason: Option<String>,
}

/// One change of an alias. It stays for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AliasMove {
    /// Id.
    pub id: AliasMoveId,
    /// Always `alias_move`.
    #[schema(example = "alias_move")]
    pub object: String,
    /// Name of the alias.
    pub alias: AliasName,
    /// Number of the version before; null where the alias was new.
    pub from_version: Option<i32>,
    /// Number of the version after; null where the alias was deleted.
    pub to_version: Option<i32>,
    /// Whether it was protected afterwards.
    pub protected: bool,
    /// Who moved it.
    pub moved_by: Option<UserId>,
    /// Why.
    pub reason: Option<String>,
    /// When.
    pub moved_at: i64,
}

/// All aliases of an adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Aliases {
    /// Always `list`.
    #[schema(example = "list")]
    pub object: String,
    /// The aliases, by name.
    pub data: Vec<Alias>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn null_is_not_absent() {
        let expected = |text: &str| {
            serde_json::from_str::<MoveAliasRequest>(text)
                .unwrap()
                .expected_version
        };
        assert_eq!(expected(r#"{"version": 2}"#), None);
        assert_eq!(
            expected(r#"{"version": 2, "expected_version": null}"#),
            Some(None)
        );
        assert_eq!(
            expected(r#"{"version": "latest", "expected_version": 1}"#),
            Some(Some(1))
        );
    }
}
