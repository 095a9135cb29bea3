//! Base models: registration file by file, checks, and imports from the bucket.

use serde_json::json;
use tunesmith_blobs::BlobKey;

use crate::support::{App, tiny_model};

#[tokio::test]
async fn a_complete_folder_becomes_ready_and_frozen() {
    let app = App::start().await;
    let client = app.sign_up("first").await;
    let model = client.register("tiny", &tiny_model()).await.ok(200);
    assert_eq!(
        (&model["status"], &model["has_chat_template"]),
        (&json!("ready"), &json!(true)),
        "{model}"
    );
    assert_eq!(
        model["architecture"]["parameters"],
        1024 + 3 * 32 + 2 * 1024 + 2 * 512 + 3 * 2048
    );
    assert_eq!(model["files"].as_array().unwrap().len(), 4);
    assert_eq!(model["digest"].as_str().unwrap().len(), 64);
    assert_eq!(client.get("/v1/base-models/tiny").await.ok(200), model);

    let path = format!("/v1/base-models/{}", model["id"].as_str().unwrap());
    let late = client
        .send(
            client
                .request("PUT", &format!("{path}/files/config.json"))
                .body("{}"),
        )
        .await;
    late.fails(409, "base_model_frozen", None);
    client
        .post("/v1/base-models", &json!({"name": "tiny"}))
        .await
        .fails(409, "name_taken", Some("name"));
    client.delete(&path).await.ok(200);
    client
        .get("/v1/base-models/tiny")
        .await
        .fails(404, "base_model_not_found", None);
}

#[tokio::test]
async fn what_is_missing_is_listed_and_can_be_mended() {
    let app = App::start().await;
    let client = app.sign_up("first").await;
    let files = tiny_model();
    let answer = client.register("tiny", &[]).await;
    answer.fails(400, "base_model_incomplete", None);
    let message = answer.body["error"]["message"].as_str().unwrap();
    for missing in [
        "`config.json` is missing",
        "`tokenizer.json` is missing",
        "weights are missing",
    ] {
        assert!(message.contains(missing), "{message}");
    }
    // The same name again replaces what was never completed.
    let model = client
        .post("/v1/base-models", &json!({"name": "tiny"}))
        .await
        .ok(201);
    let path = format!("/v1/base-models/{}", model["id"].as_str().unwrap());
    let put = |name: &str, bytes: Vec<u8>| {
        let request = client.request("PUT", &format!("{path}/files/{name}")).body(bytes);
        client.send(request)
    };
    put("evil.py", vec![])
        .await
        .fails(400, "unknown_file", Some("file"));
    for (name, bytes) in &files {
        put(name, bytes.clone()).await.ok(200);
    }
    let weights = files
        .iter()
        .find(|(name, _)| *name == "model.safetensors")
        .unwrap()
        .1
        .clone();
    let damaged: [(&str, Vec<u8>, &str); 4] = [
        (
            "model.safetensors",
            weights[..weights.len() - 2].to_vec(),
            "cut off",
        ),
        ("model.safetensors", b"PK\x03\x04 a zip".to_vec(), "header"),
        ("config.json", br#"{"model_type": "gpt2"}"#.to_vec(), "gpt2"),
        ("tokenizer.json", b"[]".to_vec(), "tokenizer"),
    ];
    for (name, bytes, word) in damaged {
        put(name, bytes).await.ok(200);
        let answer = client.post(&format!("{path}/complete"), &json!({})).await;
        answer.fails(400, "base_model_incomplete", None);
        assert!(
            answer.body["error"]["message"].as_str().unwrap().contains(word),
            "{}",
            answer.body
        );
        let good = files.iter().find(|(file, _)| *file == name).unwrap().1.clone();
        put(name, good).await.ok(200);
    }
    assert_eq!(
        client.post(&format!("{path}/complete"), &json!({})).await.ok(200)["status"],
        "ready"
    );
}

#[tokio::test]
async fn a_folder_in_the_bucket_is_imported() {
    let app = App::start().await;
    let client = app.sign_up("first").await;
    let request = json!({"name": "imported", "s3_prefix": "imports/tiny/"});
    client
        .post("/v1/base-models", &request)
        .await
        .fails(400, "invalid_parameter", Some("s3_prefix"));
    for bad in ["../../datasets", "imports/../datasets", "a/b"] {
        let request = json!({"name": "imported", "s3_prefix": bad});
        client
            .post("/v1/base-models", &request)
            .await
            .fails(400, "invalid_parameter", Some("s3_prefix"));
    }
    let folder = "tiny".parse().unwrap();
    for (name, bytes) in tiny_model() {
        let key = BlobKey::import_file(&folder, name).unwrap();
        app.state.blobs.put_bytes(&key, bytes).await.unwrap();
    }
    client.post("/v1/base-models", &request).await.ok(201);
    let model = loop {
        let model = client.get("/v1/base-models/imported").await.ok(200);
        if model["status"] != "pending" {
            break model;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(model["status"], "ready", "{model}");
    let uploaded = client.register("uploaded", &tiny_model()).await.ok(200);
    assert_eq!(
        uploaded["digest"], model["digest"],
        "the same bytes have the same digest"
    );
}
