//! A caller.

use serde_json::Value;

/// One caller.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
    token: Option<String>,
}

/// Status, headers and body of an answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    /// The body of an answer that must have this status.
    #[track_caller]
    pub(crate) fn ok(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }

    /// Checks status, code and field of an error.
    #[track_caller]
    pub(crate) fn fails(&self, status: u16, code: &str, param: Option<&str>) {
        let error = &self.body["error"];
        let keys: Vec<&str> = error
            .as_object()
            .map(|e| e.keys().map(String::as_str).collect())
            .unwrap_or_default();
        assert_eq!(keys, ["message", "type", "param", "code"], "{}", self.body);
        let found = (self.status, error["code"].as_str(), error["param"].as_str());
        assert_eq!(found, (status, Some(code), param), "{}", self.body);
        assert!(error["message"].as_str().unwrap().ends_with('.'), "{}", self.body);
        assert!(self.headers.contains_key("x-request-id"), "{}", self.body);
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

    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            ..self.clone()
        }
    }

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
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
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

    /// Uploads a dataset and waits for its report.
    pub(crate) async fn upload(&self, name: &str, lines: &str) -> Value {
        let request = self.request("POST", &format!("/v1/datasets?name={name}"));
        let answer = self
            .send(
                request
                    .header("content-type", "application/jsonl")
                    .body(lines.to_owned()),
            )
            .await;
        let path = format!("/v1/datasets/{}", answer.ok(201)["id"].as_str().unwrap());
        loop {
            let dataset = self.get(&path).await.ok(200);
            if dataset["status"] != "validating" {
                return dataset;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Uploads the files of a base model and completes it.
    pub(crate) async fn register(&self, name: &str, files: &[(&str, Vec<u8>)]) -> Answer {
        let model = self
            .post("/v1/base-models", &serde_json::json!({"name": name}))
            .await
            .ok(201);
        let path = format!("/v1/base-models/{}", model["id"].as_str().unwrap());
        for (file, bytes) in files {
            let request = self
                .request("PUT", &format!("{path}/files/{file}"))
                .body(bytes.clone());
            self.send(request).await.ok(200);
        }
        self.post(&format!("{path}/complete"), &serde_json::json!({}))
            .await
    }
}
