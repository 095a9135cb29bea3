//! Error answers of the API, as people read them.

use std::fmt;

use tunesmith_types::error::{ErrorBody, ErrorDetail};

/// An error answer.
#[derive(Debug)]
pub(crate) struct ApiFailure {
    pub(crate) status: u16,
    pub(crate) detail: Option<ErrorDetail>,
    request_id: Option<String>,
    /// Whether the request went without credentials.
    anonymous: bool,
}

impl ApiFailure {
    pub(crate) async fn read(response: reqwest::Response, anonymous: bool) -> Self {
        let status = response.status().as_u16();
        let request_id = response
            .headers()
            .get("x-request-id")
            .and_then(|id| id.to_str().ok())
            .map(ToOwned::to_owned);
        let detail = response.json::<ErrorBody>().await.ok().map(|body| body.error);
        Self {
            status,
            detail,
            request_id,
            anonymous,
        }
    }
}

impl fmt::Display for ApiFailure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.status == 401 && self.anonymous {
            return formatter.write_str("not logged in; use `tunesmith login`, or set TUNESMITH_API_KEY");
        }
        match &self.detail {
            Some(detail) => formatter.write_str(&detail.message)?,
            None => write!(formatter, "the server answered with status {}", self.status)?,
        }
        match &self.request_id {
            Some(id) if self.status >= 500 => write!(formatter, " (request {id})"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for ApiFailure {}
