//! Health, version and metrics.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
};
use serde_json::{Value, json};

use crate::engine::Engine;

/// 200 while the engine's thread is there, else 503; no body, as vLLM's.
pub(super) async fn health(State(engine): State<Arc<Engine>>) -> StatusCode {
    if engine.is_alive() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

/// The version of this program.
pub(super) async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION"), "engine": "tunesmith"}))
}

/// The counters, in Prometheus' text format.
pub(super) async fn metrics(State(engine): State<Arc<Engine>>) -> impl IntoResponse {
    let text = engine.metrics().render(
        engine.name(),
        engine.adapters().limit(),
        &engine.adapters().residency(),
    );
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}
