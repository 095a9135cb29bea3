//! A replica with vLLM's documented behaviour and faults on request: it forgets on a restart, refuses adapters in both
//! error shapes, loads without effect, hangs, and breaks streams off.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};

pub(crate) const BASE_NAME: &str = "served-base";

/// What every answer is said to have taken.
fn usage() -> Value {
    json!({"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9,
           "prompt_tokens_details": {"cached_tokens": 3}})
}

/// What the next requests meet.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Adapters that cannot be loaded, by the beginning of their names, with the error's body.
    pub(crate) refused: HashMap<String, Value>,
    /// Adapters that load and change nothing.
    pub(crate) inert: HashSet<String>,
    /// Answer to chat requests instead of a completion.
    pub(crate) chat_error: Option<(u16, Value)>,
    /// Adapters whose requests fail, by the beginning of their names.
    pub(crate) failing: HashSet<String>,
    /// A stream ends after its first chunk.
    pub(crate) cut_streams: bool,
    /// A stream goes on for ever; the sender is dropped when the caller is gone.
    pub(crate) endless: Option<oneshot::Sender<()>>,
}

#[derive(Debug)]
struct Inner {
    faults: Mutex<Faults>,
    loaded: watch::Sender<HashMap<String, String>>,
    bodies: Mutex<Vec<Value>>,
}

/// A running replica.
#[derive(Debug, Clone)]
pub(crate) struct FakeReplica {
    pub(crate) url: String,
    inner: Arc<Inner>,
}

impl FakeReplica {
    pub(crate) async fn start() -> Self {
        let inner = Arc::new(Inner {
            faults: Mutex::default(),
            loaded: watch::Sender::new(HashMap::new()),
            bodies: Mutex::default(),
        });
        let router = Router::new()
            .route("/v1/models", get(models))
            .route("/v1/load_lora_adapter", post(load))
            .route("/v1/unload_lora_adapter", post(unload))
            .route("/v1/completions", post(completion))
            .route("/v1/chat/completions", post(chat))
            .with_state(Arc::clone(&inner));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, inner }
    }

    pub(crate) fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.inner.faults.lock().unwrap());
    }

    /// All that was loaded is forgotten, as after a new start.
    pub(crate) fn restart(&self) {
        self.inner.loaded.send_modify(HashMap::clear);
    }

    pub(crate) fn loaded(&self) -> HashMap<String, String> {
        self.inner.loaded.borrow().clone()
    }

    /// Waits until what is loaded satisfies `condition`.
    pub(crate) async fn wait_for(&self, condition: impl FnMut(&HashMap<String, String>) -> bool) {
        self.inner.loaded.subscribe().wait_for(condition).await.unwrap();
    }

    /// Body of the last chat request.
    pub(crate) fn last_body(&self) -> Value {
        self.inner.bodies.lock().unwrap().last().cloned().unwrap()
    }
}

fn error(status: u16, body: Value) -> Response {
    (StatusCode::from_u16(status).unwrap(), Json(body)).into_response()
}

async fn models(State(inner): State<Arc<Inner>>) -> Json<Value> {
    let mut data = vec![json!({"id": BASE_NAME, "object": "model", "root": "/models/base", "parent": null})];
    for (name, path) in inner.loaded.borrow().iter() {
        data.push(json!({"id": name, "object": "model", "root": path, "parent": BASE_NAME}));
    }
    Json(json!({"object": "list", "data": data}))
}

async fn load(State(inner): State<Arc<Inner>>, Json(body): Json<Value>) -> Response {
    let (name, path) = (
        body["lora_name"].as_str().unwrap(),
        body["lora_path"].as_str().unwrap(),
    );
    assert!(
        std::path::Path::new(path).join("adapter_config.json").is_file(),
        "{path} is staged"
    );
    let refused = {
        let faults = inner.faults.lock().unwrap();
        faults
            .refused
            .iter()
            .find(|(beginning, _)| name.starts_with(beginning.as_str()))
            .map(|(_, body)| body.clone())
    };
    if let Some(body) = refused {
        return error(500, body);
    }
    if inner.loaded.borrow().contains_key(name) {
        let message = format!("The lora adapter '{name}' has already been loaded.");
        return error(
            400,
            json!({"error": {"message": message, "type": "InvalidUserInput", "code": 400}}),
        );
    }
    inner
        .loaded
        .send_modify(|loaded| drop(loaded.insert(name.to_owned(), path.to_owned())));
    format!("Success: LoRA adapter '{name}' added successfully.").into_response()
}

async fn unload(State(inner): State<Arc<Inner>>, Json(body): Json<Value>) -> Response {
    let name = body["lora_name"].as_str().unwrap();
    inner.loaded.send_modify(|loaded| drop(loaded.remove(name)));
    "Success".into_response()
}

fn knows(inner: &Inner, model: &str) -> bool {
    model == BASE_NAME || inner.loaded.borrow().contains_key(model)
}

fn unknown(model: &str) -> Response {
    let message = format!("The model `{model}` does not exist.");
    error(
        404,
        json!({"error": {"message": message, "type": "NotFoundError", "param": "model", "code": 404}}),
    )
}

async fn completion(State(inner): State<Arc<Inner>>, Json(body): Json<Value>) -> Response {
    let model = body["model"].as_str().unwrap();
    if !knows(&inner, model) {
        return unknown(model);
    }
    let inert = inner
        .faults
        .lock()
        .unwrap()
        .inert
        .iter()
        .any(|beginning| model.starts_with(beginning.as_str()));
    let logprob = if model == BASE_NAME || inert { -1.0 } else { -0.5 };
    let logprobs = json!({"tokens": ["a", "b"], "token_logprobs": [logprob, logprob]});
    Json(json!({"model": model, "choices": [{"index": 0, "text": "ab", "logprobs": logprobs}]}))
        .into_response()
}

async fn chat(State(inner): State<Arc<Inner>>, Json(body): Json<Value>) -> Response {
    let model = body["model"].as_str().unwrap().to_owned();
    inner.bodies.lock().unwrap().push(body.clone());
    if !knows(&inner, &model) {
        return unknown(&model);
    }
    let (chat_error, failing, cut, endless) = {
        let mut faults = inner.faults.lock().unwrap();
        (
            faults.chat_error.clone(),
            faults.failing.iter().any(|beginning| model.starts_with(beginning.as_str())),
            faults.cut_streams,
            faults.endless.take(),
        )
    };
    if let Some((status, body)) = chat_error {
        return error(status, body);
    }
    if failing {
        return error(500, json!({"error": {"message": "out of order", "code": 500}}));
    }
    if body["stream"] != true {
        let message = json!({"role": "assistant", "content": format!("I am {model}")});
        return Json(json!({"id": "c", "model": model, "choices": [{"index": 0, "message": message}], "usage": usage()}))
            .into_response();
    }
    // The digest tells whose word it is.
    let word = model.rsplit('-').next().unwrap_or_default();
    let chunk = json!({"id": "c", "model": model, "choices": [{"index": 0, "delta": {"content": format!("{word} ")}}]});
    let event = Bytes::from(format!("data: {chunk}\n\n"));
    let usage = json!({"id": "c", "model": model, "choices": [], "usage": usage()});
    let usage = match body["stream_options"]["include_usage"] == true {
        true => Bytes::from(format!("data: {usage}\n\n")),
        false => Bytes::new(),
    };
    let stream = match endless {
        Some(guard) => futures::stream::unfold((event, guard), |(event, guard)| async move {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            Some((Ok::<_, std::convert::Infallible>(event.clone()), (event, guard)))
        })
        .boxed(),
        None if cut => futures::stream::iter([Ok(event)]).boxed(),
        None => {
            let done = Bytes::from("data: [DONE]\n\n");
            futures::stream::iter([Ok(event.clone()), Ok(event), Ok(usage), Ok(done)]).boxed()
        }
    };
    ([("content-type", "text/event-stream")], Body::from_stream(stream)).into_response()
}
