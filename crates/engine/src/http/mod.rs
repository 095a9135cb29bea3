//! The HTTP surface: OpenAI's two generating endpoints, and vLLM's around them, so that one controller can drive this
//! engine and a vLLM server alike.
//!
//! Handlers read fields, ask the [`Engine`] and write the answer; what is refused, and with what words, is in
//! `error`.

mod adapters;
mod answer;
mod calls;
mod chat;
mod completions;
mod delivery;
mod error;
mod fields;
mod generate;
mod grammar;
mod messages;
mod models;
mod request;
mod sampling;
mod status;
mod tools;

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{Method, Uri},
    routing::{get, post},
};

use crate::engine::Engine;
use error::ApiError;

/// Longest request body. A context of a million tokens fits.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

/// All routes over `engine`.
pub fn router(engine: Arc<Engine>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*model}", get(models::show))
        .route("/v1/load_lora_adapter", post(adapters::load))
        .route("/v1/unload_lora_adapter", post(adapters::unload))
        .route("/health", get(status::health))
        .route("/ping", get(status::health).post(status::health))
        .route("/version", get(status::version))
        .route("/metrics", get(status::metrics))
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(engine)
}

async fn no_route(method: Method, uri: Uri) -> ApiError {
    ApiError::no_route(method.as_str(), uri.path())
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    ApiError::wrong_method(method.as_str(), uri.path())
}
