//! Wrong input of every kind: status, code and field.

use serde_json::{Value, json};

use crate::jobs::{ready, request};
use crate::support::App;

#[tokio::test]
async fn wrong_bodies_name_the_field() {
    let app = App::start().await;
    let client = ready(&app, "first").await;
    let with = |field: &str, value: Value| {
        let mut body = request("boxes");
        body["hyperparameters"] = json!({field: value});
        body
    };
    let invalid = "invalid_parameter";
    let table: Vec<(Value, &str, &str)> = vec![
        (with("rank", json!(0)), invalid, "hyperparameters.rank"),
        (with("rank", json!("sixteen")), invalid, "hyperparameters.rank"),
        (with("rank", json!(-1)), invalid, "hyperparameters.rank"),
        (with("rank", json!(1.5)), invalid, "hyperparameters.rank"),
        (with("alpha", json!(0)), invalid, "hyperparameters.alpha"),
        (
            with("learning_rate", json!(1)),
            invalid,
            "hyperparameters.learning_rate",
        ),
        (
            with("schedule", json!("zigzag")),
            invalid,
            "hyperparameters.schedule",
        ),
        (
            with("target_modules", json!(["conv1"])),
            invalid,
            "hyperparameters.target_modules",
        ),
        (
            with("target_modules", json!(["qkv_proj"])),
            invalid,
            "hyperparameters.target_modules",
        ),
        (
            with("target_modules", json!("(")),
            invalid,
            "hyperparameters.target_modules",
        ),
        (with("rank", json!(17)), invalid, "hyperparameters.rank"),
        (
            with("rank_pattern", json!({"q_proj": 0})),
            invalid,
            "hyperparameters.rank_pattern.q_proj",
        ),
        (
            with("rank_pattern", json!({"q_proj": 33})),
            invalid,
            "hyperparameters.rank_pattern",
        ),
        (
            with("alpha_pattern", json!({"qkv_proj": 4})),
            invalid,
            "hyperparameters.alpha_pattern",
        ),
        (
            with("layers_to_transform", json!([1])),
            invalid,
            "hyperparameters.layers_to_transform",
        ),
        (
            with("layers_to_transform", json!([-1])),
            invalid,
            "hyperparameters.layers_to_transform[0]",
        ),
        (
            with("loraplus_lr_ratio", json!(0)),
            invalid,
            "hyperparameters.loraplus_lr_ratio",
        ),
        (
            with("decay_ratio", json!(0.1)),
            invalid,
            "hyperparameters.decay_ratio",
        ),
        (
            with("batch_tokens", json!(1)),
            invalid,
            "hyperparameters.batch_tokens",
        ),
        (
            with("early_stopping_threshold", json!(1)),
            invalid,
            "hyperparameters.early_stopping_threshold",
        ),
        (
            with("early_stopping_patience", json!(0)),
            invalid,
            "hyperparameters.early_stopping_patience",
        ),
        (
            with("load_best_model_at_end", json!("yes")),
            invalid,
            "hyperparameters.load_best_model_at_end",
        ),
        (
            with("train_on_inputs", json!(1)),
            invalid,
            "hyperparameters.train_on_inputs",
        ),
        (
            with("target_modules", json!(7)),
            invalid,
            "hyperparameters.target_modules",
        ),
        (
            with("max_seq_len", json!(65)),
            invalid,
            "hyperparameters.max_seq_len",
        ),
        (
            with("lora_rank", json!(8)),
            "unknown_parameter",
            "hyperparameters.lora_rank",
        ),
        (
            json!({"base_model": "tiny", "dataset": "data"}),
            "missing_parameter",
            "adapter",
        ),
        (
            json!({"base_model": 7, "dataset": "data", "adapter": "x"}),
            invalid,
            "base_model",
        ),
        (
            json!({"base_model": "tiny", "dataset": "data", "adapter": "x", "extra": 1}),
            "unknown_parameter",
            "extra",
        ),
        (
            json!({"base_model": "tiny", "dataset": "data", "adapter": "../x"}),
            invalid,
            "adapter",
        ),
        (
            json!({"base_model": "tiny", "dataset": "data", "adapter": "a--b"}),
            invalid,
            "adapter",
        ),
        (json!({}), "missing_parameter", "base_model"),
    ];
    for (body, code, param) in table {
        let answer = client.post("/v1/jobs", &body).await;
        assert_eq!(answer.body["error"]["param"], param, "{body}: {}", answer.body);
        answer.fails(400, code, Some(param));
    }
    for body in [
        json!([]),
        json!(["tiny", "data", "x"]),
        json!("text"),
        json!(null),
        json!(1),
    ] {
        client.post("/v1/jobs", &body).await.fails(400, invalid, None);
    }
    for (base, dataset, code, param) in [
        ("nothing", "data", "base_model_not_found", "base_model"),
        ("../x", "data", "base_model_not_found", "base_model"),
        ("tiny", "nothing", "dataset_not_found", "dataset"),
        ("tiny", "data@9", "dataset_not_found", "dataset"),
        ("tiny", "data@x", "dataset_not_found", "dataset"),
        (
            "tiny",
            "ds_00000000000070008000000000000000",
            "dataset_not_found",
            "dataset",
        ),
    ] {
        let body = json!({"base_model": base, "dataset": dataset, "adapter": "x"});
        client.post("/v1/jobs", &body).await.fails(404, code, Some(param));
    }
}

#[tokio::test]
async fn wrong_texts_headers_and_sizes() {
    let app = App::start().await;
    let client = app.sign_up("first").await;
    let post = |kind: &'static str, body: String| {
        client.send(
            client
                .request("POST", "/v1/jobs")
                .header("content-type", kind)
                .body(body),
        )
    };
    post("application/json", "{".to_owned())
        .await
        .fails(400, "invalid_json", None);
    post(
        "application/json",
        r#"{"base_model": "a", "dataset": "b", "adapter": "c"} {}"#.to_owned(),
    )
    .await
    .fails(400, "invalid_json", None);
    post("application/json", "\u{fffd}".to_owned())
        .await
        .fails(400, "invalid_json", None);
    post("application/json", "[".repeat(10_000))
        .await
        .fails(400, "invalid_json", None);
    post("text/plain", "{}".to_owned())
        .await
        .fails(415, "unsupported_media_type", None);
    post("application/json", " ".repeat(2 << 20))
        .await
        .fails(413, "body_too_large", None);
    let empty = client.send(client.request("POST", "/v1/jobs")).await;
    empty.fails(400, "missing_parameter", Some("base_model"));
    let form = client
        .request("POST", "/v1/datasets?name=x")
        .header("content-type", "multipart/form-data; boundary=x");
    client
        .send(form.body("--x--"))
        .await
        .fails(415, "unsupported_media_type", None);
}

#[tokio::test]
async fn wrong_paths_and_queries() {
    let app = App::start().await;
    let client = app.sign_up("first").await;
    let absent = "job_00000000000070008000000000000000";
    let table = [
        (
            "GET",
            format!("/v1/jobs/{absent}"),
            404,
            "training_job_not_found",
            None,
        ),
        (
            "GET",
            "/v1/jobs/42".to_owned(),
            404,
            "training_job_not_found",
            None,
        ),
        (
            "GET",
            format!("/v1/datasets/{absent}"),
            404,
            "dataset_not_found",
            None,
        ),
        (
            "GET",
            "/v1/datasets/%00".to_owned(),
            404,
            "dataset_not_found",
            None,
        ),
        (
            "DELETE",
            "/v1/api-keys/key_1".to_owned(),
            404,
            "api_key_not_found",
            None,
        ),
        (
            "GET",
            "/v1/base-models/..%2F..%2Fx".to_owned(),
            404,
            "base_model_not_found",
            None,
        ),
        (
            "GET",
            "/v1/deployments/A".to_owned(),
            404,
            "deployment_not_found",
            None,
        ),
        (
            "GET",
            "/v1/jobs?limit=0".to_owned(),
            400,
            "invalid_parameter",
            Some("limit"),
        ),
        (
            "GET",
            "/v1/jobs?limit=101".to_owned(),
            400,
            "invalid_parameter",
            Some("limit"),
        ),
        (
            "GET",
            "/v1/jobs?limit=many".to_owned(),
            400,
            "invalid_parameter",
            Some("limit"),
        ),
        (
            "GET",
            "/v1/jobs?after=yesterday".to_owned(),
            400,
            "invalid_parameter",
            Some("after"),
        ),
        (
            "GET",
            "/v1/datasets?after=job_1".to_owned(),
            400,
            "invalid_parameter",
            Some("after"),
        ),
        (
            "GET",
            "/v1/jobs?status=done".to_owned(),
            400,
            "invalid_parameter",
            Some("status"),
        ),
        (
            "GET",
            "/v1/jobs?colour=red".to_owned(),
            400,
            "unknown_parameter",
            Some("colour"),
        ),
        (
            "GET",
            format!("/v1/jobs/{absent}/metrics?limit=0"),
            400,
            "invalid_parameter",
            Some("limit"),
        ),
        (
            "POST",
            "/v1/datasets".to_owned(),
            400,
            "missing_parameter",
            Some("name"),
        ),
        (
            "POST",
            "/v1/datasets?name=A".to_owned(),
            400,
            "invalid_parameter",
            Some("name"),
        ),
        ("GET", "/v1/nothing".to_owned(), 404, "route_not_found", None),
        ("GET", "/nothing".to_owned(), 404, "route_not_found", None),
        ("DELETE", "/v1/jobs".to_owned(), 405, "method_not_allowed", None),
        ("PUT", "/healthz".to_owned(), 405, "method_not_allowed", None),
    ];
    for (method, path, status, code, param) in table {
        let answer = client.send(client.request(method, &path)).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        answer.fails(status, code, param);
    }
}

#[tokio::test]
async fn wrong_accounts() {
    let app = App::start().await;
    let client = app.anonymous();
    let body = |email: &str, password: &str, name: &str| json!({"email": email, "password": password, "organization_name": name});
    let good = "long enough password";
    let long = "x".repeat(300);
    for (body, param) in [
        (body("a", good, "x"), "email"),
        (body("a@", good, "x"), "email"),
        (body("a@b@c", good, "x"), "email"),
        (body("a b@c", good, "x"), "email"),
        (body(&format!("{long}@c"), good, "x"), "email"),
        (body("a@b", "short", "x"), "password"),
        (body("a@b", &long, "x"), "password"),
        (body("a@b", good, " "), "organization_name"),
        (body("a@b", good, &long), "organization_name"),
        (body("a@b", good, "a\u{0}b"), "organization_name"),
    ] {
        client
            .post("/v1/auth/signup", &body)
            .await
            .fails(400, "invalid_parameter", Some(param));
    }
    let owner = app.sign_up("first").await;
    for (body, param) in [
        (json!({"name": ""}), "name"),
        (json!({"name": "k", "expires_in": 5}), "expires_in"),
        (json!({"name": "k", "role": "king"}), "role"),
    ] {
        owner
            .post("/v1/api-keys", &body)
            .await
            .fails(400, "invalid_parameter", Some(param));
    }
}
