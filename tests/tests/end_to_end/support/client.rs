//! A plain HTTP client of the public API.

use serde_json::Value;

/// One caller.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    pub(crate) url: String,
    token: Option<String>,
}

/// Status, headers and JSON body of an answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    /// The body of an answer that must be a success.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert!(
            (200..300).contains(&self.status),
            "{}: {}",
            self.status,
            self.body
        );
        self.body
    }

    /// `error.code` of an answer that must be an error in OpenAI's shape.
    #[track_caller]
    pub(crate) fn error_code(&self) -> &str {
        for key in ["message", "type", "param", "code"] {
            assert!(
                self.body["error"].get(key).is_some(),
                "{key} is missing: {}",
                self.body
            );
        }
        self.body["error"]["code"].as_str().unwrap_or("")
    }
}

impl Client {
    pub(crate) fn new(url: &str, token: Option<&str>) -> Self {
        Self {
            http: reqwest::Client::new(),
            url: url.to_owned(),
            token: token.map(ToOwned::to_owned),
        }
    }

    /// The same server, another caller.
    pub(crate) fn with_token(&self, token: Option<&str>) -> Self {
        Self {
            token: token.map(ToOwned::to_owned),
            ..self.clone()
        }
    }

    /// A new organization and its owner.
    pub(crate) async fn sign_up(&self, name: &str) -> Self {
        let body = serde_json::json!({
            "email": format!("{name}@example.com"), "password": "correct horse battery staple", "organization_name": name,
        });
        let answer = self.with_token(None).post("/v1/auth/signup", &body).await.ok();
        self.with_token(
            answer["tokens"]["access_token"]
                .as_str()
                .or(answer["access_token"].as_str()),
        )
    }

    /// A request of any kind; the caller's credentials go with it.
    pub(crate) fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let request = self
            .http
            .request(method.parse().unwrap(), format!("{}{path}", self.url));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let text = response.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Answer {
            status,
            headers,
            body,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.request("GET", path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request("POST", path).json(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(self.request("DELETE", path)).await
    }

    pub(crate) async fn bytes(&self, path: &str) -> Vec<u8> {
        let response = self.request("GET", path).send().await.unwrap();
        assert!(response.status().is_success(), "{path}: {}", response.status());
        response.bytes().await.unwrap().to_vec()
    }

    /// Uploads a dataset and waits for its report.
    pub(crate) async fn upload(&self, name: &str, lines: &str) -> Value {
        let request = self.request("POST", &format!("/v1/datasets?name={name}"));
        let answer = self
            .send(
                request
                    .header("content-type", "application/jsonl")
                    .body(lines.to_owned()),
            )
            .await
            .ok();
        let path = format!("/v1/datasets/{}", answer["id"].as_str().unwrap());
        super::wait_until("the validation report", || async {
            let dataset = self.get(&path).await.ok();
            (dataset["status"] != "validating").then_some(dataset)
        })
        .await
    }

    /// Uploads every file of a folder in Hugging Face layout as the base model `name`.
    pub(crate) async fn register_base_model(&self, name: &str, folder: &std::path::Path) -> Value {
        let model = self
            .post("/v1/base-models", &serde_json::json!({"name": name}))
            .await
            .ok();
        let id = model["id"].as_str().unwrap();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let file = path.file_name().unwrap().to_str().unwrap().to_owned();
            let request = self.request("PUT", &format!("/v1/base-models/{id}/files/{file}"));
            self.send(request.body(std::fs::read(&path).unwrap())).await.ok();
        }
        self.post(&format!("/v1/base-models/{id}/complete"), &serde_json::json!({}))
            .await
            .ok()
    }

    /// Waits for a final state.
    pub(crate) async fn finish(&self, job: &str) -> Value {
        super::wait_until("the job's end", || async {
            let job = self.get(&format!("/v1/jobs/{job}")).await.ok();
            ["succeeded", "failed", "cancelled"]
                .contains(&job["status"].as_str().unwrap())
                .then_some(job)
        })
        .await
    }

    /// Makes the deployment `name` and promotes the first version of the adapter of that name; the deployment once that is
    /// active.
    pub(crate) async fn deploy(&self, name: &str, base_model: &str) -> Value {
        let deployment = serde_json::json!({"name": name, "base_model": base_model});
        self.post("/v1/deployments", &deployment).await.ok();
        let version = serde_json::json!({"adapter": name, "version": 1});
        self.post(&format!("/v1/deployments/{name}/promote"), &version)
            .await
            .ok();
        super::wait_until("the promotion", || async {
            let deployment = self.get(&format!("/v1/deployments/{name}")).await.ok();
            let text = deployment.to_string();
            assert!(!text.contains("\"failed\""), "{deployment}");
            (text.contains("\"version\":1") && !text.contains("\"pending\"")).then_some(deployment)
        })
        .await
    }

    /// Waits until `steps` optimizer steps are done.
    pub(crate) async fn reach_step(&self, job: &str, steps: u64) {
        super::wait_until("the job's progress", || async {
            let job = self.get(&format!("/v1/jobs/{job}")).await.ok();
            assert!(job["error"].is_null(), "{job}");
            job["progress"]["step"].as_u64().filter(|step| *step >= steps)
        })
        .await;
    }
}
