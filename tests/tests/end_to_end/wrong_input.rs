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
        ("unknown layer", json!(["conv1"]), "target_modules"),
        ("layer of another family", json!(["qkv_proj"]), "target_modules"),
        ("block behind the last", json!([1000]), "layers_to_transform"),
        ("decay without its schedule", json!(0.1), "decay_ratio"),
        ("no layer", json!([]), "target_modules"),
        ("longer than the model", json!(100_000), "max_seq_len"),
        ("unknown field", json!(8), "lora_rank"),
    ]
}

/// What is tried, and the status that must answer it.
struct Case {
    what: &'static str,
    method: &'static str,
    path: &'static str,
    body: Value,
    status: u16,
}

fn case(what: &'static str, method: &'static str, path: &'static str, body: Value, status: u16) -> Case {
    Case {
        what,
        method,
        path,
        body,
        status,
    }
}

fn wrong_jobs() -> Vec<Case> {
    let job = |what, base: &str, dataset: &str, adapter: &str, status| {
        let mut request = train_request(dataset, adapter, 4, 0);
        request["base_model"] = json!(base);
        case(what, "POST", "/v1/jobs", request, status)
    };
    vec![
        job("unknown base model", "nothing", "good", "x", 404),
        job("unknown dataset", "tiny", "nothing", "x", 404),
        job("invalid dataset", "tiny", "bad", "x", 400),
        job("wrong adapter name", "tiny", "good", "../x", 400),
        case("no body", "POST", "/v1/jobs", Value::Null, 400),
        case("body is a list", "POST", "/v1/jobs", json!([]), 400),
    ]
}

fn wrong_paths() -> Vec<Case> {
    let get = |what, path, status| case(what, "GET", path, Value::Null, status);
    vec![
        get(
            "unknown job",
            "/v1/jobs/job_00000000000070008000000000000000",
            404,
        ),
        get("malformed id", "/v1/jobs/42", 404),
        get(
            "id of another kind",
            "/v1/datasets/job_00000000000070008000000000000000",
            404,
        ),
        get("limit too large", "/v1/jobs?limit=1000", 400),
        get("limit is text", "/v1/jobs?limit=many", 400),
        get("cursor is no id", "/v1/jobs?after=yesterday", 400),
        get("unknown path", "/v1/nothing", 404),
        case("wrong method", "DELETE", "/v1/jobs", Value::Null, 405),
    ]
}

fn wrong_chats() -> Vec<Case> {
    let chat = |what, body, status| case(what, "POST", "/v1/chat/completions", body, status);
    let messages = json!([{"role": "user", "content": "x"}]);
    let long = json!([{"role": "user", "content": "x ".repeat(5000)}]);
    vec![
        chat(
            "unknown model",
            json!({"model": "nothing", "messages": messages}),
            404,
        ),
        chat("no messages", json!({"model": "tiny", "messages": []}), 400),
        chat(
            "temperature",
            json!({"model": "tiny", "messages": messages, "temperature": 9}),
            400,
        ),
        chat(
            "prompt over the context",
            json!({"model": "tiny", "messages": long}),
            400,
        ),
        case(
            "unknown base",
            "POST",
            "/v1/deployments",
            json!({"name": "d", "base_model": "nothing"}),
            404,
        ),
    ]
}

fn wrong_accounts() -> Vec<Case> {
    let sign_up = |what, email: &str, password: &str| {
        let body = json!({"email": email, "password": password, "organization_name": "a"});
        case(what, "POST", "/v1/auth/signup", body, 400)
    };
    let stranger = json!({"email": "a@example.com", "password": "wrong password"});
    vec![
        sign_up("weak password", "a@example.com", "1"),
        sign_up("no e-mail address", "a", "long enough password"),
        case("wrong password", "POST", "/v1/auth/login", stranger, 401),
    ]
}

async fn assert_table(client: &Client) {
    let table = [wrong_jobs(), wrong_paths(), wrong_chats(), wrong_accounts()]
        .into_iter()
        .flatten();
    for Case {
        what,
        method,
        path,
        body,
        status,
    } in table
    {
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
