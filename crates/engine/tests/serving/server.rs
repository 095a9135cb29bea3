//! A running `tunesmith-engine`, and requests to it.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::OnceLock,
};

use futures::StreamExt;
use reqwest::{Client, Response, StatusCode};
use serde_json::Value;

use crate::golden;

/// A child process; ends when this is dropped, or with the test process, since its standard input ends then.
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
    pub(crate) ready: Value,
    client: Client,
}

impl Server {
    /// Starts a server for the base model in `base`, named `base`, and waits until it says that it is ready.
    pub(crate) fn start(base: &Path, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ready_file = folder.path().join("ready.json");
        let mut child = Command::new(env!("CARGO_BIN_EXE_tunesmith-engine"))
            .args(["serve", "--listen", "127.0.0.1:0", "--supervised"])
            .args([
                "--device",
                "cpu",
                "--threads",
                "1",
                "--model-name",
                "base",
                "--base",
            ])
            .arg(base)
            .arg("--ready-file")
            .arg(&ready_file)
            .args(arguments)
            .env("TUNESMITH_LOG", "info")
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        await_line(&mut child, " ready ");
        let ready: Value = serde_json::from_slice(&std::fs::read(&ready_file).unwrap()).unwrap();
        let url = ready["url"].as_str().unwrap().to_owned();
        Self {
            child,
            url,
            ready,
            // Each test has a runtime of its own, and a connection that is kept dies with the one that opened it.
            client: Client::builder()
                .no_proxy()
                .pool_max_idle_per_host(0)
                .build()
                .unwrap(),
        }
    }

    /// The server of the tests that change nothing: llama with its adapter as `tuned`, and the two of its training run.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(|| {
            let adapter =
                |name: &str, path: &str| format!("{name}={}", golden::folder("llama", path).display());
            let tuned = adapter("tuned", "adapter");
            let other = adapter("other", "training/final-adapter");
            let base = golden::folder("llama", "base");
            Self::start(&base, &["--adapter", &tuned, "--adapter", &other])
        })
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.client
            .get(format!("{}{path}", self.url))
            .send()
            .await
            .unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Response {
        self.client
            .post(format!("{}{path}", self.url))
            .json(body)
            .send()
            .await
            .unwrap()
    }

    pub(crate) async fn post_text(
        &self,
        path: &str,
        content_type: &str,
        body: impl Into<reqwest::Body>,
    ) -> Response {
        let request = self
            .client
            .post(format!("{}{path}", self.url))
            .header("content-type", content_type);
        request.body(body).send().await.unwrap()
    }

    /// The answer of a request that succeeds.
    pub(crate) async fn ask(&self, path: &str, body: &Value) -> Value {
        let response = self.post(path, body).await;
        let status = response.status();
        let text = response.text().await.unwrap();
        assert_eq!(status, StatusCode::OK, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    pub(crate) async fn load(&self, name: &str, path: &Path) -> Response {
        self.post(
            "/v1/load_lora_adapter",
            &serde_json::json!({"lora_name": name, "lora_path": path}),
        )
        .await
    }

    pub(crate) async fn unload(&self, name: &str) -> Response {
        self.post("/v1/unload_lora_adapter", &serde_json::json!({"lora_name": name}))
            .await
    }

    /// Ids of `/v1/models`.
    pub(crate) async fn model_names(&self) -> Vec<String> {
        let list: Value = self.get("/v1/models").await.json().await.unwrap();
        list["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|card| card["id"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Waits until the metrics have that line. Ended requests are counted between two steps of the engine.
    pub(crate) async fn await_metric(&self, line: &str) {
        while !self
            .get("/metrics")
            .await
            .text()
            .await
            .unwrap()
            .lines()
            .any(|found| found == line)
        {
            tokio::task::yield_now().await;
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Closes the server's standard input and waits for its end.
    pub(crate) fn abandon(mut self) -> ExitStatus {
        drop(self.child.stdin.take());
        self.child.wait().unwrap()
    }

    /// Waits for the server's end, with its standard input open.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        // `Child::wait` would close it.
        let stdin = self.child.stdin.take();
        let status = self.child.wait().unwrap();
        drop(stdin);
        status
    }
}

/// Reads the log until a line has `words`, and from then on to keep the pipe empty.
fn await_line(child: &mut Child, words: &str) {
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut seen = Vec::new();
    while !seen.last().is_some_and(|line: &String| line.contains(words)) {
        let Some(Ok(line)) = lines.next() else {
            panic!("the engine ended:\n{}", seen.join("\n"))
        };
        seen.push(line);
    }
    std::thread::spawn(move || lines.for_each(drop));
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// The `data` of every event of a stream, comments left out.
pub(crate) async fn events(response: Response) -> Vec<String> {
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let text = response.text().await.unwrap();
    text.split("\n\n")
        .filter_map(|event| event.strip_prefix("data: "))
        .map(ToOwned::to_owned)
        .collect()
}

/// The chunks of a stream that ends as it should.
pub(crate) async fn chunks(response: Response) -> Vec<Value> {
    let mut events = events(response).await;
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    events
        .iter()
        .map(|event| serde_json::from_str(event).unwrap())
        .collect()
}

/// A stream whose first bytes have arrived: the request is running.
pub(crate) async fn running(
    response: Response,
) -> impl futures::Stream<Item = reqwest::Result<String>> + Unpin {
    assert_eq!(response.status(), StatusCode::OK);
    let texts = response
        .bytes_stream()
        .map(|bytes| bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()));
    let mut texts = Box::pin(texts);
    // A chat stream opens with the role before the first token; that is not running yet.
    while !texts.next().await.unwrap().unwrap().contains("\"text\"") {}
    texts
}
