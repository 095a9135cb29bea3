//! Loading, unloading, listing.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{BASE_NAME, Faults, Inner, Loaded, error};

pub(super) async fn models(State(inner): State<Arc<Inner>>) -> Json<Value> {
    // As vLLM does, each answer has the time at which it was made.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let card = |id: &str, root: &str, parent: Value| {
        json!({"id": id, "object": "model", "created": now, "owned_by": "vllm", "root": root, "parent": parent,
               "max_model_len": 64, "permission": []})
    };
    let mut data = vec![card(BASE_NAME, "/models/base", Value::Null)];
    for (name, loaded) in inner.loaded.borrow().iter() {
        data.push(card(name, &loaded.path, json!(BASE_NAME)));
    }
    Json(json!({"object": "list", "data": data}))
}

pub(super) async fn load(State(inner): State<Arc<Inner>>, Json(body): Json<Value>) -> Response {
    let (Some(name), Some(path)) = (body["lora_name"].as_str(), body["lora_path"].as_str()) else {
        let message = "Both 'lora_name' and 'lora_path' must be provided.";
        return error(&inner, 400, "InvalidUserInput", message);
    };
    assert!(
        body.get("load_inplace").is_none_or(|inplace| inplace == false),
        "a name is never given to other bytes"
    );
    *inner
        .load_calls
        .lock()
        .unwrap()
        .entry(name.to_owned())
        .or_default() += 1;
    // vLLM goes on loading when its caller has gone.
    let (shared, name, path) = (Arc::clone(&inner), name.to_owned(), path.to_owned());
    tokio::spawn(async move { load_now(&shared, &name, &path).await })
        .await
        .unwrap()
}

async fn load_now(inner: &Inner, name: &str, path: &str) -> Response {
    let (refused, slow, stuck, blind) = {
        let faults = inner.faults.lock().unwrap();
        (
            Faults::of(&faults.refused, name).cloned(),
            Faults::of(&faults.slow, name).copied(),
            Faults::is_in(&faults.stuck, name),
            faults.blind,
        )
    };
    if stuck {
        std::future::pending::<()>().await;
    }
    if let Some(time) = slow {
        tokio::time::sleep(time).await;
    }
    if name == BASE_NAME || inner.loaded.borrow().contains_key(name) {
        let message = format!(
            "The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, set 'load_inplace' \
             to True."
        );
        return error(inner, 400, "InvalidUserInput", &message);
    }
    if let Some((status, words)) = refused {
        // Of the process that holds the model; older versions have its words alone.
        let is_flat = inner.faults.lock().unwrap().flat_errors;
        let wrapped = format!(
            "Call to add_lora method failed: Worker failed with error '{words}', please check the stack trace above for the \
             root cause"
        );
        let words = if is_flat { words } else { wrapped };
        return error(inner, status, "InternalServerError", &words);
    }
    let Some(fill) = read_fill(path).filter(|_| !blind) else {
        return error(
            inner,
            404,
            "NotFoundError",
            &format!("No adapter found for {path}"),
        );
    };
    let loaded = Loaded {
        path: path.to_owned(),
        fill,
    };
    touch(inner, name);
    inner
        .loaded
        .send_modify(|all| drop(all.insert(name.to_owned(), loaded)));
    format!("Success: LoRA adapter '{name}' added successfully.").into_response()
}

pub(super) async fn unload(State(inner): State<Arc<Inner>>, Json(body): Json<Value>) -> Response {
    let Some(name) = body["lora_name"].as_str() else {
        let message = "'lora_name' needs to be provided to unload a LoRA adapter.";
        return error(&inner, 400, "InvalidUserInput", message);
    };
    assert!(
        !inner.faults.lock().unwrap().busy.contains(name),
        "{name} is unloaded while a request uses it"
    );
    let mut was_there = false;
    inner
        .loaded
        .send_modify(|all| was_there = all.remove(name).is_some());
    if was_there {
        return format!("Success: LoRA adapter '{name}' removed successfully.").into_response();
    }
    let message = format!("The lora adapter '{name}' cannot be found.");
    error(&inner, 404, "NotFoundError", &message)
}

/// The filling of the adapter that a request names; the base model's is 0. Files of one that was evicted are read
/// again, inside of the engine's step: where they are gone, the step fails.
pub(super) fn filling(inner: &Inner, model: &str) -> Result<u8, Box<Response>> {
    if model == BASE_NAME {
        return Ok(0);
    }
    let Some(loaded) = inner.loaded.borrow().get(model).cloned() else {
        let message = format!("The model `{model}` does not exist.");
        return Err(Box::new(error(inner, 404, "NotFoundError", &message)));
    };
    if !inner.resident.lock().unwrap().iter().any(|name| name == model) {
        inner.read_again.fetch_add(1, Ordering::Relaxed);
        if read_fill(&loaded.path).is_none() {
            let message = format!("EngineCore died: no such file: {}", loaded.path);
            return Err(Box::new(error(inner, 500, "InternalServerError", &message)));
        }
    }
    touch(inner, model);
    if Faults::is_in(&inner.faults.lock().unwrap().inert, model) {
        return Ok(0);
    }
    Ok(loaded.fill)
}

/// Puts an adapter into memory, and the one that was used least lately out of it.
fn touch(inner: &Inner, name: &str) {
    let most = inner.faults.lock().unwrap().max_cpu_loras.unwrap_or(usize::MAX);
    let mut resident = inner.resident.lock().unwrap();
    resident.retain(|other| other != name);
    resident.push(name.to_owned());
    while resident.len() > most {
        resident.remove(0);
    }
}

/// What the B matrix in a folder is filled with, times the adapter's scale. vLLM knows one scale for all modules, and
/// passes over `rank_pattern` and `alpha_pattern`.
fn read_fill(path: &str) -> Option<u8> {
    let config = std::fs::read(Path::new(path).join("adapter_config.json")).ok()?;
    let config: Value = serde_json::from_slice(&config).ok()?;
    let rank = config["r"].as_f64()?;
    let scale = config["lora_alpha"].as_f64().unwrap_or(rank) / rank;
    let bytes = std::fs::read(Path::new(path).join("adapter_model.safetensors")).ok()?;
    let tensors = safetensors::SafeTensors::deserialize(&bytes).ok()?;
    let (_, b) = tensors.iter().find(|(name, _)| name.contains("lora_B"))?;
    let numbers = b.data().first_chunk()?;
    if scale == 1.0 {
        return Some(numbers[0]);
    }
    Some((f32::from_le_bytes(*numbers) * scale as f32).to_le_bytes()[0])
}
