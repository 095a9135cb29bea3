//! Wrong input of every kind gets one clear answer: status, stable code, field.

use serde_json::{Value, json};

use crate::support::{Client, Platform, chat_lines, train_request};

#[tokio::test]
async fn wrong_requests_are_answered_clearly() {
    let platform = Platform::start_with_tiny_model().await;
    let client = &platform.client;
    client.upload("good", &chat_lines(20)).await;
    client.upload("bad", "{\"messages\": []}\nnot json\n").await;

    for (what, change, param) in wrong_hyperparameters() {
        let mut request = train_request("good", "x", 4, 0);
        request["hyperparameters"][param] = change;
        let answer = client.post("/v1/jobs", &request).await;
        assert_eq!(answer.status, 400, "{what}: {}", answer.body);
        let named = answer.body["error"]["param"].as_str().unwrap_or("");
        assert!(named.contains(param), "{what} names {named}: {}", answer.body);
    }
    let mut both = train_request("good", "x", 4, 0);
    both["hyperparameters"]["epochs"] = json!(2);
    let answer = client.post("/v1/jobs", &both).await;
    assert_eq!(
        (answer.status, &answer.body["error"]["param"]),
        (400, &json!("hyperparameters.max_steps"))
    );
    assert_table(client).await;
    platform.stop().await;
}

fn wrong_hyperparameters() -> Vec<(&'static str, Value, &'static str)> {
    vec![
        ("rank zero", json!(0), "rank"),
        ("rank too large", json!(1000), "rank"),
        ("rank is text", json!("sixteen"), "rank"),
        ("negative learning rate", json!(-1.0), "learning_rate"),
        ("dropout of one", json!(1.0), "dropout"),
        ("unknown schedule", json!("zigzag"), "schedule"),
        ("unknown layer", json!(["lm_head"]), "target_modules"),
        ("no layer", json!([]), "target_modules"),
        ("longer than the model", json!(100_000), "max_seq_len"),
        ("unknown field", json!(8), "lora_rank"),
    ]
}

async fn assert_table(client: &Client) {
    let job = |base: &str, dataset: &str, adapter: &str| {
        let mut request = train_request(dataset, adapter, 4, 0);
        request["base_model"] = json!(base);
        request
    };
    let absent = "job_00000000000070008000000000000000";
    let absent_job = format!("/v1/jobs/{absent}");
    let job_as_dataset = format!("/v1/datasets/{absent}");
    let table: Vec<(&str, &str, &str, Value, u16)> = vec![
        (
            "unknown base model",
            "POST",
            "/v1/jobs",
            job("nothing", "good", "x"),
            404,
        ),
        (
            "unknown dataset",
            "POST",
            "/v1/jobs",
            job("tiny", "nothing", "x"),
            404,
        ),
        (
            "invalid dataset",
            "POST",
            "/v1/jobs",
            job("tiny", "bad", "x"),
            400,
        ),
        (
            "wrong adapter name",
            "POST",
            "/v1/jobs",
            job("tiny", "good", "../x"),
            400,
        ),
        ("no body", "POST", "/v1/jobs", Value::Null, 400),
        ("unknown job", "GET", &absent_job, Value::Null, 404),
        ("malformed id", "GET", "/v1/jobs/42", Value::Null, 404),
        ("id of another kind", "GET", &job_as_dataset, Value::Null, 404),
        ("limit too large", "GET", "/v1/jobs?limit=1000", Value::Null, 400),
        ("limit is text", "GET", "/v1/jobs?limit=many", Value::Null, 400),
        (
            "cursor is no id",
            "GET",
            "/v1/jobs?after=yesterday",
            Value::Null,
            400,
        ),
        ("unknown path", "GET", "/v1/nothing", Value::Null, 404),
        ("wrong method", "DELETE", "/v1/jobs", Value::Null, 405),
        (
            "unknown model",
            "POST",
            "/v1/chat/completions",
            json!({"model": "nothing", "messages": [{"role": "user", "content": "x"}]}),
            404,
        ),
        (
            "no messages",
            "POST",
            "/v1/chat/completions",
            json!({"model": "tiny", "messages": []}),
            400,
        ),
        (
            "temperature",
            "POST",
            "/v1/chat/completions",
            json!({"model": "tiny", "messages": [{"role": "user", "content": "x"}], "temperature": 9}),
            400,
        ),
        (
            "prompt over the context",
            "POST",
            "/v1/chat/completions",
            json!({"model": "tiny", "messages": [{"role": "user", "content": "x ".repeat(5000)}]}),
            400,
        ),
        (
            "deployment of an unknown base",
            "POST",
            "/v1/deployments",
            json!({"name": "d", "base_model": "nothing"}),
            404,
        ),
        (
            "weak password",
            "POST",
            "/v1/auth/signup",
            json!({"email": "a@example.com", "password": "1", "organization_name": "a"}),
            400,
        ),
        (
            "no e-mail address",
            "POST",
            "/v1/auth/signup",
            json!({"email": "a", "password": "long enough password", "organization_name": "a"}),
            400,
        ),
        (
            "wrong password",
            "POST",
            "/v1/auth/login",
            json!({"email": "a@example.com", "password": "wrong password"}),
            401,
        ),
    ];
    for (what, method, path, body, status) in table {
        let request = client.request(method, path);
        let request = if body.is_null() {
            request
        } else {
            request.json(&body)
        };
        let answer = client.send(request).await;
        assert_eq!(answer.status, status, "{what}: {}", answer.body);
        assert!(
            !answer.error_code().is_empty(),
            "{what} has a code: {}",
            answer.body
        );
        assert!(
            answer.body["error"]["message"].as_str().unwrap().len() > 10,
            "{what}: {}",
            answer.body
        );
        assert!(answer.headers.contains_key("x-request-id"), "{what}");
    }
}

#[tokio::test]
async fn a_bad_dataset_is_kept_with_a_report_of_each_line() {
    let platform = Platform::start().await;
    let good = chat_lines(1);
    let lines = [
        good.trim(),
        "{\"messages\": [{\"role\": \"user\", \"content\": \"no answer\"}]}",
        "not json",
        "{\"messages\": [{\"role\": \"king\", \"content\": \"x\"}, {\"role\": \"assistant\", \"content\": \"y\"}]}",
        "{\"prompt\": \"p\", \"completion\": 5}",
        "{\"prompt\": \"p\", \"completion\": \"c\", \"surprise\": 1}",
        "[1, 2]",
    ];
    let dataset = platform.client.upload("mixed", &lines.join("\n")).await;
    assert_eq!(dataset["status"], "invalid", "{dataset}");
    let report = platform
        .client
        .get(&format!(
            "/v1/datasets/{}/report",
            dataset["id"].as_str().unwrap()
        ))
        .await
        .ok();
    let errors = report["errors"].as_array().unwrap();
    let reported: Vec<u64> = errors
        .iter()
        .map(|error| error["line"].as_u64().unwrap())
        .collect();
    for line in 2..=7 {
        assert!(reported.contains(&line), "line {line} is missing: {report}");
    }
    assert!(!reported.contains(&1), "{report}");
    for error in errors {
        assert!(
            error["code"].is_string() && error["message"].is_string(),
            "{error}"
        );
        let whole_line = error["code"] == "invalid_json" || error["code"] == "not_an_object";
        assert!(whole_line || error["field"].is_string(), "{error}");
    }
    platform.stop().await;
}
