//! What is wrong with a line, and JSON values that never fail to parse: the type is kept and judged afterwards, so
//! that one line can report all its errors.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// One thing that is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Path of the field (`messages[2].role`); none where the line as a whole is at fault.
    pub field: Option<String>,
    /// A stable code (`unknown_role`).
    pub code: &'static str,
    /// A sentence: what is wrong and how to mend it.
    pub message: String,
}

impl Problem {
    /// A problem of the field at `path`.
    pub(crate) fn field(path: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            field: Some(path.into()),
            code,
            message: message.into(),
        }
    }

    /// A problem of the whole line.
    pub(crate) fn line(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            field: None,
            code,
            message: message.into(),
        }
    }
}

/// A JSON value of which only strings and numbers are kept; of the rest, only the type.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Loose {
    Null,
    Bool,
    Number(f64),
    Text(String),
    Array,
    Object,
}

impl Loose {
    /// The JSON type, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "a string",
            Self::Array => "an array",
            Self::Object => "an object",
        }
    }

    /// The string, or a problem at `path`.
    pub(crate) fn text(self, path: &str, problems: &mut Vec<Problem>) -> Option<String> {
        match self {
            Self::Text(text) => Some(text),
            other => {
                problems.push(Problem::field(
                    path,
                    "wrong_type",
                    format!("`{path}` must be a string, but it is {}.", other.kind()),
                ));
                None
            }
        }
    }
}

struct LooseVisitor;

impl<'de> Visitor<'de> for LooseVisitor {
    type Value = Loose;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON value")
    }
    fn visit_unit<E>(self) -> Result<Loose, E> {
        Ok(Loose::Null)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Loose, E> {
        Ok(Loose::Bool)
    }
    fn visit_i64<E>(self, value: i64) -> Result<Loose, E> {
        Ok(Loose::Number(value as f64))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Loose, E> {
        Ok(Loose::Number(value as f64))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Loose, E> {
        Ok(Loose::Number(value))
    }
    fn visit_str<E>(self, value: &str) -> Result<Loose, E> {
        Ok(Loose::Text(value.to_owned()))
    }
    fn visit_string<E>(self, value: String) -> Result<Loose, E> {
        Ok(Loose::Text(value))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Loose, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Loose::Array)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Loose, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Loose::Object)
    }
}

impl<'de> Deserialize<'de> for Loose {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LooseVisitor)
    }
}

/// Puts `value` into `slot`, or notes that the key came twice.
pub(crate) fn fill<T>(slot: &mut Option<T>, value: T, path: &str, problems: &mut Vec<Problem>) {
    if slot.replace(value).is_some() {
        problems.push(Problem::field(
            path,
            "duplicate_field",
            format!("`{path}` is given more than once; keep one."),
        ));
    }
}

/// At most 64 characters of a text, for messages.
pub(crate) fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(64).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
