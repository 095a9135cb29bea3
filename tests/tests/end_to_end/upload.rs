//! Uploads of any size: the memory of the API does not grow with the file.

use bytes::Bytes;
use futures::StreamExt;
use sha2::{Digest, Sha256};

use crate::support::{Parts, Platform, resident_bytes, wait_until};

const LINE: &str =
    "{\"messages\":[{\"role\":\"user\",\"content\":\"PAD\"},{\"role\":\"assistant\",\"content\":\"yes\"}]}\n";

#[tokio::test]
async fn memory_does_not_grow_with_the_upload() {
    let parts = Parts::start().await;
    parts.client.upload("small", &LINE.repeat(10)).await;
    let before = resident_bytes(parts.api_pid());

    let block = Bytes::from(LINE.replace("PAD", &"x".repeat(4000)).repeat(250));
    let blocks = 256;
    let mut hasher = Sha256::new();
    (0..blocks).for_each(|_| hasher.update(&block));
    let body =
        futures::stream::iter((0..blocks).map(move |_| Ok::<_, std::io::Error>(block.clone()))).boxed();
    let request = parts.client.request("POST", "/v1/datasets?name=large");
    let request = request
        .header("content-type", "application/jsonl")
        .body(reqwest::Body::wrap_stream(body));
    let sending = tokio::spawn(request.send());
    let mut most = before;
    while !sending.is_finished() {
        most = most.max(resident_bytes(parts.api_pid()));
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let response = sending.await.unwrap().unwrap();
    assert!(response.status().is_success(), "{}", response.status());
    let dataset: serde_json::Value = response.json().await.unwrap();
    assert_eq!(dataset["sha256"], hex::encode(hasher.finalize()));
    assert!(most - before < 64 << 20, "grew by {} MiB", (most - before) >> 20);

    let path = format!("/v1/datasets/{}", dataset["id"].as_str().unwrap());
    let validated = wait_until("the validation", || async {
        let dataset = parts.client.get(&path).await.ok();
        (dataset["status"] != "validating").then_some(dataset)
    })
    .await;
    let after = resident_bytes(parts.api_pid());
    assert!(
        after < before + (64 << 20),
        "validation grew by {} MiB",
        (after - before) >> 20
    );
    assert_eq!(validated["status"], "valid", "{validated}");
    assert_eq!(validated["examples"], 250 * blocks);
    parts.stop().await;
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing_visible() {
    let platform = Platform::start().await;
    let broken = futures::stream::iter([
        Ok(Bytes::from(LINE.repeat(200_000))),
        Err(std::io::Error::other("the client went away")),
    ]);
    let request = platform.client.request("POST", "/v1/datasets?name=broken");
    let request = request
        .header("content-type", "application/jsonl")
        .body(reqwest::Body::wrap_stream(broken));
    assert!(request.send().await.is_err());
    let list = platform.client.get("/v1/datasets").await.ok();
    assert_eq!(list["data"].as_array().unwrap().len(), 0, "{list}");
    platform.stop().await;
}
