//! A name for every request, in its answer and in every line that is logged about it.

use std::any::Any;
use std::time::Instant;

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument;
use uuid::Uuid;

use crate::error::ApiError;

/// The header, of requests and answers.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const LONGEST: usize = 128;

/// Takes the caller's request id where it is sane, else makes one; puts it into the answer and the log.
pub async fn name_request(request: Request, next: Next) -> Response {
    let id = request
        .headers()
        .get(&REQUEST_ID)
        .filter(|value| is_sane(value))
        .cloned()
        .unwrap_or_else(new_id);
    let span = tracing::info_span!(
        "request",
        id = id.to_str().unwrap_or_default(),
        method = %request.method(),
        path = request.uri().path(),
    );
    let begin = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    span.in_scope(|| {
        let milliseconds = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(status = response.status().as_u16(), milliseconds, "answered");
    });
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// The answer to a request whose handler panicked.
#[must_use]
pub fn answer_panic(panic: Box<dyn Any + Send + 'static>) -> Response {
    let message = panic.downcast_ref::<String>().map(String::as_str);
    let message = message
        .or_else(|| panic.downcast_ref::<&'static str>().copied())
        .unwrap_or("unknown");
    tracing::error!(panic = message, "a handler panicked");
    ApiError::Unexpected("a handler panicked").into_response()
}

fn new_id() -> HeaderValue {
    HeaderValue::from_str(&format!("req_{}", Uuid::now_v7().simple()))
        .expect("invariant: an id is plain ascii")
}

fn is_sane(value: &HeaderValue) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=LONGEST).contains(&value.len()) && value.as_bytes().iter().all(allowed)
}
