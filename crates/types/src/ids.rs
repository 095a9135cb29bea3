//! Typed ids, one per resource: `<prefix>_<32 hex digits of a UUIDv7>`.
//!
//! A UUIDv7 begins with its creation time, so ids sort by age. The text form names its kind, so a job id given where
//! a dataset id is expected is refused before any query runs.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text that is not an id of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {kind} id; it has the form {prefix}_ and 32 hexadecimal digits")]
pub struct InvalidId {
    /// What was given.
    pub text: String,
    kind: &'static str,
    prefix: &'static str,
}

macro_rules! typed_ids {
    ($($(#[$doc:meta])* $name:ident, $prefix:literal, $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// What the text form begins with, before the underscore.
            pub const PREFIX: &'static str = $prefix;

            /// A new id with the present time in front.
            #[must_use]
            #[allow(clippy::new_without_default, reason = "an id is made, not defaulted")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// The id of a stored row.
            #[must_use]
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// As stored in a row.
            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, concat!($prefix, "_{}"), self.0.simple())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, formatter)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let invalid = || InvalidId { text: text.chars().take(80).collect(), kind: $kind, prefix: $prefix };
                let digits = text.strip_prefix(concat!($prefix, "_")).ok_or_else(invalid)?;
                let plain = digits.len() == 32 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
                if !plain {
                    return Err(invalid());
                }
                Uuid::try_parse(digits).map(Self).map_err(|_| invalid())
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl utoipa::ToSchema for $name {
            fn name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::schema::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .pattern(Some(concat!("^", $prefix, "_[0-9a-f]{32}$")))
                    .build()
                    .into()
            }
        }
    )*};
}

typed_ids! {
    /// A named LoRA adapter.
    AdapterId, "adp", "an adapter";
    /// One immutable numbered version of an adapter.
    AdapterVersionId, "ver", "an adapter version";
    /// One change of an alias of an adapter.
    AliasMoveId, "mov", "a move of an alias";
    /// A secret of an organization for programs.
    ApiKeyId, "key", "an API key";
    /// A frozen pre-trained model of the catalogue.
    BaseModelId, "base", "a base model";
    /// A roll-out by steps.
    CanaryId, "can", "a canary";
    /// A saved state of a run.
    CheckpointId, "ckpt", "a checkpoint";
    /// An immutable file of examples.
    DatasetId, "ds", "a dataset";
    /// A public model name.
    DeploymentId, "dep", "a deployment";
    /// One immutable state of a deployment.
    DeploymentRevisionId, "rev", "a deployment revision";
    /// Something that happened to a job.
    EventId, "evt", "an event";
    /// An adapter version in another form.
    ExportId, "exp", "an export";
    /// A training job.
    JobId, "job", "a training job";
    /// The tenant.
    OrganizationId, "org", "an organization";
    /// An inference process.
    ReplicaId, "rep", "a replica";
    /// One attempt of a job under one lease.
    RunId, "run", "a run";
    /// A person.
    UserId, "user", "a user";
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn text_form_round_trips_and_names_its_kind() {
        let id = JobId::new();
        assert_eq!(id.to_string().parse::<JobId>().unwrap(), id);
        assert!(id.to_string().parse::<DatasetId>().is_err());
    }

    #[test]
    fn only_the_canonical_text_is_an_id() {
        let id = JobId::new().to_string();
        for wrong in [
            id.to_uppercase(),
            id.replace('_', "-"),
            format!("{id}0"),
            "job_".into(),
            String::new(),
        ] {
            assert!(wrong.parse::<JobId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn later_ids_sort_behind_earlier_ones() {
        let ids: Vec<JobId> = (0..64).map(|_| JobId::new()).collect();
        assert!(ids.is_sorted());
    }
}
