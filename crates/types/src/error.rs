//! The one error object of the API, in OpenAI's shape, and the checked-parameter error that the bounded types raise.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `{"error": {"message", "type", "param", "code"}}`; all four keys are always there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// Inside of [`ErrorBody`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// A sentence for a person: what is wrong, where, and how to mend it.
    pub message: String,
    /// The class of error.
    #[serde(rename = "type")]
    pub kind: ErrorKind,
    /// The field or query parameter at fault, as a path (`hyperparameters.rank`).
    pub param: Option<String>,
    /// A stable code for programs (`model_not_found`).
    pub code: Option<String>,
}

/// OpenAI's error types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// No valid credentials.
    AuthenticationError,
    /// The request is wrong; sending it again gives the same answer.
    InvalidRequestError,
    /// Known caller, but not allowed.
    PermissionError,
    /// Too many requests; `retry-after` says when to come back.
    RateLimitError,
    /// Our fault; the request may be sent again.
    ServerError,
}

impl ErrorBody {
    /// An error object.
    #[must_use]
    pub fn new(kind: ErrorKind, code: &str, param: Option<&str>, message: impl Into<String>) -> Self {
        Self {
            error: ErrorDetail {
                message: message.into(),
                kind,
                param: param.map(ToOwned::to_owned),
                code: Some(code.to_owned()),
            },
        }
    }
}

/// A field outside its bounds, raised by the fallible constructors of this crate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ParameterError {
    /// Path of the field.
    pub param: String,
    /// A sentence that names the bounds and what was given.
    pub message: String,
}

impl ParameterError {
    /// An error about the field `param`.
    #[must_use]
    pub fn new(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            param: param.into(),
            message: message.into(),
        }
    }

    /// The same error with the field's path under `parent`.
    #[must_use]
    pub fn under(self, parent: &str) -> Self {
        Self {
            param: format!("{parent}.{}", self.param),
            message: self.message,
        }
    }
}
