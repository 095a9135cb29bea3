//! Deleting versions over HTTP.

use serde_json::{Value, json};

use crate::aliases::{put, with_versions};
use crate::support::App;

#[tokio::test]
async fn a_deleted_version_loses_its_files_and_keeps_its_number() {
    let app = App::start().await;
    let client = with_versions(&app, 3).await;
    put(&client, "champion", &json!({"version": 2})).await.ok(200);
    let refused = client.delete("/v1/adapters/boxes/versions/2").await;
    refused.fails(409, "version_in_use", None);
    assert!(
        refused.body["error"]["message"]
            .as_str()
            .unwrap()
            .contains("`champion`")
    );
    let body = json!({"name": "desk", "base_model": "tiny", "adapter": "boxes", "version": 1});
    client.post("/v1/deployments", &body).await.ok(201);
    let refused = client.delete("/v1/adapters/boxes/versions/1").await;
    refused.fails(409, "version_in_use", None);
    assert!(
        refused.body["error"]["message"]
            .as_str()
            .unwrap()
            .contains("`desk`")
    );

    let files = client.get("/v1/adapters/boxes/versions/3/files").await.ok(200);
    let url = files["data"][0]["url"].as_str().unwrap().to_owned();
    assert_eq!(reqwest::get(&url).await.unwrap().status().as_u16(), 200);
    let path = "/v1/adapters/boxes/versions/3";
    let deleted = client.delete(&format!("{path}?reason=worse")).await.ok(200);
    assert_eq!(
        (&deleted["number"], &deleted["deletion_reason"]),
        (&json!(3), &json!("worse"))
    );
    assert_eq!(reqwest::get(&url).await.unwrap().status().as_u16(), 404);
    // Again, as after a lost answer: nothing changes.
    assert_eq!(client.delete(path).await.ok(200), deleted);
    let shown = client.get(path).await.ok(200);
    assert_eq!(shown, deleted);
    assert!(shown["deleted_by"].as_str().unwrap().starts_with("user_"));
    for what in ["files", "download"] {
        client
            .get(&format!("{path}/{what}"))
            .await
            .fails(410, "version_deleted", None);
    }
    put(&client, "champion", &json!({"version": 3}))
        .await
        .fails(410, "version_deleted", None);
    client
        .post(
            "/v1/deployments/desk/promote",
            &json!({"adapter": "boxes", "version": 3}),
        )
        .await
        .fails(404, "adapter_version_not_found", Some("version"));

    let numbers = |list: Value| -> Vec<i64> {
        let rows = list["data"].as_array().unwrap();
        rows.iter().map(|row| row["number"].as_i64().unwrap()).collect()
    };
    let path = "/v1/adapters/boxes/versions";
    assert_eq!(numbers(client.get(path).await.ok(200)), [2, 1]);
    let all = client.get(&format!("{path}?include_deleted=true")).await.ok(200);
    assert_eq!(numbers(all), [3, 2, 1]);
    assert_eq!(
        client.get("/v1/adapters/boxes").await.ok(200)["latest_version"],
        2
    );
    for absent in ["9", "champion"] {
        client
            .delete(&format!("{path}/{absent}"))
            .await
            .fails(404, "adapter_version_not_found", None);
    }
}
