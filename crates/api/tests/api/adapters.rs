//! Adapters, versions and their downloads.

use std::io::Read;

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::jobs::{ready, request};
use crate::support::{App, claim, finish_job};

#[tokio::test]
async fn a_version_is_listed_and_taken_home() {
    let app = App::start().await;
    let client = ready(&app, "first").await;
    for _ in 0..2 {
        client.post("/v1/jobs", &request("boxes")).await.ok(201);
        finish_job(&app.state, &claim(&app.state).await).await;
    }
    let adapter = client.get("/v1/adapters").await.ok(200)["data"][0].clone();
    assert_eq!(
        (&adapter["latest_version"], &adapter["base_model"]),
        (&json!(2), &json!("tiny"))
    );
    assert_eq!(client.get("/v1/adapters/boxes").await.ok(200), adapter);
    let versions = client.get("/v1/adapters/boxes/versions?limit=1").await.ok(200);
    assert_eq!(
        (&versions["data"][0]["reference"], &versions["has_more"]),
        (&json!("boxes@2"), &json!(true))
    );
    let version = client.get("/v1/adapters/boxes/versions/1").await.ok(200);
    assert_eq!(version["manifest"], json!({"rank": 16}));

    let path = "/v1/adapters/boxes/versions/1/download";
    let response = client.request("GET", path).send().await.unwrap();
    let length: u64 = response.headers()["content-length"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(
        response.headers()["content-disposition"],
        "attachment; filename=\"boxes-v1.tar\""
    );
    let archive = response.bytes().await.unwrap();
    assert_eq!(archive.len() as u64, length);
    let again = client
        .request("GET", path)
        .send()
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    assert_eq!(archive, again);

    let mut found = Vec::new();
    for entry in tar::Archive::new(&archive[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        assert_eq!(
            (entry.header().mtime().unwrap(), entry.header().uid().unwrap()),
            (0, 0)
        );
        found.push((name, hex::encode(Sha256::digest(&content))));
    }
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "boxes-v1/adapter_config.json",
            "boxes-v1/adapter_model.safetensors"
        ]
    );

    let files = client.get("/v1/adapters/boxes/versions/1/files").await.ok(200);
    for (file, (_, digest)) in files["data"].as_array().unwrap().iter().zip(&found) {
        let content = reqwest::get(file["url"].as_str().unwrap())
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap();
        assert_eq!(&hex::encode(Sha256::digest(&content)), digest);
        assert_eq!(file["sha256"], digest.as_str());
    }
}

#[tokio::test]
async fn a_damaged_file_breaks_the_download_off() {
    let app = App::start().await;
    let client = ready(&app, "first").await;
    client.post("/v1/jobs", &request("boxes")).await.ok(201);
    let job = claim(&app.state).await;
    finish_job(&app.state, &job).await;
    let place = tunesmith_blobs::keys::RunPlace {
        job: job.token.job_id,
        epoch: job.token.epoch,
        lease: job.token.lease_id,
    };
    let key = tunesmith_blobs::BlobKey::adapter_file(place, "adapter_model.safetensors").unwrap();
    app.state
        .blobs
        .put_bytes(&key, "WEIGHTS".repeat(100))
        .await
        .unwrap();
    let response = client
        .request("GET", "/v1/adapters/boxes/versions/1/download")
        .send()
        .await
        .unwrap();
    assert!(response.bytes().await.is_err());
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let app = App::start().await;
    let client = app.sign_up("first").await;
    client
        .get("/v1/adapters/none")
        .await
        .fails(404, "adapter_not_found", None);
    client
        .get("/v1/adapters/none/versions")
        .await
        .fails(404, "adapter_not_found", None);
    for path in [
        "none/versions/1",
        "none/versions/x",
        "..%2F/versions/1",
        "none/versions/1/download",
        "a/versions/9999999999/files",
    ] {
        client
            .get(&format!("/v1/adapters/{path}"))
            .await
            .fails(404, "adapter_version_not_found", None);
    }
}
