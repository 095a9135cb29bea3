//! `/v1/models`: the base model and its adapters.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use serde_json::{Value, json};

use super::error::ApiError;
use crate::{engine::Engine, registry::NamedAdapter};

/// `GET /v1/models`
pub(super) async fn list(State(engine): State<Arc<Engine>>) -> Json<Value> {
    let adapters = engine.adapters().all();
    let adapters = adapters.iter().map(|adapter| adapter_card(&engine, adapter));
    let cards: Vec<Value> = [base_card(&engine)].into_iter().chain(adapters).collect();
    Json(json!({"object": "list", "data": cards}))
}

/// `GET /v1/models/{id}`; an id may have slashes in it.
pub(super) async fn show(
    State(engine): State<Arc<Engine>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    if id == engine.name() {
        return Ok(Json(base_card(&engine)));
    }
    let adapter = engine
        .adapters()
        .named(&id)
        .ok_or_else(|| ApiError::no_model(&id))?;
    Ok(Json(adapter_card(&engine, &adapter)))
}

fn base_card(engine: &Engine) -> Value {
    json!({
        "id": engine.name(), "object": "model", "created": engine.started_at(), "owned_by": "tunesmith",
        "root": engine.base(), "parent": null, "max_model_len": engine.max_context(), "permission": [],
    })
}

fn adapter_card(engine: &Engine, adapter: &NamedAdapter) -> Value {
    json!({
        "id": adapter.name, "object": "model", "created": adapter.loaded_at, "owned_by": "tunesmith",
        "root": adapter.path, "parent": engine.name(), "max_model_len": engine.max_context(), "permission": [],
    })
}
