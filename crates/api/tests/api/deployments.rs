//! Deployments and promotions.

use serde_json::json;
use tunesmith_store::replicas::{self, NewReplica, ReplicaKind};
use tunesmith_store::revisions;

use crate::jobs::{ready, request};
use crate::support::{App, claim, finish_job, tiny_model};

#[tokio::test]
async fn a_version_is_promoted_revision_by_revision() {
    let app = App::start().await;
    let client = ready(&app, "first").await;
    client.post("/v1/jobs", &request("boxes")).await.ok(201);
    finish_job(&app.state, &claim(&app.state).await).await;
    let made = client
        .post("/v1/deployments", &json!({"name": "desk", "base_model": "tiny"}))
        .await
        .ok(201);
    assert_eq!(made["active_revision"], json!(null));
    let first = &made["latest_revision"];
    assert_eq!(
        (&first["status"], &first["routes"][0]["target"]),
        (&json!("pending"), &json!("base"))
    );
    let organization = client.get("/v1/organization").await.ok(200)["organization"]["id"].clone();
    let organization = organization.as_str().unwrap().parse().unwrap();
    let id = first["id"].as_str().unwrap().parse().unwrap();
    revisions::activate(&app.state.store, organization, id)
        .await
        .unwrap();

    let promote = |revision: i32| json!({"adapter": "boxes", "version": 1, "expected_revision": revision});
    let path = "/v1/deployments/desk/promote";
    client
        .post(path, &promote(7))
        .await
        .fails(409, "revision_conflict", Some("expected_revision"));
    let promoted = client.post(path, &promote(1)).await.ok(200);
    assert_eq!(promoted["active_revision"]["number"], 1);
    assert_eq!(promoted["latest_revision"]["routes"][0]["target"], "boxes@1");
    assert_eq!(promoted["revisions"].as_array().unwrap().len(), 2);
    let listed = client.get("/v1/deployments").await.ok(200);
    assert_eq!(
        (&listed["data"][0]["name"], &listed["data"][0]["revisions"]),
        (&json!("desk"), &json!([]))
    );

    client
        .post("/v1/deployments", &json!({"name": "desk", "base_model": "tiny"}))
        .await
        .fails(409, "name_taken", Some("name"));
    let direct = json!({"name": "direct", "base_model": "tiny", "adapter": "boxes"});
    let direct = client.post("/v1/deployments", &direct).await.ok(201);
    assert_eq!(direct["latest_revision"]["routes"][0]["version"], 1);
    client.delete("/v1/deployments/desk").await.ok(200);
    client
        .get("/v1/deployments/desk")
        .await
        .fails(404, "deployment_not_found", None);
}

#[tokio::test]
async fn a_version_of_another_base_model_is_refused() {
    let app = App::start().await;
    let client = ready(&app, "first").await;
    client.register("other", &tiny_model()).await.ok(200);
    client.post("/v1/jobs", &request("boxes")).await.ok(201);
    finish_job(&app.state, &claim(&app.state).await).await;
    client
        .post("/v1/deployments", &json!({"name": "desk", "base_model": "other"}))
        .await
        .ok(201);
    let answer = client
        .post("/v1/deployments/desk/promote", &json!({"adapter": "boxes"}))
        .await;
    answer.fails(400, "base_model_differs", Some("adapter"));
    let message = answer.body["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("`tiny`") && message.contains("`other`"),
        "{message}"
    );
    let direct = json!({"name": "direct", "base_model": "other", "adapter": "boxes"});
    client
        .post("/v1/deployments", &direct)
        .await
        .fails(400, "base_model_differs", Some("adapter"));

    for (body, kind, param) in [
        (
            json!({"adapter": "nothing"}),
            "adapter_version_not_found",
            "adapter",
        ),
        (json!({"adapter": "../x"}), "adapter_version_not_found", "adapter"),
        (
            json!({"adapter": "boxes", "version": 9}),
            "adapter_version_not_found",
            "version",
        ),
    ] {
        client
            .post("/v1/deployments/desk/promote", &body)
            .await
            .fails(404, kind, Some(param));
    }
}

#[tokio::test]
async fn what_the_inference_servers_cannot_serve_is_neither_trained_nor_deployed() {
    let app = App::start().await;
    let client = ready(&app, "first").await;
    client.post("/v1/jobs", &request("boxes")).await.ok(201);
    finish_job(&app.state, &claim(&app.state).await).await;
    let models = client.get("/v1/base-models").await.ok(200);
    let base_model_id = models["data"][0]["id"].as_str().unwrap().parse().unwrap();
    let server = NewReplica {
        base_model_id,
        url: "http://10.0.0.7:8000",
        kind: ReplicaKind::Vllm,
        max_rank: Some(4),
        max_adapters: None,
    };
    replicas::register(&app.state.store, &server).await.unwrap();
    let mut wide = request("wide");
    wide["hyperparameters"]["rank"] = json!(8);
    let answer = client.post("/v1/jobs", &wide).await;
    answer.fails(400, "adapter_not_servable", Some("hyperparameters.rank"));
    let message = answer.body["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("rank 4 at most") && message.contains("rank 8"),
        "{message}"
    );
    wide["hyperparameters"]["rank"] = json!(4);
    client.post("/v1/jobs", &wide).await.ok(201);

    replicas::remove(&app.state.store, server.url).await.unwrap();
    let wide = NewReplica {
        max_rank: Some(512),
        ..server
    };
    replicas::register(&app.state.store, &wide).await.unwrap();
    let deployment = json!({"name": "direct", "base_model": "tiny", "adapter": "boxes"});
    client.post("/v1/deployments", &deployment).await.ok(201);
}
