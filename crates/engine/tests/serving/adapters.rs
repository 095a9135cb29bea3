//! Loading and unloading while the server runs.

use futures::{StreamExt, future::join_all};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{
    golden,
    server::{Server, running},
};

async fn greedy(server: &Server, model: &str) -> String {
    let body =
        json!({"model": model, "prompt": "Hello", "temperature": 0, "max_tokens": 12, "ignore_eos": true});
    server.ask("/v1/completions", &body).await["choices"][0]["text"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn an_adapter_comes_and_goes() {
    let server = Server::start(&golden::folder("llama", "base"), &[]);
    let folder = golden::folder("llama", "adapter");
    assert_eq!(server.model_names().await, ["base"]);
    let response = server.load("support--v1-0123abcd", &folder).await;
    assert_eq!(response.status(), StatusCode::OK);
    let expected = "Success: LoRA adapter 'support--v1-0123abcd' added successfully.";
    assert_eq!(response.text().await.unwrap(), expected);
    let list: Value = server.get("/v1/models").await.json().await.unwrap();
    let card = &list["data"][1];
    assert_eq!(
        (&card["id"], &card["parent"]),
        (&json!("support--v1-0123abcd"), &json!("base"))
    );
    assert_eq!(
        (&card["root"], &card["max_model_len"]),
        (&json!(folder), &json!(256))
    );
    let one: Value = server
        .get("/v1/models/support--v1-0123abcd")
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(&one, card);
    let base = greedy(&server, "base").await;
    assert_ne!(greedy(&server, "support--v1-0123abcd").await, base);

    let response = server.unload("support--v1-0123abcd").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        response.text().await.unwrap(),
        "Success: LoRA adapter 'support--v1-0123abcd' removed successfully."
    );
    assert_eq!(server.model_names().await, ["base"]);
    let gone = server
        .post(
            "/v1/completions",
            &json!({"model": "support--v1-0123abcd", "prompt": "x"}),
        )
        .await;
    assert_eq!(gone.status(), StatusCode::NOT_FOUND);
    assert_eq!(greedy(&server, "base").await, base);
}

#[tokio::test]
async fn unloading_does_not_disturb_what_runs() {
    let base = golden::endless("llama");
    let server = Server::start(base.path(), &[]);
    let folder = golden::folder("llama", "adapter");
    assert_eq!(server.load("tuned", &folder).await.status(), StatusCode::OK);
    let body = json!({
        "model": "tuned", "prompt": "Hello", "temperature": 0, "max_tokens": 600, "ignore_eos": true,
        "stream": true, "stream_options": {"include_usage": true},
    });
    let expected = {
        let mut body = body.clone();
        body["stream"] = false.into();
        body.as_object_mut().unwrap().remove("stream_options");
        server.ask("/v1/completions", &body).await["usage"]["completion_tokens"].clone()
    };
    let mut stream = running(server.post("/v1/completions", &body).await).await;
    assert_eq!(server.unload("tuned").await.status(), StatusCode::OK);
    // Another adapter under the same name, while the first one is still in use.
    let other = golden::folder("llama", "training/final-adapter");
    assert_eq!(server.load("tuned", &other).await.status(), StatusCode::OK);
    let mut rest = String::new();
    while let Some(text) = stream.next().await {
        rest.push_str(&text.unwrap());
    }
    assert!(rest.ends_with("data: [DONE]\n\n"), "{rest}");
    assert!(rest.contains(&format!("\"completion_tokens\":{expected}")));
}

#[tokio::test]
async fn loads_at_the_same_time_and_the_limit() {
    let server = Server::start(&golden::folder("llama", "base"), &["--max-adapters", "3"]);
    let folder = golden::folder("llama", "adapter");
    let responses = join_all((0..6).map(|number| {
        let (server, folder) = (&server, &folder);
        async move { server.load(&format!("a{number}"), folder).await.status() }
    }))
    .await;
    let count = |status: StatusCode| responses.iter().filter(|found| **found == status).count();
    assert_eq!((count(StatusCode::OK), count(StatusCode::CONFLICT)), (3, 3));
    let refused = server.load("one-more", &folder).await;
    let error: Value = refused.json().await.unwrap();
    assert_eq!(error["error"]["code"], "too_many_adapters");
    let names = server.model_names().await;
    assert_eq!(server.unload(&names[1]).await.status(), StatusCode::OK);
    assert_eq!(server.load("one-more", &folder).await.status(), StatusCode::OK);
}

/// The golden adapter with half of its weights.
fn damaged() -> tempfile::TempDir {
    let folder = golden::folder("llama", "adapter");
    let damaged = tempfile::tempdir().unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(folder.join(name), damaged.path().join(name)).unwrap();
    }
    let weights = damaged.path().join("adapter_model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    damaged
}

#[tokio::test]
async fn bad_adapters_are_refused_and_leave_nothing() {
    let server = Server::shared();
    let before = server.model_names().await;
    let (empty, damaged) = (tempfile::tempdir().unwrap(), damaged());
    let (empty, damaged, good) = (empty.path(), damaged.path(), golden::folder("llama", "adapter"));
    let (file, foreign) = (
        good.join("adapter_config.json"),
        golden::folder("qwen", "adapter"),
    );
    let (taken, absent, invalid) = (
        "adapter_already_loaded",
        "adapter_path_not_found",
        "invalid_adapter",
    );
    for (name, path, status, code, words) in [
        ("tuned", good.as_path(), 400, taken, "has already been loaded"),
        ("base", good.as_path(), 400, taken, "base model"),
        ("new", &empty.join("none"), 404, absent, "No adapter found for"),
        ("new", &file, 404, absent, "No adapter found for"),
        ("new", empty, 400, invalid, "adapter_config.json"),
        ("new", damaged, 400, invalid, "Loading lora new failed"),
        ("new", &foreign, 400, invalid, "Loading lora new failed"),
    ] {
        let response = server.load(name, path).await;
        assert_eq!(response.status().as_u16(), status, "{}", path.display());
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"]["code"], code);
        assert!(
            error["error"]["message"].as_str().unwrap().contains(words),
            "{error}"
        );
    }
    let error: Value = server.unload("new").await.json().await.unwrap();
    assert_eq!(
        error["error"]["message"],
        "The lora adapter 'new' cannot be found."
    );
    assert_eq!(server.model_names().await, before);
}

#[tokio::test]
async fn only_folders_under_the_root_are_opened() {
    let root = tempfile::tempdir().unwrap();
    let inside = root.path().join("tuned");
    std::fs::create_dir(&inside).unwrap();
    let folder = golden::folder("llama", "adapter");
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(folder.join(name), inside.join(name)).unwrap();
    }
    std::os::unix::fs::symlink(&folder, root.path().join("link")).unwrap();
    let base = golden::folder("llama", "base");
    let server = Server::start(&base, &["--adapter-root", root.path().to_str().unwrap()]);
    for path in [
        folder.clone(),
        root.path().join("link"),
        inside.join("../..").join("tmp"),
    ] {
        assert_eq!(
            server.load("a", &path).await.status(),
            StatusCode::NOT_FOUND,
            "{}",
            path.display()
        );
    }
    assert_eq!(server.load("a", &inside).await.status(), StatusCode::OK);
}
