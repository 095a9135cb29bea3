//! What stands around the operations: probes, pages, the document, request ids.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::App;

#[tokio::test]
async fn probes_pages_and_the_document_are_there() {
    let app = App::start().await;
    let client = app.anonymous();
    assert_eq!(client.get("/healthz").await.ok(200), json!({"status": "ok"}));
    assert_eq!(client.get("/readyz").await.ok(200), json!({"status": "ok"}));
    let home = client.get("/").await;
    assert!(
        home.headers["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/html")
    );
    assert!(home.body.as_str().unwrap().contains("/docs"));
    assert!(
        client
            .get("/docs/")
            .await
            .ok(200)
            .as_str()
            .unwrap()
            .contains("swagger")
    );

    let document = client.get("/openapi.json").await.ok(200);
    let ours = tunesmith_api::openapi(utoipa::openapi::OpenApi::default());
    assert_eq!(document, serde_json::to_value(ours).unwrap());
    let operations: Vec<_> = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|p| p.as_object().unwrap())
        .collect();
    assert!(operations.len() >= 30, "{}", operations.len());
    for (_, operation) in operations {
        assert!(
            operation["summary"].is_string() && operation["tags"].is_array(),
            "{operation}"
        );
    }
}

#[tokio::test]
async fn a_sane_request_id_is_kept_and_another_is_replaced() {
    let app = App::start().await;
    let client = app.anonymous();
    let asked = client
        .send(client.request("GET", "/healthz").header("x-request-id", "mine-1"))
        .await;
    assert_eq!(asked.headers["x-request-id"], "mine-1");
    let long = "x".repeat(200);
    for wrong in ["a b", "<script>", long.as_str(), ""] {
        let answer = client
            .send(client.request("GET", "/v1/nothing").header("x-request-id", wrong))
            .await;
        assert!(
            answer.headers["x-request-id"]
                .to_str()
                .unwrap()
                .starts_with("req_"),
            "{wrong}"
        );
    }
}

#[tokio::test]
async fn running_requests_end_before_the_server_does() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (begun_sender, begun) = tokio::sync::oneshot::channel();
    let (go_sender, go) = tokio::sync::oneshot::channel::<()>();
    let once = std::sync::Mutex::new(Some((begun_sender, go)));
    let handler = move || {
        let (begun, go) = once.lock().unwrap().take().unwrap();
        async move {
            begun.send(()).unwrap();
            go.await.unwrap();
            "done"
        }
    };
    let handler = std::sync::Arc::new(handler);
    let router = axum::Router::new().route("/", axum::routing::get(move || handler()));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(tunesmith_api::serve(listener, router, async move {
        let _ = stopped.await;
    }));
    let request = tokio::spawn(reqwest::get(format!("http://{address}/")));
    begun.await.unwrap();
    stop.send(()).unwrap();
    go_sender.send(()).unwrap();
    assert_eq!(request.await.unwrap().unwrap().text().await.unwrap(), "done");
    tokio::time::timeout(Duration::from_secs(10), server)
        .await
        .unwrap()
        .unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn the_address_serves_http_one_by_hand() {
    let app = App::start().await;
    let request = app.anonymous().request("GET", "/").build().unwrap();
    let address = format!("127.0.0.1:{}", request.url().port().unwrap());
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
}
