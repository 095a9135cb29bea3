//! How people say which version of an adapter they mean: by number, by alias, or the latest.

use std::{borrow::Cow, fmt, str::FromStr};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Error as _, Visitor},
};
use utoipa::openapi::{
    RefOr,
    schema::{ObjectBuilder, OneOfBuilder, Schema, Type},
};

use crate::{error::ParameterError, names::ResourceName};

/// The version that serves; whoever it points to is what an adapter means by default.
pub const CHAMPION: &str = "champion";
/// The version that the champion replaced; it follows the champion by itself.
pub const PREVIOUS: &str = "previous";
/// The newest version; it is computed, so no alias may have this name.
pub const LATEST: &str = "latest";

/// A name that points to one version of an adapter: as a [`ResourceName`], but with a character that is no digit, and
/// not `latest`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct AliasName(String);

/// The text breaks the rule of [`AliasName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "an alias is 1 to 64 characters of a-z, 0-9, '.', '_' and '-', begins and ends with a letter or digit, has no '--', is not a number and not 'latest'"
)]
pub struct AliasNameError;

impl AliasName {
    /// Parses the value of the field `param`.
    ///
    /// # Errors
    /// The rule above is broken; the message states it.
    pub fn parse(param: &str, text: &str) -> Result<Self, ParameterError> {
        text.parse().map_err(|error: AliasNameError| {
            ParameterError::new(param, format!("`{param}` is no alias: {error}."))
        })
    }

    /// `champion`.
    #[must_use]
    pub fn champion() -> Self {
        Self(CHAMPION.to_owned())
    }

    /// `previous`.
    #[must_use]
    pub fn previous() -> Self {
        Self(PREVIOUS.to_owned())
    }

    /// Whether it is `champion`, which `previous` follows.
    #[must_use]
    pub fn is_champion(&self) -> bool {
        self.0 == CHAMPION
    }

    /// Whether it is `previous`, which nobody moves by hand.
    #[must_use]
    pub fn is_previous(&self) -> bool {
        self.0 == PREVIOUS
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AliasName {
    type Err = AliasNameError;

    fn from_str(text: &str) -> Result<Self, AliasNameError> {
        let name: ResourceName = text.parse().map_err(|_| AliasNameError)?;
        let number = text.bytes().all(|byte| byte.is_ascii_digit());
        if number || text == LATEST {
            return Err(AliasNameError);
        }
        Ok(Self(name.as_str().to_owned()))
    }
}

impl fmt::Display for AliasName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for AliasName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

impl utoipa::ToSchema for AliasName {
    fn name() -> Cow<'static, str> {
        "AliasName".into()
    }
}

impl utoipa::PartialSchema for AliasName {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some("^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$"))
            .examples(["champion"])
            .build()
            .into()
    }
}

/// Which version of an adapter: what stands behind the `@` of `support@7`, `support@champion` or `support@latest`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum VersionReference {
    /// This very version; from 1.
    Number(i32),
    /// The one that the alias points to now.
    Alias(AliasName),
    /// The newest that is not deleted.
    Latest,
}

/// The text names no version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a version is a number from 1, an alias such as 'champion', or 'latest'")]
pub struct VersionReferenceError;

impl FromStr for VersionReference {
    type Err = VersionReferenceError;

    fn from_str(text: &str) -> Result<Self, VersionReferenceError> {
        if text == LATEST {
            return Ok(Self::Latest);
        }
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return match text.parse() {
                Ok(number) if number > 0 => Ok(Self::Number(number)),
                _ => Err(VersionReferenceError),
            };
        }
        text.parse().map(Self::Alias).map_err(|_| VersionReferenceError)
    }
}

impl fmt::Display for VersionReference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(formatter, "{number}"),
            Self::Alias(alias) => formatter.pad(alias.as_str()),
            Self::Latest => formatter.pad(LATEST),
        }
    }
}

/// A number for a number, otherwise a text.
impl Serialize for VersionReference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => serializer.serialize_i32(*number),
            Self::Alias(alias) => serializer.serialize_str(alias.as_str()),
            Self::Latest => serializer.serialize_str(LATEST),
        }
    }
}

/// Takes a number or a text. A field that is missing stays a missing field, which an untagged enum would hide.
struct VersionReferenceVisitor;

impl Visitor<'_> for VersionReferenceVisitor {
    type Value = VersionReference;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{VersionReferenceError}")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<VersionReference, E> {
        number.to_string().parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<VersionReference, E> {
        number.to_string().parse().map_err(E::custom)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<VersionReference, E> {
        text.parse().map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for VersionReference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(VersionReferenceVisitor)
    }
}

impl utoipa::ToSchema for VersionReference {
    fn name() -> Cow<'static, str> {
        "VersionReference".into()
    }
}

impl utoipa::PartialSchema for VersionReference {
    fn schema() -> RefOr<Schema> {
        let number = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(1))
            .description(Some("This very version"));
        let text = ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("A number, an alias such as `champion`, or `latest`"));
        RefOr::T(Schema::OneOf(OneOfBuilder::new().item(number).item(text).build()))
    }
}

/// An adapter with one of its versions, in the form `support@7`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AdapterReference {
    /// Name of the adapter.
    pub adapter: ResourceName,
    /// Which of its versions.
    pub version: VersionReference,
}

/// The text names no version of an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a version of an adapter has the form 'name@7', 'name@champion' or 'name@latest'")]
pub struct AdapterReferenceError;

impl FromStr for AdapterReference {
    type Err = AdapterReferenceError;

    fn from_str(text: &str) -> Result<Self, AdapterReferenceError> {
        let (adapter, version) = text.split_once('@').ok_or(AdapterReferenceError)?;
        Ok(Self {
            adapter: adapter.parse().map_err(|_| AdapterReferenceError)?,
            version: version.parse().map_err(|_| AdapterReferenceError)?,
        })
    }
}

impl fmt::Display for AdapterReference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}@{}", self.adapter, self.version)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn references_round_trip() {
        for text in ["support@7", "support@champion", "a.b-c@latest", "x@2024-q1"] {
            let reference: AdapterReference = text.parse().unwrap();
            assert_eq!(reference.to_string(), text);
        }
        let json = r#"[7,"7","champion","latest"]"#;
        let references: Vec<VersionReference> = serde_json::from_str(json).unwrap();
        assert_eq!(references[0], VersionReference::Number(7));
        assert_eq!(references[1], VersionReference::Number(7));
        assert_eq!(
            serde_json::to_string(&references).unwrap(),
            r#"[7,7,"champion","latest"]"#
        );
    }

    #[test]
    fn what_could_be_taken_for_something_else_is_no_alias() {
        for bad in [
            "",
            "7",
            "latest",
            "Champion",
            "a--b",
            "a@b",
            "-a",
            &"x".repeat(65),
        ] {
            assert!(bad.parse::<AliasName>().is_err(), "{bad}");
        }
        for bad in [
            "support",
            "support@",
            "support@0",
            "support@99999999999",
            "@7",
            "a@b@c",
        ] {
            assert!(bad.parse::<AdapterReference>().is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<VersionReference>("-1").is_err());
        assert!(serde_json::from_str::<VersionReference>("1.5").is_err());
    }
}
