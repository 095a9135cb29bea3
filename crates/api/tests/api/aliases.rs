//! Aliases over HTTP: compare-and-set, protection by role, history, and references by alias.

use serde_json::{Value, json};

use crate::jobs::{ready, request};
use crate::support::{Answer, App, Client, claim, finish_job};

/// The owner of the adapter `boxes` with so many versions.
pub(crate) async fn with_versions(app: &App, count: usize) -> Client {
    let client = ready(app, "first").await;
    for _ in 0..count {
        client.post("/v1/jobs", &request("boxes")).await.ok(201);
        finish_job(&app.state, &claim(&app.state).await).await;
    }
    client
}

pub(crate) async fn put(client: &Client, alias: &str, body: &Value) -> Answer {
    let path = format!("/v1/adapters/boxes/aliases/{alias}");
    client.send(client.request("PUT", &path).json(body)).await
}

async fn with_role(owner: &Client, role: &str) -> Client {
    let body = json!({"name": role, "role": role});
    let key = owner.post("/v1/api-keys", &body).await.ok(201);
    owner.with_token(key["secret"].as_str().unwrap())
}

#[tokio::test]
async fn an_alias_moves_only_from_where_it_was_seen() {
    let app = App::start().await;
    let client = with_versions(&app, 3).await;
    let body = json!({"version": 1, "expected_version": null, "reason": "the first"});
    let alias = put(&client, "champion", &body).await.ok(200);
    assert_eq!(
        (&alias["reference"], &alias["protected"]),
        (&json!("boxes@1"), &json!(false))
    );
    assert!(alias["moved_by"].as_str().unwrap().starts_with("user_"));
    put(&client, "champion", &body)
        .await
        .fails(409, "alias_conflict", Some("expected_version"));
    let body = json!({"version": "latest", "expected_version": 2});
    let stale = put(&client, "champion", &body).await;
    stale.fails(409, "alias_conflict", Some("expected_version"));
    assert!(
        stale.body["error"]["message"]
            .as_str()
            .unwrap()
            .contains("version 1")
    );
    assert_eq!(stale.headers["x-should-retry"], "false");
    let body = json!({"version": "latest", "expected_version": 1});
    put(&client, "champion", &body).await.ok(200);
    put(&client, "night", &json!({"version": "previous"}))
        .await
        .ok(200);

    let aliases = client.get("/v1/adapters/boxes/aliases").await.ok(200);
    let named: Vec<_> = aliases["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|alias| {
            (
                alias["name"].as_str().unwrap(),
                alias["version"].as_i64().unwrap(),
            )
        })
        .collect();
    assert_eq!(named, [("champion", 3), ("night", 1), ("previous", 1)]);
    for (reference, number) in [("champion", 3), ("previous", 1), ("latest", 3), ("2", 2)] {
        let path = format!("/v1/adapters/boxes/versions/{reference}");
        assert_eq!(client.get(&path).await.ok(200)["number"], number);
        client.get(&format!("{path}/files")).await.ok(200);
    }

    put(&client, "previous", &json!({"version": 2}))
        .await
        .fails(409, "alias_follows", Some("alias"));
    for name in ["7", "latest", "No", "a--b"] {
        put(&client, name, &json!({"version": 1}))
            .await
            .fails(400, "invalid_parameter", Some("alias"));
    }
    put(&client, "champion", &json!({"version": 9})).await.fails(
        404,
        "adapter_version_not_found",
        Some("version"),
    );
    put(&client, "champion", &json!({"version": 0}))
        .await
        .fails(400, "invalid_parameter", Some("version"));
    put(&client, "champion", &json!({}))
        .await
        .fails(400, "missing_parameter", Some("version"));
    let body = json!({"version": 1, "reason": "x".repeat(1001)});
    put(&client, "champion", &body)
        .await
        .fails(400, "invalid_parameter", Some("reason"));

    client
        .delete("/v1/adapters/boxes/aliases/night?expected_version=2")
        .await
        .fails(409, "alias_conflict", Some("expected_version"));
    let deleted = client
        .delete("/v1/adapters/boxes/aliases/night?expected_version=1&reason=over")
        .await;
    assert_eq!(deleted.ok(200)["id"], "night");
    client
        .get("/v1/adapters/boxes/aliases/night")
        .await
        .fails(404, "alias_not_found", None);
    let history = client
        .get("/v1/adapters/boxes/aliases/night/history")
        .await
        .ok(200);
    assert_eq!(
        (&history["data"][0]["to_version"], &history["data"][0]["reason"]),
        (&Value::Null, &json!("over"))
    );
    let all = client.get("/v1/adapters/boxes/history?limit=2").await.ok(200);
    assert_eq!(
        (all["data"].as_array().unwrap().len(), &all["has_more"]),
        (2, &json!(true))
    );
    let path = format!(
        "/v1/adapters/boxes/history?after={}",
        all["last_id"].as_str().unwrap()
    );
    let rest = client.get(&path).await.ok(200);
    assert_eq!(rest["data"].as_array().unwrap().len(), 3);
    assert_eq!(rest["data"][2]["reason"], "the first");
    client
        .get("/v1/adapters/boxes/aliases/never/history")
        .await
        .fails(404, "alias_not_found", None);
}

#[tokio::test]
async fn roles_decide_who_moves_what() {
    let app = App::start().await;
    let owner = with_versions(&app, 2).await;
    let member = with_role(&owner, "member").await;
    let admin = with_role(&owner, "admin").await;
    let viewer = with_role(&owner, "viewer").await;
    put(&viewer, "champion", &json!({"version": 1}))
        .await
        .fails(403, "insufficient_role", None);
    put(&member, "champion", &json!({"version": 1, "protected": true}))
        .await
        .fails(403, "alias_protected", Some("alias"));
    put(&member, "champion", &json!({"version": 1})).await.ok(200);
    let alias = put(&admin, "champion", &json!({"version": 1, "protected": true}))
        .await
        .ok(200);
    assert_eq!(alias["protected"], true);
    for body in [json!({"version": 2}), json!({"version": 1, "protected": false})] {
        let answer = put(&member, "champion", &body).await;
        answer.fails(403, "alias_protected", Some("alias"));
        assert_eq!(answer.body["error"]["type"], "permission_error");
    }
    member
        .delete("/v1/adapters/boxes/aliases/champion")
        .await
        .fails(403, "alias_protected", Some("alias"));
    viewer
        .delete("/v1/adapters/boxes/aliases/champion")
        .await
        .fails(403, "insufficient_role", None);
    viewer
        .delete("/v1/adapters/boxes/versions/2")
        .await
        .fails(403, "insufficient_role", None);
    assert_eq!(
        viewer.get("/v1/adapters/boxes/aliases/champion").await.ok(200)["version"],
        1
    );
    put(&owner, "champion", &json!({"version": 2})).await.ok(200);
    admin.delete("/v1/adapters/boxes/aliases/champion").await.ok(200);
}
