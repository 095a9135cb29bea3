//! A replica with vLLM's documented behaviour, and its faults on request: it forgets on a restart, refuses in both
//! error shapes, loads slowly or without effect, evicts adapters and reads their files again, hangs, and breaks
//! streams off.

mod adapters;
mod answers;
mod inference;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::StatusCode,
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};

pub(crate) use answers::recorded_probe;

pub(crate) const BASE_NAME: &str = "served-base";

/// What the next requests meet. Adapters are named by the beginnings of their names.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Errors in the flat shape of older versions.
    pub(crate) flat_errors: bool,
    /// Adapters that cannot be loaded, with status and words.
    pub(crate) refused: HashMap<String, (u16, String)>,
    /// Adapters that load and change nothing.
    pub(crate) inert: HashSet<String>,
    /// Adapters whose load takes this long; it comes to its end though nobody waits for it any more.
    pub(crate) slow: HashMap<String, Duration>,
    /// Adapters whose load never ends.
    pub(crate) stuck: HashSet<String>,
    /// The server was started without leave to load adapters: the routes are not there.
    pub(crate) no_runtime_loading: bool,
    /// The files cannot be seen from where the server runs.
    pub(crate) blind: bool,
    /// `/health` says that the engine is dead.
    pub(crate) unhealthy: bool,
    /// Nothing is answered.
    pub(crate) hung: bool,
    /// Every connection breaks off.
    pub(crate) broken: bool,
    /// Adapters kept in memory; others are read again when they are used.
    pub(crate) max_cpu_loras: Option<usize>,
    /// Adapters with running requests of other gateways.
    pub(crate) busy: HashSet<String>,
    /// What the routes below `/v1` want to see.
    pub(crate) api_key: Option<String>,
    /// Answers have token ids, as newer versions give them.
    pub(crate) token_ids: bool,
    /// The model's generation_config.json asks for a penalty, which goes for whoever does not ask for another.
    pub(crate) own_penalty: bool,
    /// Added to all log-probabilities, as another number format would.
    pub(crate) drift: f64,
    /// Adapters whose chat requests fail.
    pub(crate) failing: HashSet<String>,
    /// Answer to chat requests instead of a completion.
    pub(crate) chat_error: Option<(u16, Value)>,
    /// Value of `retry-after` with it.
    pub(crate) retry_after: Option<&'static str>,
    /// A stream ends after its first chunk.
    pub(crate) cut_streams: bool,
    /// A stream has this error after its first chunk.
    pub(crate) stream_error: Option<Value>,
    /// A stream goes on for ever; the sender is dropped when the caller is gone.
    pub(crate) endless: Option<oneshot::Sender<()>>,
}

impl Faults {
    fn is_in(set: &HashSet<String>, name: &str) -> bool {
        set.iter().any(|beginning| name.starts_with(beginning.as_str()))
    }

    fn of<'a, V>(map: &'a HashMap<String, V>, name: &str) -> Option<&'a V> {
        map.iter()
            .find(|(beginning, _)| name.starts_with(beginning.as_str()))
            .map(|(_, value)| value)
    }
}

/// An adapter in the server's list.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Loaded {
    pub(crate) path: String,
    /// What its B matrix is filled with.
    fill: u8,
}

#[derive(Debug)]
struct Inner {
    faults: Mutex<Faults>,
    loaded: watch::Sender<HashMap<String, Loaded>>,
    /// Adapters in memory, the latest used last.
    resident: Mutex<Vec<String>>,
    /// Times that files of an evicted adapter were read again.
    read_again: AtomicUsize,
    /// Calls to load, by name.
    load_calls: Mutex<HashMap<String, usize>>,
    started: AtomicU64,
    bodies: Mutex<Vec<Value>>,
}

/// A running server.
#[derive(Debug, Clone)]
pub(crate) struct FakeVllm {
    pub(crate) url: String,
    inner: Arc<Inner>,
}

impl FakeVllm {
    pub(crate) async fn start() -> Self {
        let inner = Arc::new(Inner {
            faults: Mutex::default(),
            loaded: watch::Sender::new(HashMap::new()),
            resident: Mutex::default(),
            read_again: AtomicUsize::default(),
            load_calls: Mutex::default(),
            started: AtomicU64::new(1_700_000_000),
            bodies: Mutex::default(),
        });
        let router = Router::new()
            .route("/health", get(health))
            .route("/metrics", get(metrics))
            .route("/v1/models", get(adapters::models))
            .route("/v1/load_lora_adapter", post(adapters::load))
            .route("/v1/unload_lora_adapter", post(adapters::unload))
            .route("/v1/completions", post(inference::completion))
            .route("/v1/chat/completions", post(inference::chat))
            .layer(from_fn_with_state(Arc::clone(&inner), guard))
            .with_state(Arc::clone(&inner));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, inner }
    }

    /// What `change` returns does not matter.
    pub(crate) fn faults<T>(&self, change: impl FnOnce(&mut Faults) -> T) {
        drop(change(&mut self.inner.faults.lock().unwrap()));
    }

    /// All that was loaded is forgotten, as after a new start.
    pub(crate) fn restart(&self) {
        self.inner.loaded.send_modify(HashMap::clear);
        self.inner.resident.lock().unwrap().clear();
        self.inner.started.fetch_add(1, Ordering::Relaxed);
    }

    /// A new start in which `--lora-modules` names the same adapters from the same places.
    pub(crate) fn restart_with_modules(&self) {
        self.inner.started.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn loaded(&self) -> HashMap<String, Loaded> {
        self.inner.loaded.borrow().clone()
    }

    /// Waits until what is loaded satisfies `condition`.
    pub(crate) async fn wait_for(&self, condition: impl FnMut(&HashMap<String, Loaded>) -> bool) {
        let waited = tokio::time::timeout(Duration::from_secs(60), async {
            self.inner.loaded.subscribe().wait_for(condition).await.unwrap();
        });
        waited
            .await
            .unwrap_or_else(|_| panic!("still loaded: {:?}", self.loaded()));
    }

    /// Puts an adapter into the list, as somebody else would.
    pub(crate) fn plant(&self, name: &str, path: &str) {
        let loaded = Loaded {
            path: path.to_owned(),
            fill: 1,
        };
        self.inner
            .loaded
            .send_modify(|all| drop(all.insert(name.to_owned(), loaded)));
    }

    /// Calls to load adapters whose names begin with `beginning`.
    pub(crate) fn load_calls(&self, beginning: &str) -> usize {
        let calls = self.inner.load_calls.lock().unwrap();
        calls
            .iter()
            .filter(|(name, _)| name.starts_with(beginning))
            .map(|(_, count)| count)
            .sum()
    }

    /// Times that files of an evicted adapter were read again.
    pub(crate) fn read_again(&self) -> usize {
        self.inner.read_again.load(Ordering::Relaxed)
    }

    /// Whether a chat request came.
    pub(crate) fn was_asked(&self) -> bool {
        !self.inner.bodies.lock().unwrap().is_empty()
    }

    /// Body of the last chat request.
    pub(crate) fn last_body(&self) -> Value {
        self.inner.bodies.lock().unwrap().last().cloned().unwrap()
    }
}

/// An error answer in the shape of the version.
fn error(inner: &Inner, status: u16, kind: &str, message: &str) -> Response {
    let fields = json!({"message": message, "type": kind, "param": null, "code": status});
    let body = if inner.faults.lock().unwrap().flat_errors {
        let mut flat = fields;
        flat["object"] = json!("error");
        flat
    } else {
        json!({"error": fields})
    };
    (StatusCode::from_u16(status).unwrap(), Json(body)).into_response()
}

/// What stands before all routes: a server that hangs, routes that are not there, the key.
async fn guard(State(inner): State<Arc<Inner>>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let (hung, broken, no_runtime_loading, api_key) = {
        let faults = inner.faults.lock().unwrap();
        (
            faults.hung,
            faults.broken,
            faults.no_runtime_loading,
            faults.api_key.clone(),
        )
    };
    // A panic ends the task of the connection, and with it the connection.
    assert!(!broken, "the connection is to break off");
    if hung {
        std::future::pending::<()>().await;
    }
    if no_runtime_loading && path.ends_with("_lora_adapter") {
        return (StatusCode::NOT_FOUND, Json(json!({"detail": "Not Found"}))).into_response();
    }
    if let Some(key) = api_key
        && path.starts_with("/v1/")
    {
        let given = request.headers().get("authorization");
        if given.is_none_or(|given| given.as_bytes() != format!("Bearer {key}").as_bytes()) {
            return (StatusCode::UNAUTHORIZED, Json(json!({"error": "Unauthorized"}))).into_response();
        }
    }
    next.run(request).await
}

async fn health(State(inner): State<Arc<Inner>>) -> StatusCode {
    if inner.faults.lock().unwrap().unhealthy {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    }
}

async fn metrics(State(inner): State<Arc<Inner>>) -> String {
    let mut busy: Vec<String> = inner.faults.lock().unwrap().busy.iter().cloned().collect();
    busy.sort();
    let started = inner.started.load(Ordering::Relaxed);
    let series = |running: &str, time: &str| {
        format!(
            "vllm:lora_requests_info{{max_lora=\"1\",running_lora_adapters=\"{running}\",waiting_lora_adapters=\"\"}} {time}\n"
        )
    };
    // Series of before stay for ever; their values are older.
    format!(
        "# TYPE vllm:lora_requests_info gauge\n{}{}process_start_time_seconds {started}.25\n",
        series("gone--v1-00000000", "1.0e+09"),
        series(&busy.join(","), "1.7e+09"),
    )
}
