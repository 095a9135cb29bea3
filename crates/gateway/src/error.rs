//! Every way in which a call can fail, and the one place where that becomes a status.

use axum::{
    Json,
    extract::rejection::JsonRejection,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use tunesmith_types::error::{ErrorBody, ErrorKind};

use crate::upstream_error::{ContextLength, UpstreamError};

/// Why a request to a model has no answer.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The organization has no deployment and no base model of this name.
    #[error("no model `{0}`")]
    ModelNotFound(String),
    /// The deployment exists, but no version was ever promoted to it successfully.
    #[error("deployment `{0}` has no active version")]
    NothingActive(String),
    /// The deployment's first version is being made ready, or an engine is starting.
    #[error("model `{0}` is not ready yet")]
    Starting(String),
    /// The replica could not be started or reached.
    #[error("model `{model}` has no replica: {reason}")]
    NoReplica {
        /// Public name.
        model: String,
        /// For the log.
        reason: String,
    },
    /// The body breaks a rule; the message says which and how to mend it.
    #[error("invalid request: {message}")]
    Invalid {
        /// The field.
        param: Option<String>,
        /// A sentence.
        message: String,
    },
    /// The body is larger than a request may be.
    #[error("the body has more than {limit} bytes")]
    TooLarge {
        /// Most bytes.
        limit: usize,
    },
    /// The body is not said to be JSON.
    #[error("the body is not said to be JSON")]
    MediaType,
    /// More tokens than the model has room for.
    #[error("the request needs {requested} tokens of {limit}")]
    ContextLength {
        /// Tokens that the model has room for.
        limit: u64,
        /// Tokens that the request needs; more, where the replica stopped counting.
        requested: u64,
    },
    /// The replica is full.
    #[error("the replica is overloaded")]
    Overloaded {
        /// Its `retry-after`.
        retry_after: Option<String>,
    },
    /// The replica failed; what it said is for the log.
    #[error("the replica failed with status {status}: {message}")]
    Upstream {
        /// Its status, or 0 where the connection broke.
        status: u16,
        /// Its words.
        message: String,
    },
    /// The database failed.
    #[error("the catalogue cannot be read")]
    Store(#[source] tunesmith_store::StoreError),
}

impl GatewayError {
    /// A body that axum could not read; `limit` is the most bytes that it may have.
    pub(crate) fn unreadable(rejection: &JsonRejection, limit: usize) -> Self {
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Self::TooLarge { limit },
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::MediaType,
            _ => Self::Invalid {
                param: None,
                message: format!(
                    "The body is not usable JSON: {}.",
                    rejection.body_text().trim_end_matches('.')
                ),
            },
        }
    }

    /// What `error`, from the replica that serves `internal` for the public name `model`, means for the caller.
    pub(crate) fn from_upstream(error: UpstreamError, internal: &str, model: &str) -> Self {
        if let Some(ContextLength { limit, requested }) = error.context_length() {
            return Self::ContextLength { limit, requested };
        }
        match error.status {
            400 | 422 => Self::Invalid {
                message: error.public_words(internal, model),
                param: error.param,
            },
            413 => Self::Invalid {
                param: None,
                message: "The request is too large for the model.".to_owned(),
            },
            // The replica has forgotten the version (a restart): the reconciler loads it again.
            404 => Self::Starting(model.to_owned()),
            429 | 503 => Self::Overloaded {
                retry_after: error.retry_after,
            },
            status => Self::Upstream {
                status,
                message: error.message,
            },
        }
    }

    /// Whether the request was refused rather than failed: it was wrong, or there were too many.
    pub(crate) fn is_rejection(&self) -> bool {
        self.status().is_client_error()
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::ModelNotFound(_) | Self::NothingActive(_) => StatusCode::NOT_FOUND,
            Self::Starting(_) | Self::NoReplica { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Invalid { .. } | Self::ContextLength { .. } => StatusCode::BAD_REQUEST,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Overloaded { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Upstream { .. } => StatusCode::BAD_GATEWAY,
            Self::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The error object for the caller.
    #[must_use]
    pub fn body(&self) -> ErrorBody {
        use ErrorKind::{InvalidRequestError, RateLimitError, ServerError};
        let model = Some("model");
        match self {
            Self::ModelNotFound(name) => {
                let message = format!(
                    "The model `{name}` does not exist, or your organization has no access to it. `GET /v1/models` lists what can be called."
                );
                ErrorBody::new(InvalidRequestError, "model_not_found", model, message)
            }
            Self::NothingActive(name) => {
                let message = format!(
                    "The deployment `{name}` has no active version. Promote one with `POST /v1/deployments/{name}/promote`."
                );
                ErrorBody::new(InvalidRequestError, "model_not_found", model, message)
            }
            Self::Starting(name) => {
                let message = format!(
                    "The model `{name}` is being made ready. Send the request again in some seconds."
                );
                ErrorBody::new(ServerError, "model_starting", model, message)
            }
            Self::NoReplica { model: name, .. } => {
                let message = format!(
                    "The model `{name}` has no inference process that answers. Send the request again later."
                );
                ErrorBody::new(ServerError, "no_replica", model, message)
            }
            Self::Invalid { param, message } => ErrorBody::new(
                InvalidRequestError,
                "invalid_request",
                param.as_deref(),
                message.clone(),
            ),
            Self::TooLarge { limit } => {
                let message =
                    format!("The body may have at most {limit} bytes. Send fewer or shorter messages.");
                ErrorBody::new(InvalidRequestError, "body_too_large", None, message)
            }
            Self::MediaType => {
                let message = "The body must be JSON; set the header `content-type: application/json`.";
                ErrorBody::new(InvalidRequestError, "unsupported_media_type", None, message)
            }
            Self::ContextLength { limit, requested } => {
                let message = format!(
                    "This model's maximum context length is {limit} tokens; the request needs at least {requested}. Shorten the messages or lower `max_tokens`."
                );
                ErrorBody::new(InvalidRequestError, "context_length_exceeded", None, message)
            }
            Self::Overloaded { .. } => {
                let message =
                    "The model has as many requests as it can take. Send the request again in a moment.";
                ErrorBody::new(RateLimitError, "overloaded", None, message)
            }
            Self::Upstream { .. } => {
                let message = "The model's inference process failed to answer. Send the request again.";
                ErrorBody::new(ServerError, "upstream_error", None, message)
            }
            Self::Store(_) => ErrorBody::new(
                ServerError,
                "internal_error",
                None,
                "Something failed on our side. Send the request again; if it persists, report the x-request-id.",
            ),
        }
    }

    fn retry_after(&self) -> Option<HeaderValue> {
        match self {
            Self::Starting(_) => Some(HeaderValue::from_static("5")),
            Self::NoReplica { .. } => Some(HeaderValue::from_static("15")),
            Self::Overloaded { retry_after } => {
                let given = retry_after
                    .as_deref()
                    .and_then(|text| HeaderValue::from_str(text).ok());
                Some(given.unwrap_or(HeaderValue::from_static("1")))
            }
            _ => None,
        }
    }
}

impl IntoResponse for GatewayError {
    fn into_response(self) -> Response {
        let status = self.status();
        if status.is_server_error() {
            tracing::error!(error = &self as &dyn std::error::Error, "model request failed");
        }
        let mut response = (status, Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after() {
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}
