//! Reading the fields of a body: null is absence, and a wrong one is refused by its name.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::GatewayError;

/// An error about the field `param`.
pub(super) fn invalid(param: &str, message: impl Into<String>) -> GatewayError {
    GatewayError::Invalid {
        param: Some(param.to_owned()),
        message: message.into(),
    }
}

/// A value as it may be shown: not more of it than helps.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 40 {
        return text;
    }
    format!("{}…", text.chars().take(40).collect::<String>())
}

/// The object of a body, or one inside it whose fields are named after `path`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a> {
    map: &'a Map<String, Value>,
    path: &'a str,
}

impl<'a> Fields<'a> {
    /// The fields of the body itself.
    pub(super) fn new(map: &'a Map<String, Value>) -> Self {
        Self { map, path: "" }
    }

    /// The fields of the object `value`, which is at `path`.
    pub(super) fn inside(value: &'a Value, path: &'a str) -> Result<Self, GatewayError> {
        match value.as_object() {
            Some(map) => Ok(Self { map, path }),
            None => Err(invalid(
                path,
                format!("`{path}` must be an object, not {}.", shown(value)),
            )),
        }
    }

    /// Path of one of the fields.
    pub(super) fn path(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    /// A field that is there and not null.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// A field that must be there.
    pub(super) fn required(&self, name: &str) -> Result<&'a Value, GatewayError> {
        self.get(name).ok_or_else(|| {
            let path = self.path(name);
            invalid(&path, format!("`{path}` is required."))
        })
    }

    fn wrong(&self, name: &str, wanted: &str, value: &Value) -> GatewayError {
        let path = self.path(name);
        invalid(&path, format!("`{path}` must be {wanted}, not {}.", shown(value)))
    }

    /// A whole number within bounds.
    pub(super) fn integer(
        &self,
        name: &str,
        bounds: RangeInclusive<i64>,
    ) -> Result<Option<i64>, GatewayError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match value.as_i64() {
            Some(number) if bounds.contains(&number) => Ok(Some(number)),
            _ => {
                let (low, high) = (*bounds.start(), *bounds.end());
                let wanted = match (low, high) {
                    (i64::MIN, i64::MAX) => "a whole number of 64 bits".to_owned(),
                    (_, i64::MAX) => format!("a whole number of at least {low}"),
                    _ => format!("a whole number from {low} to {high}"),
                };
                Err(self.wrong(name, &wanted, value))
            }
        }
    }

    /// A number that `allowed` takes; `wanted` says which it does.
    pub(super) fn number(
        &self,
        name: &str,
        wanted: &str,
        allowed: impl Fn(f64) -> bool,
    ) -> Result<(), GatewayError> {
        match self.get(name) {
            None => Ok(()),
            Some(value) => match value.as_f64() {
                Some(number) if allowed(number) => Ok(()),
                _ => Err(self.wrong(name, wanted, value)),
            },
        }
    }

    /// True or false.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, GatewayError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(value) => Err(self.wrong(name, "true or false", value)),
        }
    }

    /// A text.
    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>, GatewayError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value) => Err(self.wrong(name, "a text", value)),
        }
    }

    /// A text that must be there and not be empty.
    pub(super) fn required_text(&self, name: &str) -> Result<&'a str, GatewayError> {
        let value = self.required(name)?;
        match value.as_str() {
            Some(text) if !text.is_empty() => Ok(text),
            _ => Err(self.wrong(name, "a text that is not empty", value)),
        }
    }

    /// A list.
    pub(super) fn list(&self, name: &str) -> Result<Option<&'a [Value]>, GatewayError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(value) => Err(self.wrong(name, "a list", value)),
        }
    }

    /// An object.
    pub(super) fn object(&self, name: &str) -> Result<Option<&'a Map<String, Value>>, GatewayError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(value) => Err(self.wrong(name, "an object", value)),
        }
    }
}

/// Whether a value is a list of token ids.
pub(super) fn is_token_ids(value: &Value) -> bool {
    let is_id = |id: &Value| id.as_u64().is_some_and(|id| u32::try_from(id).is_ok());
    value.as_array().is_some_and(|ids| ids.iter().all(is_id))
}
