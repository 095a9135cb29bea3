//! `Idempotency-Key`: once, however often it is sent.

use serde_json::{Value, json};

use crate::jobs::{ready, request};
use crate::support::{Answer, App, Client, example_lines};

async fn keyed(client: &Client, path: &str, key: &str, body: &Value) -> Answer {
    client
        .send(
            client
                .request("POST", path)
                .header("idempotency-key", key)
                .json(body),
        )
        .await
}

#[tokio::test]
async fn the_same_request_makes_one_job() {
    let app = App::start().await;
    let client = ready(&app, "first").await;
    let first = keyed(&client, "/v1/jobs", "k1", &request("boxes")).await;
    let second = keyed(&client, "/v1/jobs", "k1", &request("boxes")).await;
    assert_eq!((first.status, &first.body), (second.status, &second.body));
    assert_eq!(second.headers["idempotent-replayed"], "true");
    keyed(&client, "/v1/jobs", "k1", &request("other"))
        .await
        .fails(422, "idempotency_key_reused", None);
    keyed(&client, "/v1/deployments", "k1", &request("boxes"))
        .await
        .fails(422, "idempotency_key_reused", None);
    let other = ready(&app, "second").await;
    assert_ne!(
        keyed(&other, "/v1/jobs", "k1", &request("boxes")).await.ok(201)["id"],
        first.body["id"]
    );
    assert_eq!(
        client.get("/v1/jobs").await.ok(200)["data"]
            .as_array()
            .unwrap()
            .len(),
        1
    );

    let key = "x".repeat(256);
    keyed(&client, "/v1/jobs", &key, &request("boxes")).await.fails(
        400,
        "invalid_parameter",
        Some("Idempotency-Key"),
    );
}

#[tokio::test]
async fn a_refused_request_frees_its_key_and_many_at_once_make_one() {
    let app = App::start().await;
    let client = ready(&app, "first").await;
    let mut wrong = request("boxes");
    wrong["dataset"] = json!("nothing");
    keyed(&client, "/v1/jobs", "k", &wrong)
        .await
        .fails(404, "dataset_not_found", Some("dataset"));
    let body = request("boxes");
    let all = futures::future::join_all((0..8).map(|_| keyed(&client, "/v1/jobs", "k", &body))).await;
    for answer in &all {
        match answer.status {
            201 => {}
            _ => answer.fails(409, "idempotency_key_in_flight", None),
        }
    }
    assert!(all.iter().any(|answer| answer.status == 201));
    assert_eq!(
        client.get("/v1/jobs").await.ok(200)["data"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn an_upload_is_compared_by_its_bytes() {
    let app = App::start().await;
    let client = app.sign_up("first").await;
    let upload = |name: &str, lines: String| {
        let request = client
            .request("POST", &format!("/v1/datasets?name={name}"))
            .header("idempotency-key", "up");
        client.send(request.body(lines))
    };
    let first = upload("data", example_lines(3)).await.ok(201);
    assert_eq!(upload("data", example_lines(3)).await.ok(201)["id"], first["id"]);
    upload("data", example_lines(4))
        .await
        .fails(422, "idempotency_key_reused", None);
    upload("other", example_lines(3))
        .await
        .fails(422, "idempotency_key_reused", None);
    assert_eq!(
        client.get("/v1/datasets").await.ok(200)["data"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn a_secret_is_not_kept_for_a_second_answer() {
    let app = App::start().await;
    let client = app.sign_up("first").await;
    let body = json!({"name": "nightly"});
    keyed(&client, "/v1/api-keys", "k", &body).await.ok(201);
    keyed(&client, "/v1/api-keys", "k", &body)
        .await
        .fails(409, "secret_shown_once", None);
    assert_eq!(
        client.get("/v1/api-keys").await.ok(200)["data"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}
