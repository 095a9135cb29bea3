//! vLLM's two endpoints that load and unload adapters while the server runs.
//!
//! They open paths of this machine, so they are for the control plane alone: `--adapter-root` bounds them, and the
//! port must not be open to users.

use std::{path::Path, sync::Arc};

use axum::extract::State;

use super::{error::ApiError, fields::Fields};
use crate::engine::Engine;

/// `POST /v1/load_lora_adapter {"lora_name", "lora_path"}`
pub(super) async fn load(State(engine): State<Arc<Engine>>, fields: Fields) -> Result<String, ApiError> {
    let name = fields.required_text("lora_name")?;
    let path = fields.required_text("lora_path")?;
    for flag in ["load_inplace", "is_3d_lora_weight"] {
        if fields.flag(flag, false)? {
            let reason = "a name stands for the same weights for as long as it is loaded";
            return Err(ApiError::unsupported(flag, reason));
        }
    }
    engine.load_adapter(name, Path::new(path)).await?;
    Ok(format!("Success: LoRA adapter '{name}' added successfully."))
}

/// `POST /v1/unload_lora_adapter {"lora_name"}`
pub(super) async fn unload(State(engine): State<Arc<Engine>>, fields: Fields) -> Result<String, ApiError> {
    let name = fields.required_text("lora_name")?;
    engine.unload_adapter(name)?;
    Ok(format!("Success: LoRA adapter '{name}' removed successfully."))
}
