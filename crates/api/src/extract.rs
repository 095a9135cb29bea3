//! Extractors that answer with our error object: JSON bodies, query strings and path ids.

use std::str::FromStr;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Query as AxumQuery, RawPathParams, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use crate::error::ApiError;

/// Most bytes of a JSON body.
pub const JSON_LIMIT: usize = 1 << 20;

/// A JSON body. An empty body counts as `{}`, so that operations without required fields need none.
#[derive(Debug, Clone)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let bytes = read_limited(body).await?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return parse_json(b"{}").map(Self);
        }
        if !is_json(&parts.headers) {
            return Err(ApiError::MediaType {
                expected: "application/json",
            });
        }
        parse_json(&bytes).map(Self)
    }
}

/// All bytes of a JSON body.
///
/// # Errors
/// There are more than [`JSON_LIMIT`], or the connection broke.
pub async fn read_limited(body: Body) -> Result<Bytes, ApiError> {
    match Limited::new(body, JSON_LIMIT).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::TooLarge {
            limit: JSON_LIMIT as u64,
        }),
        Err(_) => Err(ApiError::Invalid {
            code: "body_incomplete",
            param: None,
            message: "The body broke off before its end.".to_owned(),
        }),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    let essence = media_type
        .split(';')
        .next()
        .unwrap_or("")
        .trim()
        .to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // serde would take a list for a struct, its fields in order.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        serde_json::from_slice::<serde::de::IgnoredAny>(bytes).map_err(|error| syntax_error(&error))?;
        let message = "The body must be a JSON object.".to_owned();
        return Err(ApiError::Invalid {
            code: "invalid_parameter",
            param: None,
            message,
        });
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| json_error(&error))?;
    match deserializer.end() {
        Ok(()) => Ok(value),
        Err(error) => Err(syntax_error(&error)),
    }
}

fn json_error(error: &serde_path_to_error::Error<serde_json::Error>) -> ApiError {
    let inner = error.inner();
    if !inner.is_data() {
        return syntax_error(inner);
    }
    let path = error.path().to_string();
    let path = if path == "." { String::new() } else { path };
    let message = inner.to_string();
    // serde_json ends with the place in the text, which says less than the path.
    let reason = message
        .rsplit_once(" at line ")
        .map_or(message.as_str(), |(reason, _)| reason);
    match reason.split('`').nth(1) {
        Some(field) if reason.starts_with("unknown field") => {
            field_error(&path, field, "unknown_parameter", |param| {
                format!("There is no parameter `{param}`.{}", known_fields(reason))
            })
        }
        Some(field) if reason.starts_with("missing field") => {
            field_error(&path, field, "missing_parameter", |param| {
                format!("The parameter `{param}` is missing.")
            })
        }
        _ => ApiError::Invalid {
            code: "invalid_parameter",
            message: match path.as_str() {
                "" => format!("The body is wrong: {reason}."),
                path => format!("`{path}` is wrong: {reason}."),
            },
            param: Some(path).filter(|path| !path.is_empty()),
        },
    }
}

/// An error about `field` inside of the object at `path`, which may already end with the field.
fn field_error(path: &str, field: &str, code: &'static str, message: impl Fn(&str) -> String) -> ApiError {
    let named = path == field || path.ends_with(&format!(".{field}"));
    let param = match path {
        "" => field.to_owned(),
        path if named => path.to_owned(),
        path => format!("{path}.{field}"),
    };
    ApiError::Invalid {
        code,
        message: message(&param),
        param: Some(param),
    }
}

fn known_fields(reason: &str) -> String {
    match reason.split_once("expected ") {
        Some((_, known)) => format!(" Known here: {}.", known.trim_start_matches("one of ")),
        None => String::new(),
    }
}

fn syntax_error(error: &serde_json::Error) -> ApiError {
    ApiError::Invalid {
        code: "invalid_json",
        param: None,
        message: format!("The body is not valid JSON: {error}."),
    }
}

/// A query string.
#[derive(Debug, Clone)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let parsed = AxumQuery::<T>::try_from_uri(&parts.uri);
        let reason = match parsed {
            Ok(AxumQuery(query)) => return Ok(Self(query)),
            Err(rejection) => {
                std::error::Error::source(&rejection).map_or(rejection.to_string(), ToString::to_string)
            }
        };
        let (param, reason) = match reason.split_once(": ") {
            Some((param, reason)) if !param.contains(' ') => (Some(param.to_owned()), reason.to_owned()),
            _ => (None, reason),
        };
        let unknown = reason
            .split('`')
            .nth(1)
            .filter(|_| reason.contains("field `"))
            .map(ToOwned::to_owned);
        Err(ApiError::Invalid {
            code: match reason.split_whitespace().next() {
                Some("unknown") => "unknown_parameter",
                Some("missing") => "missing_parameter",
                _ => "invalid_parameter",
            },
            message: format!("The query string is wrong: {reason}."),
            param: unknown.or(param),
        })
    }
}

/// The path's only parameter, which must be an id or a name of its kind: what is malformed is answered like what is
/// not there.
#[derive(Debug, Clone)]
pub struct PathId<T>(pub T);

/// A kind of thing that a path names.
pub trait Named: FromStr {
    /// What people call it.
    const KIND: &'static str;
}

impl<T: Named, S: Send + Sync> FromRequestParts<S> for PathId<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|_| ApiError::RouteNotFound)?;
        let (_, text) = params
            .iter()
            .next()
            .ok_or(ApiError::Unexpected("the route has no parameter"))?;
        text.parse()
            .map(Self)
            .map_err(|_| ApiError::not_found(T::KIND, text))
    }
}
