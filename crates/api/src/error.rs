//! Every way in which a request can fail, and the one place where that becomes a status and an error object.
//!
//! Callers of the API get what they can act on. What went wrong inside goes to the log, under the request's id.

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tunesmith_blobs::BlobError;
use tunesmith_store::StoreError;
use tunesmith_types::error::{ErrorBody, ErrorKind, ParameterError};
use tunesmith_types::principal::Role;

use crate::auth::{PasswordError, TokenError};

/// Tells OpenAI's clients whether to send the request again.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Why a request has no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// A field or query parameter is wrong.
    #[error("invalid parameter `{}`: {}", .0.param, .0.message)]
    Parameter(#[from] ParameterError),
    /// The request as a whole is wrong.
    #[error("invalid request ({code}): {message}")]
    Invalid {
        /// Stable code.
        code: &'static str,
        /// The field at fault, where there is one.
        param: Option<String>,
        /// A sentence.
        message: String,
    },
    /// The body is of another kind than the operation takes.
    #[error("unsupported media type")]
    MediaType {
        /// What it takes.
        expected: &'static str,
    },
    /// The body is larger than the operation takes.
    #[error("the body has more than {limit} bytes")]
    TooLarge {
        /// Most bytes.
        limit: u64,
    },
    /// No credentials, or none that count.
    #[error("not authenticated: {0}")]
    Unauthenticated(&'static str),
    /// A known caller whose role is too small.
    #[error("the caller's role is below {needed:?}")]
    Forbidden {
        /// The least role.
        needed: Role,
    },
    /// A known caller whose role is too small for this very thing.
    #[error("refused ({code}): {message}")]
    Refused {
        /// Stable code.
        code: &'static str,
        /// The field at fault, where there is one.
        param: Option<&'static str>,
        /// A sentence.
        message: String,
    },
    /// It was there, and will not be again.
    #[error("gone ({code}): {message}")]
    Gone {
        /// Stable code.
        code: &'static str,
        /// A sentence.
        message: String,
    },
    /// There is no such thing, or it belongs to another organization.
    #[error("no such {kind}: {name}")]
    NotFound {
        /// What kind of thing, as people call it.
        kind: &'static str,
        /// Its id or name as the caller gave it.
        name: String,
        /// The body's field that named it; absent where the path did.
        param: Option<&'static str>,
    },
    /// No operation has this path.
    #[error("no such route")]
    RouteNotFound,
    /// The path knows no such method.
    #[error("method not allowed")]
    MethodNotAllowed,
    /// The state of things forbids it; the same request will fail again.
    #[error("conflict ({code}): {message}")]
    Conflict {
        /// Stable code.
        code: &'static str,
        /// The field at fault, where there is one.
        param: Option<&'static str>,
        /// A sentence.
        message: String,
    },
    /// The first request with this idempotency key is still being answered.
    #[error("a request with the same idempotency key is in flight")]
    InFlight,
    /// The idempotency key was used for another request.
    #[error("the idempotency key was used for another request")]
    IdempotencyMismatch,
    /// As much of it is under way as there may be.
    #[error("busy ({code}): {message}")]
    Busy {
        /// Stable code.
        code: &'static str,
        /// A sentence.
        message: String,
        /// Seconds after which it is worth asking again.
        retry_after: u64,
    },
    /// Too many attempts.
    #[error("too many attempts")]
    RateLimited {
        /// Seconds until the next is allowed.
        retry_after: u64,
    },
    /// Passwords could not be hashed.
    #[error("passwords")]
    Password(#[from] PasswordError),
    /// A token could not be signed.
    #[error("access token")]
    Token(#[source] TokenError),
    /// The database failed.
    #[error("store")]
    Store(#[source] StoreError),
    /// The object store failed.
    #[error("blobs")]
    Blob(#[from] BlobError),
    /// Something that should not happen.
    #[error("unexpected: {0}")]
    Unexpected(&'static str),
}

impl ApiError {
    /// A field or query parameter is wrong; the message is a sentence.
    pub fn parameter(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Parameter(ParameterError::new(param, message))
    }

    /// The path names nothing that the caller can see.
    pub fn not_found(kind: &'static str, name: impl ToString) -> Self {
        Self::NotFound {
            kind,
            name: name.to_string(),
            param: None,
        }
    }

    /// The body's field `param` names nothing that the caller can see.
    pub fn unknown(kind: &'static str, param: &'static str, name: impl ToString) -> Self {
        Self::NotFound {
            kind,
            name: name.to_string(),
            param: Some(param),
        }
    }

    /// The state of things forbids it.
    pub fn conflict(code: &'static str, message: impl Into<String>) -> Self {
        Self::Conflict {
            code,
            param: None,
            message: message.into(),
        }
    }

    /// The status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Parameter(_) | Self::Invalid { .. } => StatusCode::BAD_REQUEST,
            Self::MediaType { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden { .. } | Self::Refused { .. } => StatusCode::FORBIDDEN,
            Self::Gone { .. } => StatusCode::GONE,
            Self::NotFound { .. } | Self::RouteNotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict { .. } | Self::InFlight => StatusCode::CONFLICT,
            Self::IdempotencyMismatch => StatusCode::UNPROCESSABLE_ENTITY,
            Self::RateLimited { .. } | Self::Busy { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Password(PasswordError::Busy) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Blob(BlobError::Request { .. }) | Self::Store(StoreError::Unavailable(_)) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Password(_) | Self::Token(_) | Self::Store(_) | Self::Blob(_) | Self::Unexpected(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }

    /// The error object of the answer.
    #[must_use]
    pub fn body(&self) -> ErrorBody {
        use ErrorKind::{
            AuthenticationError, InvalidRequestError, PermissionError, RateLimitError, ServerError,
        };
        let invalid = |code: &str, param: Option<&str>, message: String| {
            ErrorBody::new(InvalidRequestError, code, param, message)
        };
        match self {
            Self::Parameter(error) => invalid("invalid_parameter", Some(&error.param), error.message.clone()),
            Self::Invalid { code, param, message } => invalid(code, param.as_deref(), message.clone()),
            Self::MediaType { expected } => {
                let message =
                    format!("This operation takes a body of type {expected}; set the `content-type` header.");
                invalid("unsupported_media_type", None, message)
            }
            Self::TooLarge { limit } => invalid(
                "body_too_large",
                None,
                format!("The body may have at most {limit} bytes."),
            ),
            Self::Unauthenticated(message) => {
                ErrorBody::new(AuthenticationError, "invalid_credentials", None, *message)
            }
            Self::Forbidden { needed } => {
                let message = format!(
                    "This needs the role `{}` or a higher one in your organization.",
                    needed.as_str()
                );
                ErrorBody::new(PermissionError, "insufficient_role", None, message)
            }
            Self::Refused { code, param, message } => {
                ErrorBody::new(PermissionError, code, *param, message.as_str())
            }
            Self::Gone { code, message } => invalid(code, None, message.clone()),
            Self::NotFound { kind, name, param } => {
                let code = format!("{}_not_found", kind.replace(' ', "_").to_ascii_lowercase());
                let shown: String = name.chars().take(120).collect();
                let named = if shown.is_empty() {
                    "such ".to_owned()
                } else {
                    String::new()
                };
                let quoted = if shown.is_empty() {
                    String::new()
                } else {
                    format!(" `{shown}`")
                };
                invalid(
                    &code,
                    *param,
                    format!("There is no {named}{kind}{quoted} in your organization."),
                )
            }
            Self::RouteNotFound => {
                let message = "There is nothing at this address. `/docs` lists all operations.";
                invalid("route_not_found", None, message.to_owned())
            }
            Self::MethodNotAllowed => {
                let message = "This address knows no such method. `/docs` lists all operations.";
                invalid("method_not_allowed", None, message.to_owned())
            }
            Self::Conflict { code, param, message } => invalid(code, *param, message.clone()),
            Self::InFlight => {
                let message = "The first request with this Idempotency-Key is still being answered. Ask again in a moment.";
                invalid("idempotency_key_in_flight", None, message.to_owned())
            }
            Self::IdempotencyMismatch => {
                let message =
                    "This Idempotency-Key was used for another request. Use a new key for each new request.";
                invalid("idempotency_key_reused", None, message.to_owned())
            }
            Self::Busy { code, message, .. } => ErrorBody::new(RateLimitError, code, None, message.clone()),
            Self::RateLimited { retry_after } => {
                let message = format!("Too many attempts. Try again in {retry_after} seconds.");
                ErrorBody::new(RateLimitError, "too_many_attempts", None, message)
            }
            Self::Password(PasswordError::Busy) => {
                let message = "Too many people log in at this moment. Try again in some seconds.";
                ErrorBody::new(ServerError, "overloaded", None, message)
            }
            Self::Store(StoreError::Unavailable(_)) => {
                let message = "The database does not answer. Try again in some seconds.";
                ErrorBody::new(ServerError, "database_unavailable", None, message)
            }
            Self::Blob(BlobError::Request { .. }) => {
                let message = "The object store does not answer. Try again in some seconds.";
                ErrorBody::new(ServerError, "storage_unavailable", None, message)
            }
            Self::Password(_) | Self::Token(_) | Self::Store(_) | Self::Blob(_) | Self::Unexpected(_) => {
                let message =
                    "Something failed on our side. Try again; if it persists, report the x-request-id.";
                ErrorBody::new(ServerError, "internal_error", None, message)
            }
        }
    }

    fn headers(&self, response: &mut Response) {
        let headers = response.headers_mut();
        match self {
            Self::Conflict { .. } => {
                headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
            }
            Self::InFlight => {
                headers.insert(SHOULD_RETRY, HeaderValue::from_static("true"));
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Self::RateLimited { retry_after } | Self::Busy { retry_after, .. } => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(*retry_after));
            }
            Self::Unauthenticated(_) => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ if self.status() == StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
            }
            _ => {}
        }
    }
}

/// What the store says becomes what the caller may know.
impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound(kind) => Self::NotFound {
                kind,
                name: String::new(),
                param: None,
            },
            StoreError::Conflict(conflict) => Self::Conflict {
                code: conflict.code,
                param: conflict.param,
                message: conflict.message,
            },
            StoreError::Forbidden(conflict) => Self::Refused {
                code: conflict.code,
                param: conflict.param,
                message: conflict.message,
            },
            other => Self::Store(other),
        }
    }
}

/// Names what a query did not find.
pub trait OrNotFound<T> {
    /// Where there is no such row: a 404 that names the `kind` and what the path said.
    ///
    /// # Errors
    /// The query's own, translated.
    fn or_not_found(self, kind: &'static str, name: impl ToString) -> Result<T, ApiError>;

    /// Where there is no such row: a 404 that names the body's field too.
    ///
    /// # Errors
    /// The query's own, translated.
    fn or_unknown(self, kind: &'static str, param: &'static str, name: impl ToString) -> Result<T, ApiError>;
}

impl<T> OrNotFound<T> for Result<T, StoreError> {
    fn or_not_found(self, kind: &'static str, name: impl ToString) -> Result<T, ApiError> {
        self.map_err(|error| match error {
            StoreError::NotFound(_) => ApiError::not_found(kind, name),
            other => other.into(),
        })
    }

    fn or_unknown(self, kind: &'static str, param: &'static str, name: impl ToString) -> Result<T, ApiError> {
        self.map_err(|error| match error {
            StoreError::NotFound(_) => ApiError::unknown(kind, param, name),
            other => other.into(),
        })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status();
        if status.is_server_error() {
            tracing::error!(error = &self as &dyn std::error::Error, "request failed");
        }
        let mut response = (status, Json(self.body())).into_response();
        self.headers(&mut response);
        response
    }
}
