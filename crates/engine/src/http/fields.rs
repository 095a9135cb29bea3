//! Reading a request's fields: unknown ones are ignored, null is absence, and a wrong one is refused by its name.

use std::ops::RangeInclusive;

use axum::{
    body::Bytes,
    extract::{FromRequest, Request, rejection::BytesRejection},
    http::{StatusCode, header::CONTENT_TYPE},
};
use serde_json::{Map, Value};

use super::{MAX_BODY_BYTES, error::ApiError};

/// The JSON object of a request.
#[derive(Debug, Clone)]
pub(super) struct Fields(Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for Fields {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let declared = request
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let essence = declared
            .unwrap_or_default()
            .split(';')
            .next()
            .unwrap_or_default()
            .trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            return Err(ApiError::not_json());
        }
        let body = Bytes::from_request(request, state)
            .await
            .map_err(|error| unread(&error))?;
        Self::parse(&body)
    }
}

fn unread(error: &BytesRejection) -> ApiError {
    match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_large(MAX_BODY_BYTES),
        _ => ApiError::unreadable("The body could not be read."),
    }
}

impl Fields {
    /// Reads a JSON object.
    ///
    /// # Errors
    /// The text is not JSON, or not an object.
    pub(super) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(ApiError::unreadable("The body must be a JSON object.")),
            Err(error) => Err(ApiError::unreadable(format!(
                "The body is not valid JSON: {error}."
            ))),
        }
    }

    /// A field that is there and not null.
    #[must_use]
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A field that must be there.
    ///
    /// # Errors
    /// It is absent.
    pub(super) fn required(&self, name: &str) -> Result<&Value, ApiError> {
        self.get(name)
            .ok_or_else(|| ApiError::invalid(name, format!("`{name}` is required.")))
    }

    /// A text that is not empty.
    ///
    /// # Errors
    /// It is absent, empty or no text.
    pub(super) fn required_text(&self, name: &str) -> Result<&str, ApiError> {
        match self.required(name)?.as_str() {
            Some(text) if !text.is_empty() => Ok(text),
            _ => Err(ApiError::invalid(
                name,
                format!("`{name}` must be a text that is not empty."),
            )),
        }
    }

    /// A number within bounds.
    ///
    /// # Errors
    /// It is no number, or outside.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "sampling parameters need no more than float32"
    )]
    pub(super) fn number(&self, name: &str, bounds: RangeInclusive<f64>) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(number) if bounds.contains(&number) => Ok(Some(number as f32)),
            _ => {
                let (low, high) = (bounds.start(), bounds.end());
                Err(ApiError::invalid(
                    name,
                    format!("`{name}` must be a number from {low} to {high}, not {value}."),
                ))
            }
        }
    }

    /// A whole number within bounds.
    ///
    /// # Errors
    /// It is no whole number, or outside.
    pub(super) fn integer(&self, name: &str, bounds: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match value.as_i64() {
            Some(number) if bounds.contains(&number) => Ok(Some(number)),
            _ if *bounds.end() == i64::MAX => {
                let low = bounds.start();
                Err(ApiError::invalid(
                    name,
                    format!("`{name}` must be a whole number of at least {low}, not {value}."),
                ))
            }
            _ => {
                let (low, high) = (bounds.start(), bounds.end());
                let message = format!("`{name}` must be a whole number from {low} to {high}, not {value}.");
                Err(ApiError::invalid(name, message))
            }
        }
    }

    /// A count: a whole number from `least` on.
    ///
    /// # Errors
    /// As [`Self::integer`].
    pub(super) fn count(&self, name: &str, least: i64) -> Result<Option<usize>, ApiError> {
        let number = self.integer(name, least..=i64::MAX)?;
        Ok(number.map(|number| usize::try_from(number).unwrap_or(usize::MAX)))
    }

    /// True or false; false where it is absent, unless `default` says otherwise.
    ///
    /// # Errors
    /// It is neither.
    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool, ApiError> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(ApiError::invalid(
                name,
                format!("`{name}` must be true or false."),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn fields(json: &str) -> Fields {
        Fields::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn null_is_absence() {
        let fields = fields(r#"{"seed": null, "stream": null}"#);
        assert_eq!(fields.integer("seed", 0..=9).unwrap(), None);
        assert!(!fields.flag("stream", false).unwrap());
        assert!(fields.required("seed").is_err());
    }

    #[test]
    fn wrong_fields_are_named() {
        let fields = fields(r#"{"t": "warm", "n": 1.5, "m": 0, "s": 3, "f": 1}"#);
        let errors = [
            ("t", fields.number("t", 0.0..=2.0).unwrap_err()),
            ("n", fields.integer("n", 0..=9).unwrap_err()),
            ("m", fields.count("m", 1).unwrap_err()),
            ("s", fields.required_text("s").unwrap_err()),
            ("f", fields.flag("f", false).unwrap_err()),
        ];
        for (name, error) in errors {
            assert_eq!(error.body().error.param.as_deref(), Some(name));
            assert!(error.body().error.message.contains(&format!("`{name}`")));
        }
    }

    #[test]
    fn bodies_that_are_no_objects_are_refused() {
        for body in ["", "[]", "{", "3", "\u{0}"] {
            assert!(Fields::parse(body.as_bytes()).is_err(), "{body:?}");
        }
    }
}
