//! API keys.

use serde_json::json;
use tunesmith_api::bootstrap;

use crate::support::App;

#[tokio::test]
async fn a_key_works_until_it_is_revoked_and_its_secret_is_shown_once() {
    let app = App::start().await;
    let owner = app.sign_up("first").await;
    let created = owner
        .post("/v1/api-keys", &json!({"name": "nightly"}))
        .await
        .ok(201);
    let secret = created["secret"].as_str().unwrap();
    assert_eq!((secret.len(), &secret[..4]), (53, "tsk_"));
    assert_eq!(created["role"], "member");

    let program = app.anonymous().with_token(secret);
    let identity = program.get("/v1/organization").await.ok(200);
    assert_eq!(identity["api_key_id"], created["id"]);
    program
        .get("/v1/api-keys")
        .await
        .fails(403, "insufficient_role", None);
    program
        .post("/v1/api-keys", &json!({"name": "more"}))
        .await
        .fails(403, "insufficient_role", None);

    let listed = owner.get("/v1/api-keys").await.ok(200);
    assert!(!listed.to_string().contains(&secret[8..]), "{listed}");
    assert!(listed["data"][0]["last_used_at"].is_i64(), "{listed}");
    owner
        .delete(&format!("/v1/api-keys/{}", created["id"].as_str().unwrap()))
        .await
        .ok(200);
    program
        .get("/v1/organization")
        .await
        .fails(401, "invalid_credentials", None);
    assert!(owner.get("/v1/api-keys").await.ok(200)["data"][0]["revoked_at"].is_i64());
}

#[tokio::test]
async fn a_key_may_do_at_most_what_its_maker_may() {
    let app = App::start().await;
    let owner = app.sign_up("first").await;
    let key = |role: &str| json!({"name": "k", "role": role, "expires_in": 3600});
    let admin = owner.post("/v1/api-keys", &key("admin")).await.ok(201);
    assert!(admin["expires_at"].as_i64().unwrap() - admin["created_at"].as_i64().unwrap() >= 3590);
    let admin = app.anonymous().with_token(admin["secret"].as_str().unwrap());
    admin
        .post("/v1/api-keys", &key("owner"))
        .await
        .fails(400, "invalid_parameter", Some("role"));
    let viewer = admin.post("/v1/api-keys", &key("viewer")).await.ok(201);
    let viewer = app.anonymous().with_token(viewer["secret"].as_str().unwrap());
    viewer.get("/v1/jobs").await.ok(200);
    for path in ["/v1/datasets?name=x", "/v1/base-models", "/v1/deployments"] {
        let body = json!({"name": "x", "base_model": "y"});
        viewer
            .post(path, &body)
            .await
            .fails(403, "insufficient_role", None);
    }
}

#[tokio::test]
async fn the_first_key_of_an_installation_is_the_owners() {
    let app = App::start().await;
    let key = bootstrap::owner_key(&app.state.store, "first").await.unwrap();
    assert!(
        bootstrap::is_owner_key(&app.state.store, &key.secret)
            .await
            .unwrap()
    );
    assert!(
        !bootstrap::is_owner_key(&app.state.store, "tsk_other")
            .await
            .unwrap()
    );
    let client = app.anonymous().with_token(&key.secret);
    let identity = client.get("/v1/organization").await.ok(200);
    assert_eq!(
        (&identity["role"], &identity["user"]),
        (&json!("owner"), &json!(null))
    );
    client
        .post("/v1/api-keys", &json!({"name": "second"}))
        .await
        .ok(201);
}
