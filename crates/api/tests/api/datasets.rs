//! Datasets: uploads, reports, downloads.

use futures::stream;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::support::{App, example_lines};

#[tokio::test]
async fn a_good_file_becomes_valid_and_comes_back_as_it_was() {
    let app = App::start().await;
    let client = app.sign_up("first").await;
    let lines = example_lines(30);
    let first = client.upload("support", &lines).await;
    assert_eq!(
        (&first["status"], &first["examples"]),
        (&json!("valid"), &json!(30)),
        "{first}"
    );
    assert_eq!(first["reference"], "support@1");
    assert_eq!(first["sha256"], hex::encode(Sha256::digest(&lines)));
    assert_eq!(client.upload("support", &lines).await["reference"], "support@2");

    let path = format!("/v1/datasets/{}", first["id"].as_str().unwrap());
    let response = client
        .request("GET", &format!("{path}/content"))
        .send()
        .await
        .unwrap();
    assert_eq!(
        response.headers()["content-length"],
        lines.len().to_string().as_str()
    );
    assert_eq!(
        response.headers()["content-disposition"],
        "attachment; filename=\"support-1.jsonl\""
    );
    assert_eq!(response.text().await.unwrap(), lines);

    client.delete(&path).await.ok(200);
    client.get(&path).await.fails(404, "dataset_not_found", None);
    assert_eq!(client.upload("support", &lines).await["reference"], "support@3");
}

#[tokio::test]
async fn a_bad_file_is_kept_with_its_report() {
    let app = App::start().await;
    let client = app.sign_up("first").await;
    let lines = format!("{}not json\n{{\"messages\": []}}\n", example_lines(2));
    let dataset = client.upload("mixed", &lines).await;
    assert_eq!(dataset["status"], "invalid");
    let report = client
        .get(&format!(
            "/v1/datasets/{}/report",
            dataset["id"].as_str().unwrap()
        ))
        .await
        .ok(200);
    let bad: Vec<u64> = report["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["line"].as_u64().unwrap())
        .collect();
    assert_eq!(bad, [3, 4], "{report}");
    assert_eq!(client.upload("empty", "").await["status"], "invalid");
    let listed = client.get("/v1/datasets").await.ok(200);
    assert!(
        listed["data"]
            .as_array()
            .unwrap()
            .iter()
            .all(|row| row["report"].is_null()),
        "{listed}"
    );
}

#[tokio::test]
async fn a_file_of_several_parts_is_hashed_on_its_way() {
    let app = App::start().await;
    let client = app.sign_up("first").await;
    let line = format!(
        "{{\"prompt\":\"{}\",\"completion\":\"c\"}}\n",
        "x".repeat(1 << 20)
    );
    let whole = line.repeat(20);
    let pieces = stream::iter((0..20).map(move |_| Ok::<_, std::io::Error>(line.clone())));
    let request = client
        .request("POST", "/v1/datasets?name=large")
        .body(reqwest::Body::wrap_stream(pieces));
    let dataset = client.send(request).await.ok(201);
    assert_eq!(dataset["sha256"], hex::encode(Sha256::digest(&whole)));
    assert_eq!(dataset["bytes"], whole.len());
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing_visible() {
    let app = App::start().await;
    let client = app.sign_up("first").await;
    for size in [10, 12 << 20] {
        let broken = stream::iter([Ok("x".repeat(size)), Err(std::io::Error::other("gone"))]);
        let request = client
            .request("POST", "/v1/datasets?name=broken")
            .body(reqwest::Body::wrap_stream(broken));
        assert!(request.send().await.is_err());
    }
    assert_eq!(client.get("/v1/datasets").await.ok(200)["data"], json!([]));
    assert_eq!(client.upload("broken", &example_lines(1)).await["number"], 1);
}

#[tokio::test]
async fn pages_are_newest_first_and_complete() {
    let app = App::start().await;
    let client = app.sign_up("first").await;
    for _ in 0..5 {
        client.upload("many", &example_lines(1)).await;
    }
    let mut numbers = Vec::new();
    let mut path = "/v1/datasets?limit=2".to_owned();
    loop {
        let page = client.get(&path).await.ok(200);
        assert_eq!(page["object"], "list");
        let rows = page["data"].as_array().unwrap().clone();
        assert_eq!(page["first_id"], rows[0]["id"]);
        numbers.extend(rows.iter().map(|row| row["number"].as_i64().unwrap()));
        if page["has_more"] == false {
            break;
        }
        path = format!("/v1/datasets?limit=2&after={}", page["last_id"].as_str().unwrap());
    }
    assert_eq!(numbers, [5, 4, 3, 2, 1]);
}

#[tokio::test]
async fn what_a_process_left_unvalidated_is_taken_up() {
    let app = App::start().await;
    let client = app.sign_up("first").await;
    let identity = client.get("/v1/organization").await.ok(200);
    let organization = identity["organization"]["id"].as_str().unwrap().parse().unwrap();
    let id = tunesmith_types::ids::DatasetId::new();
    let key = tunesmith_blobs::BlobKey::dataset(organization, id);
    let stored = app.state.blobs.put_bytes(&key, example_lines(2)).await.unwrap();
    let new = tunesmith_store::datasets::NewDataset {
        id,
        name: &"left".parse().unwrap(),
        sha256: &stored.sha256,
        bytes: i64::try_from(stored.bytes).unwrap(),
        blob_key: key.as_str(),
        created_by: None,
    };
    tunesmith_store::datasets::create(&app.state.store, organization, &new)
        .await
        .unwrap();
    let report = format!("/v1/datasets/{id}/report");
    let early = client.get(&report).await;
    early.fails(409, "dataset_not_validated", None);
    assert_eq!(early.headers["x-should-retry"], "false");
    tunesmith_api::take_up_validations(&app.state).await.unwrap();
    while client.get(&report).await.status == 409 {
        tokio::task::yield_now().await;
    }
    assert_eq!(client.get(&report).await.ok(200)["examples"], 2);
}
