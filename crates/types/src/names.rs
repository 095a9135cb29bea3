//! Names that people choose, and the digest that machines choose.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::error::ParameterError;

/// Most characters of a [`ResourceName`].
pub const MAX_NAME_LENGTH: usize = 64;

/// A name of a dataset, adapter, deployment or base model: 1 to 64 of `a-z 0-9 . _ -`, beginning and ending with a
/// letter or digit, and without `--`, which separates an adapter's name from its version inside replicas.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ResourceName(String);

impl ResourceName {
    /// Parses the value of the field `param`.
    ///
    /// # Errors
    /// The rule above is broken; the message states it.
    pub fn parse(param: &str, text: &str) -> Result<Self, ParameterError> {
        text.parse().map_err(|NameError| {
            ParameterError::new(
                param,
                format!(
                    "`{param}` must be 1 to {MAX_NAME_LENGTH} characters of a-z, 0-9, '.', '_' and '-', begin and end with a letter or digit, and not contain '--'."
                ),
            )
        })
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text breaks the rule of [`ResourceName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a name is 1 to 64 characters of a-z, 0-9, '.', '_' and '-', begins and ends with a letter or digit, and has no '--'"
)]
pub struct NameError;

impl FromStr for ResourceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let edge = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let bytes = text.as_bytes();
        let allowed = bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'));
        let valid = allowed
            && bytes.len() <= MAX_NAME_LENGTH
            && edge(bytes.first())
            && edge(bytes.last())
            && !text.contains("--")
            && !text.contains("..");
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError)
        }
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for ResourceName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A sha256, as 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Sha256Digest(String);

impl Sha256Digest {
    /// The 64 digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 8 digits, as in the name under which a replica loads a version.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..8]
    }
}

/// The text is no sha256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sha256 is 64 lower-case hexadecimal digits")]
pub struct DigestError;

impl FromStr for Sha256Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let valid = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(DigestError)
        }
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for Sha256Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// The name under which replicas load a version; it is never given to other bytes.
#[must_use]
pub fn engine_adapter_name(adapter: &ResourceName, number: i32, digest: &Sha256Digest) -> String {
    format!("{adapter}--v{number}-{}", digest.short())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule() {
        for good in ["a", "support", "qwen2.5-0.5b", "a_b", &"x".repeat(64)] {
            assert!(good.parse::<ResourceName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "A",
            "a--b",
            "-a",
            "a-",
            "a/b",
            "..",
            "a..b",
            "ä",
            "a b",
            "a\0",
            &"x".repeat(65),
        ] {
            assert!(bad.parse::<ResourceName>().is_err(), "{bad}");
        }
    }
}
