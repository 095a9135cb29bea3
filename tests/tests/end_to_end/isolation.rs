//! A second organization sees nothing of the first: every operation of the OpenAPI document is tried on the first
//! organization's things by the second, by nobody, and by a revoked key.

use serde_json::{Value, json};

use crate::support::{Client, Platform, chat_lines, train_request};

/// What the first organization owns.
struct Possessions {
    ids: Vec<(&'static str, String)>,
}

impl Possessions {
    async fn make(owner: &Client) -> Self {
        let model = owner
            .register_base_model("tiny", &crate::support::tiny_base_model())
            .await;
        let dataset = owner.upload("secret-data", &chat_lines(20)).await;
        let request = train_request(dataset["id"].as_str().unwrap(), "secret-adapter", 4, 2);
        let job = owner.post("/v1/jobs", &request).await.ok();
        let job = owner.finish(job["id"].as_str().unwrap()).await;
        assert_eq!(job["status"], "succeeded", "{job}");
        let alias = owner.request("PUT", "/v1/adapters/secret-adapter/aliases/champion");
        owner.send(alias.json(&json!({"version": 1}))).await.ok();
        let deployment = json!({"name": "secret-deployment", "base_model": "tiny"});
        let deployment = owner.post("/v1/deployments", &deployment).await.ok();
        let key = owner
            .post("/v1/api-keys", &json!({"name": "secret-key"}))
            .await
            .ok();
        let export = json!({"format": "peft"});
        let exports = "/v1/adapters/secret-adapter/versions/1/exports";
        let export = owner.post(exports, &export).await.ok();
        let text = |value: &Value| value["id"].as_str().unwrap().to_owned();
        Self {
            ids: vec![
                ("base-models", text(&model)),
                ("datasets", text(&dataset)),
                ("jobs", text(&job)),
                ("deployments", "secret-deployment".to_owned()),
                ("models", "secret-deployment".to_owned()),
                ("adapters", "secret-adapter".to_owned()),
                ("versions", "1".to_owned()),
                ("aliases", "champion".to_owned()),
                ("exports", text(&export)),
                ("checkpoints", "2".to_owned()),
                ("files", "config.json".to_owned()),
                ("models", "secret-deployment".to_owned()),
                ("api-keys", text(&key)),
                ("", text(&deployment)),
                ("", "secret-data".to_owned()),
            ],
        }
    }

    /// The path with the first organization's things in the place of its parameters.
    fn fill(&self, path: &str) -> String {
        let segments: Vec<&str> = path.split('/').collect();
        let filled: Vec<&str> = segments
            .iter()
            .enumerate()
            .map(|(index, segment)| {
                if !segment.starts_with('{') {
                    return *segment;
                }
                let collection = segments[index - 1];
                let known = self.ids.iter().find(|(name, _)| *name == collection);
                &known
                    .unwrap_or_else(|| panic!("teach this test what {path} names"))
                    .1
            })
            .collect();
        let query = match path {
            "/v1/adapters/{name}/import" => format!("?base_model={}", self.ids[0].1),
            _ => String::new(),
        };
        filled.join("/") + &query
    }

    fn appear_in(&self, text: &str) -> bool {
        let telling = self
            .ids
            .iter()
            .filter(|(_, id)| id.len() > 10 && id != "config.json");
        telling.into_iter().any(|(_, id)| text.contains(id.as_str()))
    }
}

/// Operations without a caller.
const PUBLIC: [&str; 8] = [
    "/v1/auth/signup",
    "/v1/auth/login",
    "/v1/auth/refresh",
    "/v1/auth/logout",
    "/healthz",
    "/readyz",
    "/openapi.json",
    "/",
];

/// A body that would be right for the owner.
fn body_for(path: &str, possessions: &Possessions) -> Value {
    match path {
        "/v1/jobs" => train_request(&possessions.ids[1].1, "taken", 4, 2),
        "/v1/api-keys" => json!({"name": "mine"}),
        "/v1/base-models" => json!({"name": "mine"}),
        "/v1/deployments" => json!({"name": "mine", "base_model": possessions.ids[0].1}),
        "/v1/adapters/{name}/aliases/{alias}" => json!({"version": 1}),
        "/v1/adapters/{name}/versions/{number}/exports" => json!({"format": "peft"}),
        "/v1/feedback" => json!({"id": "chatcmpl-0198c0ffee0070008000000000000001", "score": 1}),
        "/v1/deployments/{name}/split" => {
            json!({"routes": [{"adapter": "secret-adapter", "version": 1, "weight": 100}]})
        }
        "/v1/deployments/{name}/canary"
        | "/v1/deployments/{name}/shadow"
        | "/v1/deployments/{name}/promote" => json!({"adapter": "secret-adapter", "version": 1}),
        "/v1/chat/completions" => {
            json!({"model": "secret-deployment", "messages": [{"role": "user", "content": "hello"}]})
        }
        "/v1/completions" => json!({"model": "secret-deployment", "prompt": "hello"}),
        _ => json!({}),
    }
}

#[tokio::test]
async fn every_operation_hides_what_belongs_to_another_organization() {
    let platform = Platform::start().await;
    let owner = platform.client.sign_up("first").await;
    let possessions = Possessions::make(&owner).await;
    let stranger = platform.client.sign_up("second").await;
    let revoked = revoked_key(&stranger).await;
    let document = platform.client.get("/openapi.json").await.ok();
    let mut tried = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        if PUBLIC.contains(&path.as_str()) {
            continue;
        }
        for method in operations
            .as_object()
            .unwrap()
            .keys()
            .filter(|key| key.as_str() != "parameters")
        {
            let target = possessions.fill(path);
            let operation = format!("{method} {path}");
            let method = method.to_uppercase();
            let body = body_for(path, &possessions);
            for caller in [platform.client.with_token(None), revoked.clone()] {
                let answer = caller.send(caller.request(&method, &target).json(&body)).await;
                assert_eq!(answer.status, 401, "{operation}: {}", answer.body);
                answer.error_code();
            }
            let answer = stranger
                .send(stranger.request(&method, &target).json(&body))
                .await;
            let creates = ["/v1/api-keys", "/v1/base-models"].contains(&path.as_str()) && method == "POST";
            let names_it = path.contains('{') || (method == "POST" && !creates && path != "/v1/datasets");
            if names_it {
                assert_eq!(answer.status, 404, "{operation}: {}", answer.body);
                answer.error_code();
            }
            // An error may repeat what the caller itself said, but nothing else.
            if !names_it {
                assert!(
                    !possessions.appear_in(&answer.body.to_string()),
                    "{operation}: {}",
                    answer.body
                );
            }
            tried += 1;
        }
    }
    assert!(tried >= 25, "only {tried} operations were found in the document");
    let still_there = owner.get("/v1/jobs").await.ok();
    assert_eq!(still_there["data"].as_array().unwrap().len(), 1);
    platform.stop().await;
}

async fn revoked_key(caller: &Client) -> Client {
    let key = caller
        .post("/v1/api-keys", &json!({"name": "short-lived"}))
        .await
        .ok();
    let client = caller.with_token(key["secret"].as_str());
    client.get("/v1/jobs").await.ok();
    caller
        .delete(&format!("/v1/api-keys/{}", key["id"].as_str().unwrap()))
        .await
        .ok();
    client
}
