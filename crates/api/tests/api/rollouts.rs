//! Splits, canaries, shadows, rollbacks, usage and feedback through the API.

use serde_json::{Value, json};
use tunesmith_store::{
    aliases::{self, Expected, Mover, Target},
    deployments,
    requests::{self, MeteredRequest},
    revisions,
};
use tunesmith_types::{
    ids::{AdapterVersionId, OrganizationId},
    states::RequestStatus,
};
use uuid::Uuid;

use crate::jobs::{ready, request};
use crate::support::{App, Client, claim, finish_job};

/// A deployment `desk` that answers with the base model, and two versions of `boxes`.
async fn desk(app: &App) -> (Client, OrganizationId) {
    let client = ready(app, "first").await;
    for _ in 0..2 {
        client.post("/v1/jobs", &request("boxes")).await.ok(201);
        finish_job(&app.state, &claim(&app.state).await).await;
    }
    client
        .post("/v1/deployments", &json!({"name": "desk", "base_model": "tiny"}))
        .await
        .ok(201);
    let organization = client.get("/v1/organization").await.ok(200)["organization"]["id"].clone();
    let organization = organization.as_str().unwrap().parse().unwrap();
    activate(app, organization).await;
    (client, organization)
}

/// What the reconciler does once the replicas hold the newest revision.
async fn activate(app: &App, organization: OrganizationId) {
    let found = deployments::find(&app.state.store, organization, "desk")
        .await
        .unwrap();
    revisions::activate(&app.state.store, organization, found.latest.unwrap().id)
        .await
        .unwrap();
}

fn targets(revision: &Value) -> Vec<(&str, i64)> {
    let routes = revision["routes"].as_array().unwrap();
    routes
        .iter()
        .map(|route| {
            (
                route["target"].as_str().unwrap(),
                route["weight"].as_i64().unwrap(),
            )
        })
        .collect()
}

#[tokio::test]
async fn a_split_and_the_way_back() {
    let app = App::start().await;
    let (client, organization) = desk(&app).await;
    let split = json!({"routes": [{"adapter": "boxes", "version": 1, "weight": 70}, {"weight": 30}],
                       "expected_revision": 1, "reason": "try it"});
    let made = client.post("/v1/deployments/desk/split", &split).await.ok(200);
    let latest = &made["latest_revision"];
    assert_eq!(targets(latest), [("boxes@1", 70), ("base", 30)]);
    assert_eq!(
        (
            &latest["kind"],
            &latest["parent_number"],
            &latest["note"],
            &latest["status"]
        ),
        (&json!("split"), &json!(1), &json!("try it"), &json!("pending"))
    );
    activate(&app, organization).await;
    let stale = client.post("/v1/deployments/desk/split", &split).await;
    stale.fails(409, "revision_conflict", Some("expected_revision"));
    assert_eq!(stale.headers["x-should-retry"], "false");

    let back = client
        .post("/v1/deployments/desk/rollback", &json!({"reason": "worse"}))
        .await
        .ok(200);
    assert_eq!(targets(&back["active_revision"]), [("base", 100)]);
    assert_eq!(
        (
            &back["active_revision"]["kind"],
            &back["active_revision"]["number"]
        ),
        (&json!("rollback"), &json!(3))
    );
    let forward = client
        .post("/v1/deployments/desk/rollback", &json!({"to_revision": 2}))
        .await
        .ok(200);
    assert_eq!(
        targets(&forward["active_revision"]),
        [("boxes@1", 70), ("base", 30)]
    );
    client
        .post("/v1/deployments/desk/rollback", &json!({"to_revision": 99}))
        .await
        .fails(404, "revision_not_found", Some("to_revision"));
}

#[tokio::test]
async fn wrong_rollouts_name_the_field() {
    let app = App::start().await;
    let (client, _) = desk(&app).await;
    let route = |weight: Value| json!({"adapter": "boxes", "version": 1, "weight": weight});
    let split = |routes: Value| json!({ "routes": routes });
    let table = [
        (
            "split",
            split(json!([])),
            400,
            "invalid_parameter",
            Some("routes"),
        ),
        (
            "split",
            split(json!([route(json!(0))])),
            400,
            "invalid_parameter",
            Some("routes.0.weight"),
        ),
        (
            "split",
            split(json!([route(json!(99))])),
            400,
            "weights_do_not_sum",
            Some("routes"),
        ),
        (
            "split",
            split(json!([route(json!(50)), route(json!(50))])),
            400,
            "invalid_parameter",
            Some("routes.1"),
        ),
        (
            "split",
            split(json!([{"version": 1, "weight": 100}])),
            400,
            "invalid_parameter",
            Some("version"),
        ),
        (
            "split",
            split(json!([{"adapter": "boxes", "version": 1, "alias": "x", "weight": 100}])),
            400,
            "invalid_parameter",
            Some("alias"),
        ),
        (
            "promote",
            json!({"adapter": "boxes", "alias": "nobody"}),
            404,
            "adapter_version_not_found",
            Some("alias"),
        ),
        (
            "canary",
            json!({"adapter": "boxes", "steps": [5, 50]}),
            400,
            "invalid_parameter",
            Some("steps"),
        ),
        (
            "canary",
            json!({"adapter": "boxes", "gates": {"max_error_rate": 3}}),
            400,
            "invalid_parameter",
            Some("gates.max_error_rate"),
        ),
        (
            "canary",
            json!({"adapter": "nothing"}),
            404,
            "adapter_version_not_found",
            Some("adapter"),
        ),
        (
            "shadow",
            json!({"adapter": "boxes", "percent": 0}),
            400,
            "invalid_parameter",
            Some("percent"),
        ),
        ("rollback", json!({}), 409, "nothing_before", None),
    ];
    for (operation, body, status, code, param) in table {
        client
            .post(&format!("/v1/deployments/desk/{operation}"), &body)
            .await
            .fails(status, code, param);
    }
    for (path, param) in [
        ("/v1/deployments/desk/stats?window=1w", "window"),
        ("/v1/usage?group_by=colour", "group_by"),
        ("/v1/usage?from=5&to=4", "from"),
        ("/v1/usage?from=-5", "from"),
    ] {
        client
            .get(path)
            .await
            .fails(400, "invalid_parameter", Some(param));
    }
    let feedback = |id: &str, score: f64| json!({"id": id, "score": score});
    client
        .post("/v1/feedback", &feedback("chatcmpl-x", 2.0))
        .await
        .fails(400, "invalid_parameter", Some("score"));
    for id in ["chatcmpl-x", "x", "", "chatcmpl-00000000000000000000000000000000"] {
        client
            .post("/v1/feedback", &feedback(id, 1.0))
            .await
            .fails(404, "completion_not_found", Some("id"));
    }
}

#[tokio::test]
async fn a_canary_is_begun_shown_and_aborted() {
    let app = App::start().await;
    let (client, organization) = desk(&app).await;
    client
        .get("/v1/deployments/desk/canary")
        .await
        .fails(404, "canary_not_found", None);
    let body = json!({"adapter": "boxes", "version": 2, "steps": [10, 100], "step_seconds": 60,
                      "gates": {"max_error_rate": 0.02}});
    let canary = client.post("/v1/deployments/desk/canary", &body).await.ok(201);
    assert_eq!(
        (
            &canary["status"],
            &canary["candidate"],
            &canary["step"],
            &canary["gates"]["max_error_rate"]
        ),
        (&json!("running"), &json!("boxes@2"), &json!(1), &json!(0.02))
    );
    activate(&app, organization).await;
    let shown = client.get("/v1/deployments/desk").await.ok(200);
    assert_eq!(
        targets(&shown["active_revision"]),
        [("base", 90), ("boxes@2", 10)]
    );
    let again = client.post("/v1/deployments/desk/canary", &body).await;
    again.fails(409, "already_routed", Some("adapter"));
    let aborted = client.delete("/v1/deployments/desk/canary").await.ok(200);
    assert_eq!(aborted["status"], "aborted");
    let shown = client.get("/v1/deployments/desk").await.ok(200);
    assert_eq!(targets(&shown["active_revision"]), [("base", 100)]);
    client
        .delete("/v1/deployments/desk/canary")
        .await
        .fails(404, "running_canary_not_found", None);
    // A rollback ends a canary too.
    client.post("/v1/deployments/desk/canary", &body).await.ok(201);
    let back = client
        .post("/v1/deployments/desk/rollback", &json!({}))
        .await
        .ok(200);
    assert_eq!(targets(&back["active_revision"]), [("base", 100)]);
    let ended = client.get("/v1/deployments/desk/canary").await.ok(200);
    assert_eq!(ended["status"], "superseded");
    assert!(
        ended["reason"].as_str().unwrap().contains("(rollback)"),
        "{ended}"
    );
}

#[tokio::test]
async fn a_deployment_follows_an_alias_until_it_is_rolled_back() {
    let app = App::start().await;
    let (client, organization) = desk(&app).await;
    let champion = "champion".parse().unwrap();
    let mover = Mover {
        expected: Expected::Anything,
        user: None,
        may_change_protected: true,
        reason: None,
    };
    let point = async |version| {
        let target = Target {
            version,
            protected: None,
        };
        aliases::move_alias(
            &app.state.store,
            organization,
            "boxes",
            &champion,
            &target,
            &mover,
        )
        .await
        .unwrap();
    };
    point(1).await;
    let body = json!({"adapter": "boxes", "alias": "champion"});
    let made = client.post("/v1/deployments/desk/promote", &body).await.ok(200);
    assert_eq!(targets(&made["latest_revision"]), [("boxes@1", 100)]);
    assert_eq!(made["latest_revision"]["routes"][0]["alias"], "champion");
    activate(&app, organization).await;
    point(2).await;
    let followed = client.get("/v1/deployments/desk").await.ok(200);
    let latest = &followed["latest_revision"];
    assert_eq!(
        (targets(latest), &latest["kind"]),
        (vec![("boxes@2", 100)], &json!("alias"))
    );
    activate(&app, organization).await;
    let back = client
        .post("/v1/deployments/desk/rollback", &json!({}))
        .await
        .ok(200);
    assert_eq!(targets(&back["active_revision"]), [("boxes@1", 100)]);
    assert_eq!(back["active_revision"]["routes"][0]["alias"], json!(null));
    point(1).await;
    point(2).await;
    let pinned = client.get("/v1/deployments/desk").await.ok(200);
    assert_eq!(pinned["latest_revision"]["kind"], "rollback");
}

#[tokio::test]
async fn a_shadow_is_set_shown_and_ended() {
    let app = App::start().await;
    let (client, _) = desk(&app).await;
    let path = "/v1/deployments/desk/shadow";
    client.get(path).await.fails(404, "shadow_not_found", None);
    let set = client
        .post(path, &json!({"adapter": "boxes", "percent": 25}))
        .await
        .ok(200);
    assert_eq!(
        (&set["version"], &set["percent"]),
        (&json!("boxes@2"), &json!(25))
    );
    assert_eq!(client.get(path).await.ok(200), set);
    client.delete(path).await.ok(200);
    client.delete(path).await.fails(404, "shadow_not_found", None);
}

#[tokio::test]
async fn requests_become_usage_figures_and_feedback() {
    let app = App::start().await;
    let (client, organization) = desk(&app).await;
    let found = deployments::find(&app.state.store, organization, "desk")
        .await
        .unwrap();
    let version = AdapterVersionId::new();
    let asked = |tuned: bool, status| MeteredRequest {
        id: Uuid::now_v7(),
        organization_id: organization,
        model: "desk".to_owned(),
        base_model_id: found.base_model_id,
        deployment_id: Some(found.id),
        revision_number: Some(1),
        adapter_version_id: tuned.then_some(version),
        version: if tuned { "boxes@1" } else { "base" }.to_owned(),
        endpoint: "chat",
        streamed: false,
        status,
        error_code: None,
        prompt_tokens: Some(4),
        completion_tokens: Some(2),
        cached_tokens: None,
        first_token_ms: None,
        duration_ms: 10.0,
        mirror: None,
        age_seconds: 0.0,
    };
    let mut batch = vec![asked(false, RequestStatus::Ok); 20];
    batch.extend(vec![asked(true, RequestStatus::Error); 10]);
    for request in &mut batch {
        request.id = Uuid::now_v7();
    }
    requests::record(&app.state.store, &batch).await.unwrap();
    let id = format!("chatcmpl-{}", batch[0].id.simple());
    let scored = client
        .post(
            "/v1/feedback",
            &json!({"id": id, "score": 0.5, "comment": "nice"}),
        )
        .await
        .ok(200);
    assert_eq!(
        (&scored["version"], &scored["score"]),
        (&json!("base"), &json!(0.5))
    );
    let stranger = app.sign_up("second").await;
    stranger
        .post("/v1/feedback", &json!({"id": id, "score": 1.0}))
        .await
        .fails(404, "completion_not_found", Some("id"));

    let stats = client.get("/v1/deployments/desk/stats?window=1h").await.ok(200);
    let arms = stats["arms"].as_array().unwrap();
    assert_eq!(
        (
            arms.len(),
            &arms[0]["version"],
            &arms[0]["weight"],
            &arms[0]["requests"]
        ),
        (2, &json!("base"), &json!(100), &json!(20))
    );
    assert_eq!(
        (&arms[0]["feedback_count"], &arms[1]["error_rate"]),
        (&json!(1), &json!(1.0))
    );
    let difference = &stats["differences"][0];
    assert_eq!(
        (&difference["version"], &difference["baseline"]),
        (&json!("boxes@1"), &json!("base"))
    );
    assert_eq!(difference["error_rate"]["significant"], true);
    assert!(
        difference["error_rate"]["low"].as_f64().unwrap() > 0.5,
        "{difference}"
    );
    assert_eq!(difference["feedback"], json!(null));

    let usage = client.get("/v1/usage?group_by=version").await.ok(200);
    let rows = usage["data"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(
        (
            &rows[0]["version"],
            &rows[0]["requests"],
            &rows[0]["prompt_tokens"],
            &rows[0]["day"]
        ),
        (&json!("base"), &json!(20), &json!(80), &json!(null))
    );
    assert_eq!(rows[1]["errors"], 10);
}
