//! Errors as clients see them. Every refusal of this server is made here, so texts and codes can be read at a glance.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use tunesmith_types::error::{ErrorBody, ErrorKind};

use crate::{adapter::AdapterError, engine::SubmitError};

/// An answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    status: StatusCode,
    retry_after: bool,
    body: Box<ErrorBody>,
}

impl ApiError {
    fn new(status: StatusCode, code: &str, param: Option<&str>, message: impl Into<String>) -> Self {
        let kind = match status {
            StatusCode::TOO_MANY_REQUESTS => ErrorKind::RateLimitError,
            status if status.is_server_error() => ErrorKind::ServerError,
            _ => ErrorKind::InvalidRequestError,
        };
        Self {
            status,
            retry_after: false,
            body: Box::new(ErrorBody::new(kind, code, param, message)),
        }
    }

    /// A field is wrong.
    #[must_use]
    pub(super) fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_value", Some(param), message)
    }

    /// A field asks for something that would change the answer and that this engine cannot do.
    #[must_use]
    pub(super) fn unsupported(param: &str, reason: &str) -> Self {
        let message = format!("`{param}` is not supported by this engine: {reason}. Leave it out.");
        Self::new(
            StatusCode::BAD_REQUEST,
            "unsupported_parameter",
            Some(param),
            message,
        )
    }

    /// The body is not a JSON object.
    #[must_use]
    pub(super) fn unreadable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_json", None, message)
    }

    /// The body is not declared as JSON.
    #[must_use]
    pub(super) fn not_json() -> Self {
        let message = "The body must be JSON, with the header `content-type: application/json`.";
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            None,
            message,
        )
    }

    /// The body is too long.
    #[must_use]
    pub(super) fn too_large(limit: usize) -> Self {
        let message = format!("The body is larger than {limit} bytes. Shorten the prompt.");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", None, message)
    }

    /// No model of that name.
    #[must_use]
    pub(super) fn no_model(name: &str) -> Self {
        let message = format!("The model `{name}` does not exist.");
        Self::new(StatusCode::NOT_FOUND, "model_not_found", Some("model"), message)
    }

    /// No such path.
    #[must_use]
    pub(super) fn no_route(method: &str, path: &str) -> Self {
        let message = format!("There is no `{method} {path}` here.");
        Self::new(StatusCode::NOT_FOUND, "not_found", None, message)
    }

    /// The path exists, but not with this method.
    #[must_use]
    pub(super) fn wrong_method(method: &str, path: &str) -> Self {
        let message = format!("`{path}` does not answer to {method}.");
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            None,
            message,
        )
    }

    /// Prompt and completion do not fit the model. `param`: the field that holds the prompt.
    #[must_use]
    pub(super) fn context_length(param: &str, limit: usize, prompt: usize, completion: usize) -> Self {
        let message = format!(
            "This model's maximum context length is {limit} tokens. However, you requested {} tokens ({prompt} in the \
             {param}, {completion} in the completion). Please reduce the length of the {param} or completion.",
            prompt + completion
        );
        Self::new(
            StatusCode::BAD_REQUEST,
            "context_length_exceeded",
            Some(param),
            message,
        )
    }

    /// The sequence would never fit the memory for keys and values.
    #[must_use]
    pub(super) fn memory(param: &str, most: usize, tokens: usize) -> Self {
        let message = format!(
            "The engine's memory for keys and values holds {most} tokens of one sequence (`--kv-cache-bytes`). However, \
             you requested {tokens} tokens, {param} and completion together. Please reduce either."
        );
        Self::new(
            StatusCode::BAD_REQUEST,
            "context_length_exceeded",
            Some(param),
            message,
        )
    }

    /// Our own failure; the cause is for the log.
    #[must_use]
    pub(super) fn internal() -> Self {
        let message = "The engine failed to generate. Send the request again.";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", None, message)
    }

    /// The error object alone, for an event of a stream that has begun.
    #[must_use]
    pub(super) fn body(&self) -> &ErrorBody {
        &self.body
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::QueueFull => {
                let message =
                    "The engine has as many requests as it can take. Send the request again in a second.";
                let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", None, message);
                Self {
                    retry_after: true,
                    ..error
                }
            }
            SubmitError::Stopped => stopped(),
        }
    }
}

fn stopped() -> ApiError {
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "stopping",
        None,
        "The engine is stopping.",
    )
}

impl From<AdapterError> for ApiError {
    /// Texts and statuses are vLLM's, by which controllers of vLLM fleets tell the cases apart. Where vLLM answers 500
    /// to an adapter that it cannot use, we answer 400: the adapter is at fault, and a repeat changes nothing.
    fn from(error: AdapterError) -> Self {
        let (bad, absent) = (StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND);
        let (status, code, param, message) = match error {
            AdapterError::EngineStopped => return stopped(),
            AdapterError::AlreadyLoaded(name) => {
                let message = format!("The lora adapter '{name}' has already been loaded.");
                (bad, "adapter_already_loaded", "lora_name", message)
            }
            AdapterError::NameOfBase(name) => {
                let message =
                    format!("The name '{name}' is the base model's. Give the adapter another name.");
                (bad, "adapter_already_loaded", "lora_name", message)
            }
            AdapterError::NotLoaded(name) => {
                let message = format!("The lora adapter '{name}' cannot be found.");
                (absent, "adapter_not_found", "lora_name", message)
            }
            AdapterError::TooMany(limit) => {
                let message = format!(
                    "{limit} adapters are loaded, which is the most (`--max-adapters`). Unload one first."
                );
                (StatusCode::CONFLICT, "too_many_adapters", "lora_name", message)
            }
            AdapterError::NoFolder(path) => {
                let message = format!("No adapter found for {}.", path.display());
                (absent, "adapter_path_not_found", "lora_path", message)
            }
            AdapterError::Invalid { name, source } => {
                let message = format!(
                    "Loading lora {name} failed: {}.",
                    chain(&*source).trim_end_matches('.')
                );
                (bad, "invalid_adapter", "lora_path", message)
            }
            AdapterError::Changed(name) => {
                let message = format!(
                    "The files of the lora adapter '{name}' have changed since it was loaded. Unload it, and load it \
                     under another name."
                );
                (StatusCode::CONFLICT, "adapter_changed", "model", message)
            }
            AdapterError::Unreadable { name, source: _ } => {
                let message = format!("The lora adapter '{name}' cannot be read at the moment.");
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "adapter_unreadable",
                    "model",
                    message,
                )
            }
        };
        Self::new(status, code, Some(param), message)
    }
}

/// An error with its causes, less those that it repeats already.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        if self.retry_after {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
