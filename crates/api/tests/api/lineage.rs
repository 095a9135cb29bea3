//! Lineage over HTTP, from every end.

use serde_json::json;

use crate::aliases::{put, with_versions};
use crate::support::App;

#[tokio::test]
async fn one_call_tells_the_whole_way() {
    let app = App::start().await;
    let client = with_versions(&app, 2).await;
    put(&client, "champion", &json!({"version": 2})).await.ok(200);
    let body = json!({"name": "desk", "base_model": "tiny", "adapter": "boxes", "version": 2});
    client.post("/v1/deployments", &body).await.ok(201);
    let version = client.get("/v1/adapters/boxes/versions/2").await.ok(200);
    let job = client
        .get(&format!("/v1/jobs/{}", version["job_id"].as_str().unwrap()))
        .await
        .ok(200);

    let lineage = client
        .get("/v1/adapters/boxes/versions/champion/lineage")
        .await
        .ok(200);
    assert_eq!(
        (
            &lineage["datasets"][0]["id"],
            &lineage["datasets"][0]["reference"]
        ),
        (&job["dataset_id"], &json!("data@1"))
    );
    assert_eq!(
        (&lineage["jobs"][0]["id"], &lineage["jobs"][0]["status"]),
        (&job["id"], &json!("succeeded"))
    );
    let shown = &lineage["versions"][0];
    assert_eq!(
        (
            &shown["id"],
            &shown["digest"],
            &shown["job_id"],
            &shown["aliases"]
        ),
        (
            &version["id"],
            &version["digest"],
            &job["id"],
            &json!(["champion"])
        )
    );
    let deployment = &lineage["deployments"][0];
    assert_eq!(
        (&deployment["deployment"], &deployment["revision"]),
        (&json!("desk"), &json!(1))
    );
    let route = json!({"adapter_version_id": version["id"], "reference": "boxes@2", "weight": 100});
    assert_eq!(deployment["routes"], json!([route]));

    let paths = [
        format!("/v1/jobs/{}/lineage", job["id"].as_str().unwrap()),
        "/v1/deployments/desk/lineage".to_owned(),
    ];
    for path in paths {
        assert_eq!(client.get(&path).await.ok(200), lineage, "{path}");
    }
    let path = format!("/v1/datasets/{}/lineage", job["dataset_id"].as_str().unwrap());
    let of_dataset = client.get(&path).await.ok(200);
    assert_eq!(
        (
            of_dataset["versions"].as_array().unwrap().len(),
            of_dataset["jobs"].as_array().unwrap().len()
        ),
        (2, 2)
    );
    client
        .get("/v1/adapters/boxes/versions/9/lineage")
        .await
        .fails(404, "adapter_version_not_found", None);
}
