//! A second organization sees nothing of the first.

use serde_json::json;

use crate::aliases::put;
use crate::jobs::{ready, request};
use crate::support::{App, claim, finish_job};

#[tokio::test]
async fn what_belongs_to_another_organization_is_not_found() {
    let app = App::start().await;
    let owner = ready(&app, "first").await;
    let job = owner.post("/v1/jobs", &request("boxes")).await.ok(201);
    finish_job(&app.state, &claim(&app.state).await).await;
    owner
        .post("/v1/deployments", &json!({"name": "desk", "base_model": "tiny"}))
        .await
        .ok(201);
    put(&owner, "champion", &json!({"version": 1})).await.ok(200);
    owner
        .post("/v1/base-models", &json!({"name": "pending"}))
        .await
        .ok(201);
    let export = owner
        .post(
            "/v1/adapters/boxes/versions/1/exports",
            &json!({"format": "peft"}),
        )
        .await
        .ok(202);
    let key = owner.post("/v1/api-keys", &json!({"name": "k"})).await.ok(201);
    let pending = owner.get("/v1/base-models/pending").await.ok(200);
    let id = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let (job, dataset, model) = (id(&job["id"]), id(&job["dataset_id"]), id(&job["base_model_id"]));
    let export = id(&export["id"]);
    let (key, pending) = (id(&key["id"]), id(&pending["id"]));

    let stranger = app.sign_up("second").await;
    let table = [
        ("DELETE", format!("/v1/api-keys/{key}")),
        ("GET", format!("/v1/base-models/{model}")),
        ("GET", "/v1/base-models/tiny".to_owned()),
        ("DELETE", format!("/v1/base-models/{model}")),
        ("PUT", format!("/v1/base-models/{pending}/files/config.json")),
        ("POST", format!("/v1/base-models/{pending}/complete")),
        ("GET", format!("/v1/datasets/{dataset}")),
        ("GET", format!("/v1/datasets/{dataset}/report")),
        ("GET", format!("/v1/datasets/{dataset}/content")),
        ("DELETE", format!("/v1/datasets/{dataset}")),
        ("GET", format!("/v1/jobs/{job}")),
        ("POST", format!("/v1/jobs/{job}/cancel")),
        ("GET", format!("/v1/jobs/{job}/events")),
        ("GET", format!("/v1/jobs/{job}/metrics")),
        ("GET", format!("/v1/jobs/{job}/checkpoints")),
        ("GET", "/v1/adapters/boxes".to_owned()),
        ("GET", "/v1/adapters/boxes/versions".to_owned()),
        ("GET", "/v1/adapters/boxes/versions/1".to_owned()),
        ("GET", "/v1/adapters/boxes/versions/1/download".to_owned()),
        ("GET", "/v1/adapters/boxes/versions/1/files".to_owned()),
        ("DELETE", "/v1/adapters/boxes/versions/1".to_owned()),
        ("GET", "/v1/adapters/boxes/versions/latest".to_owned()),
        ("GET", "/v1/adapters/boxes/versions/1/lineage".to_owned()),
        ("GET", "/v1/adapters/boxes/history".to_owned()),
        ("GET", "/v1/adapters/boxes/aliases".to_owned()),
        ("GET", "/v1/adapters/boxes/aliases/champion".to_owned()),
        ("DELETE", "/v1/adapters/boxes/aliases/champion".to_owned()),
        ("GET", "/v1/adapters/boxes/aliases/champion/history".to_owned()),
        ("GET", format!("/v1/datasets/{dataset}/lineage")),
        ("GET", format!("/v1/jobs/{job}/lineage")),
        ("POST", format!("/v1/jobs/{job}/checkpoints/1/publish")),
        ("GET", "/v1/deployments/desk/lineage".to_owned()),
        ("GET", "/v1/adapters/boxes/versions/1/exports".to_owned()),
        ("GET", format!("/v1/exports/{export}")),
        ("GET", format!("/v1/exports/{export}/files")),
        ("GET", "/v1/deployments/desk".to_owned()),
        ("DELETE", "/v1/deployments/desk".to_owned()),
        ("GET", "/v1/deployments/desk/canary".to_owned()),
        ("DELETE", "/v1/deployments/desk/canary".to_owned()),
        ("GET", "/v1/deployments/desk/shadow".to_owned()),
        ("DELETE", "/v1/deployments/desk/shadow".to_owned()),
        ("GET", "/v1/deployments/desk/stats".to_owned()),
    ];
    for (method, path) in &table {
        let answer = stranger.send(stranger.request(method, path)).await;
        assert_eq!(answer.status, 404, "{method} {path}: {}", answer.body);
    }
    put(&stranger, "champion", &json!({"version": 1}))
        .await
        .fails(404, "adapter_not_found", None);
    let body = json!({"base_model": model, "dataset": dataset, "adapter": "taken"});
    stranger
        .post("/v1/jobs", &body)
        .await
        .fails(404, "base_model_not_found", Some("base_model"));
    let body = json!({"name": "taken", "base_model": model});
    stranger
        .post("/v1/deployments", &body)
        .await
        .fails(404, "base_model_not_found", Some("base_model"));
    let body = json!({"adapter": "boxes", "version": 1});
    stranger
        .post("/v1/deployments/desk/promote", &body)
        .await
        .fails(404, "deployment_not_found", None);
    for (operation, body) in [
        ("split", json!({"routes": [{"adapter": "boxes", "weight": 100}]})),
        ("canary", json!({"adapter": "boxes"})),
        ("shadow", json!({"adapter": "boxes"})),
        ("rollback", json!({})),
    ] {
        stranger
            .post(&format!("/v1/deployments/desk/{operation}"), &body)
            .await
            .fails(404, "deployment_not_found", None);
    }
    assert_eq!(stranger.get("/v1/usage").await.ok(200)["data"], json!([]));
    for path in [
        "/v1/api-keys",
        "/v1/base-models",
        "/v1/datasets",
        "/v1/jobs",
        "/v1/adapters",
        "/v1/deployments",
    ] {
        assert_eq!(stranger.get(path).await.ok(200)["data"], json!([]), "{path}");
        let after = format!("{path}?after={}", if path == "/v1/jobs" { &job } else { "x" });
        assert_ne!(stranger.get(&after).await.body["data"], json!(null).to_string());
    }
    owner.get(&format!("/v1/jobs/{job}")).await.ok(200);
}
