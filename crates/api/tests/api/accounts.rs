//! Sign-up, log-in, refresh and log-out.

use serde_json::{Value, json};

use crate::support::App;

fn credentials(password: &str) -> Value {
    json!({"email": "ada@example.com", "password": password})
}

async fn sign_up(app: &App) -> Value {
    let request =
        json!({"email": " Ada@Example.com", "password": "correct horse", "organization_name": "Engines"});
    app.anonymous().post("/v1/auth/signup", &request).await.ok(201)
}

#[tokio::test]
async fn sign_up_then_log_in_then_ask_who_i_am() {
    let app = App::start().await;
    let session = sign_up(&app).await;
    assert_eq!(session["user"]["email"], "ada@example.com");
    assert_eq!(
        (&session["role"], &session["organization"]["name"]),
        (&json!("owner"), &json!("Engines"))
    );

    let again = app
        .anonymous()
        .post("/v1/auth/login", &credentials("correct horse"))
        .await
        .ok(200);
    assert_eq!(again["user"]["id"], session["user"]["id"]);
    let client = app
        .anonymous()
        .with_token(again["tokens"]["access_token"].as_str().unwrap());
    let identity = client.get("/v1/organization").await.ok(200);
    assert_eq!(identity["organization"]["id"], session["organization"]["id"]);
    assert_eq!(identity["user"]["id"], session["user"]["id"]);
    assert_eq!(
        (&identity["role"], &identity["api_key_id"]),
        (&json!("owner"), &Value::Null)
    );

    let request = json!({"email": "ADA@example.com", "password": "another horse", "organization_name": "x"});
    app.anonymous()
        .post("/v1/auth/signup", &request)
        .await
        .fails(409, "email_taken", Some("email"));
}

#[tokio::test]
async fn wrong_and_unknown_accounts_look_alike() {
    let app = App::start().await;
    sign_up(&app).await;
    let wrong = app
        .anonymous()
        .post("/v1/auth/login", &credentials("wrong horse!"))
        .await;
    wrong.fails(401, "invalid_credentials", None);
    let request = json!({"email": "nobody@example.com", "password": "wrong horse!"});
    let unknown = app.anonymous().post("/v1/auth/login", &request).await;
    assert_eq!((wrong.status, wrong.body), (unknown.status, unknown.body));
}

#[tokio::test]
async fn guessing_is_slowed_down_and_success_forgives() {
    let app = App::start_with(|settings| settings.login_attempts_per_account = 3).await;
    sign_up(&app).await;
    let client = app.anonymous();
    for _ in 0..2 {
        client
            .post("/v1/auth/login", &credentials("wrong horse!"))
            .await
            .fails(401, "invalid_credentials", None);
    }
    client
        .post("/v1/auth/login", &credentials("correct horse"))
        .await
        .ok(200);
    for _ in 0..3 {
        client
            .post("/v1/auth/login", &credentials("wrong horse!"))
            .await
            .fails(401, "invalid_credentials", None);
    }
    let answer = client.post("/v1/auth/login", &credentials("correct horse")).await;
    answer.fails(429, "too_many_attempts", None);
    assert!(
        answer.headers["retry-after"]
            .to_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
            > 0
    );
    let other = json!({"email": "bob@example.com", "password": "wrong horse!"});
    client
        .post("/v1/auth/login", &other)
        .await
        .fails(401, "invalid_credentials", None);
}

#[tokio::test]
async fn a_refresh_token_works_once_and_its_copy_ends_the_log_in() {
    let app = App::start().await;
    let session = sign_up(&app).await;
    let client = app.anonymous();
    let refresh = |token: Value| {
        let client = client.clone();
        async move {
            client
                .post("/v1/auth/refresh", &json!({"refresh_token": token}))
                .await
        }
    };
    let first = session["tokens"]["refresh_token"].clone();
    let second = refresh(first.clone()).await.ok(200);
    let caller = client.with_token(second["access_token"].as_str().unwrap());
    caller.get("/v1/organization").await.ok(200);
    let third = refresh(second["refresh_token"].clone()).await.ok(200);

    refresh(first).await.fails(401, "invalid_credentials", None);
    refresh(third["refresh_token"].clone())
        .await
        .fails(401, "invalid_credentials", None);
    refresh(json!("tsr_nonsense"))
        .await
        .fails(401, "invalid_credentials", None);
}

#[tokio::test]
async fn logging_out_ends_the_log_in_and_no_other() {
    let app = App::start().await;
    let one = sign_up(&app).await["tokens"]["refresh_token"].clone();
    let client = app.anonymous();
    let other = client
        .post("/v1/auth/login", &credentials("correct horse"))
        .await
        .ok(200);
    client
        .post("/v1/auth/logout", &json!({"refresh_token": one}))
        .await
        .ok(204);
    client
        .post("/v1/auth/logout", &json!({"refresh_token": "unknown"}))
        .await
        .ok(204);
    client
        .post("/v1/auth/refresh", &json!({"refresh_token": one}))
        .await
        .fails(401, "invalid_credentials", None);
    let kept = json!({"refresh_token": other["tokens"]["refresh_token"]});
    client.post("/v1/auth/refresh", &kept).await.ok(200);
}

#[tokio::test]
async fn only_good_credentials_are_let_in() {
    let app = App::start().await;
    let client = app.anonymous();
    for path in [
        "/v1/organization",
        "/v1/jobs",
        "/v1/datasets",
        "/v1/adapters",
        "/v1/deployments",
        "/v1/base-models",
    ] {
        let answer = client.get(path).await;
        answer.fails(401, "invalid_credentials", None);
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
    }
    for header in [
        "",
        "Bearer",
        "Bearer ",
        "Basic YTpi",
        "Bearer tsk_short",
        "Bearer a.b.c",
        "Bearer \u{e4}",
    ] {
        let request = client
            .request("GET", "/v1/jobs")
            .header("authorization", header.as_bytes());
        client.send(request).await.fails(401, "invalid_credentials", None);
    }
    let unknown = tunesmith_api::auth::secret::new_api_key();
    client
        .with_token(&unknown)
        .get("/v1/jobs")
        .await
        .fails(401, "invalid_credentials", None);
    let other = App::start().await;
    let foreign = other.sign_up("foreign").await;
    foreign.get("/v1/jobs").await.ok(200);
    let key = tunesmith_api::auth::SigningKey::generate().unwrap();
    let tokens = tunesmith_api::auth::AccessTokens::new(&key, std::time::Duration::from_secs(60));
    let forged = tokens.issue(
        tunesmith_types::ids::UserId::new(),
        tunesmith_types::ids::OrganizationId::new(),
    );
    client
        .with_token(&forged.unwrap())
        .get("/v1/jobs")
        .await
        .fails(401, "invalid_credentials", None);
}
