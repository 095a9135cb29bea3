//! Wrong requests of every kind, and the answers to them.

use serde_json::{Value, json};

use crate::server::Server;

/// Status, `param` and `code` of an answer, whose shape is checked.
async fn refusal(response: reqwest::Response) -> (u16, Option<String>, String) {
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    let body: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status} {text}"));
    let error = body["error"].as_object().unwrap();
    let keys: Vec<&str> = error.keys().map(String::as_str).collect();
    assert_eq!(keys, ["message", "type", "param", "code"]);
    assert!(error["message"].as_str().unwrap().ends_with('.'), "{text}");
    (
        status,
        error["param"].as_str().map(ToOwned::to_owned),
        error["code"].as_str().unwrap().to_owned(),
    )
}

/// A change of a chat request that is right, and the status and code of the answer; the param is the changed field.
fn wrong_fields() -> Vec<(Value, u16, &'static str)> {
    let invalid = [
        json!({"model": null}),
        json!({"messages": null}),
        json!({"messages": []}),
        json!({"temperature": 3}),
        json!({"top_p": "x"}),
        json!({"top_k": -2}),
        json!({"max_tokens": 0}),
        json!({"max_tokens": 1.5}),
        json!({"seed": 1.5}),
        json!({"stop": [""]}),
        json!({"stream": "yes"}),
        json!({"stream_options": {"include_usage": true}}),
        json!({"response_format": {"type": "xml"}}),
        json!({"logit_bias": {"1": 500}}),
        json!({"presence_penalty": 3}),
        json!({"tools": "f"}),
        json!({"tool_choice": "auto"}),
        json!({"top_logprobs": 2}),
        json!({"top_logprobs": 21, "logprobs": true}),
    ];
    let unsupported = [
        json!({"best_of": 3}),
        json!({"bad_words": ["x"]}),
        json!({"structured_outputs": {"poem": true}}),
        json!({"chat_template": "{{ 1 }}"}),
    ];
    let invalid = invalid.into_iter().map(|change| (change, 400, "invalid_value"));
    let unsupported = unsupported
        .into_iter()
        .map(|change| (change, 400, "unsupported_parameter"));
    let absent = (json!({"model": "absent"}), 404, "model_not_found");
    invalid.chain(unsupported).chain([absent]).collect()
}

/// A chat request that is right but for `change`.
fn changed(change: &Value) -> Value {
    let mut body = json!({"model": "base", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1});
    body.as_object_mut()
        .unwrap()
        .extend(change.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn wrong_fields_are_refused_by_name() {
    let server = Server::shared();
    for (change, status, code) in wrong_fields() {
        let param = change.as_object().unwrap().keys().next().cloned();
        let found = refusal(server.post("/v1/chat/completions", &changed(&change)).await).await;
        assert_eq!(found, (status, param, code.to_owned()), "{change}");
    }
}

#[tokio::test]
async fn wrong_messages_are_refused_by_path() {
    let server = Server::shared();
    let image = json!([{"type": "text", "text": "x"}, {"type": "image_url"}]);
    for (message, path) in [
        (json!("Hi"), "messages[0]"),
        (json!({"role": "cat", "content": "x"}), "messages[0].role"),
        (json!({"role": "user"}), "messages[0].content"),
        (
            json!({"role": "user", "content": image}),
            "messages[0].content[1]",
        ),
    ] {
        let body = changed(&json!({"messages": [message]}));
        let (status, param, _) = refusal(server.post("/v1/chat/completions", &body).await).await;
        assert_eq!((status, param.as_deref()), (400, Some(path)), "{message}");
    }
    let long = changed(&json!({"max_completion_tokens": 256}));
    let found = refusal(server.post("/v1/chat/completions", &long).await).await;
    assert_eq!(
        found,
        (
            400,
            Some("messages".to_owned()),
            "context_length_exceeded".to_owned()
        )
    );
}

#[tokio::test]
async fn wrong_prompts_are_refused() {
    let server = Server::shared();
    for prompt in [
        json!(null),
        json!({}),
        json!([[]]),
        json!([-5]),
        json!([999_999]),
        json!("word ".repeat(400)),
    ] {
        let body = json!({"model": "tuned", "prompt": prompt});
        let (status, param, _) = refusal(server.post("/v1/completions", &body).await).await;
        assert_eq!((status, param.as_deref()), (400, Some("prompt")), "{prompt}");
    }
}

#[tokio::test]
async fn a_prompt_over_the_context_says_both_numbers() {
    let server = Server::shared();
    let prompt: Vec<u32> = vec![5; 250];
    let body = json!({"model": "base", "prompt": prompt, "max_tokens": 50});
    let answer: Value = server.post("/v1/completions", &body).await.json().await.unwrap();
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("maximum context length is 256 tokens"),
        "{message}"
    );
    assert!(
        message.contains("requested 300 tokens (250 in the prompt, 50 in the completion)"),
        "{message}"
    );
    // To the very end it fits, and what is not asked for is cut to what is left.
    let body = json!({"model": "base", "prompt": prompt, "max_tokens": 6, "ignore_eos": true});
    assert_eq!(
        server.ask("/v1/completions", &body).await["usage"]["completion_tokens"],
        6
    );
    let body = json!({"model": "base", "prompt": prompt, "ignore_eos": true});
    assert_eq!(
        server.ask("/v1/completions", &body).await["usage"]["completion_tokens"],
        6
    );
}

#[tokio::test]
async fn bodies_that_are_no_json_objects_are_refused() {
    let server = Server::shared();
    let json = "application/json";
    for (content_type, body, status, code) in [
        (json, "{", 400, "invalid_json"),
        (json, "", 400, "invalid_json"),
        (json, "[1]", 400, "invalid_json"),
        ("text/plain", "{}", 415, "unsupported_media_type"),
    ] {
        for path in [
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/load_lora_adapter",
            "/v1/unload_lora_adapter",
        ] {
            let found = refusal(server.post_text(path, content_type, body).await).await;
            assert_eq!(found, (status, None, code.to_owned()), "{path} {body}");
        }
    }
    let large = format!("{{\"model\": \"{}\"}}", "x".repeat(17 << 20));
    let (status, _, code) = refusal(server.post_text("/v1/completions", json, large).await).await;
    assert_eq!((status, code.as_str()), (413, "request_too_large"));
}

#[tokio::test]
async fn unknown_paths_and_methods_are_answered_in_the_same_shape() {
    let server = Server::shared();
    assert_eq!(refusal(server.get("/v1/nothing").await).await.0, 404);
    assert_eq!(refusal(server.get("/v1/completions").await).await.0, 405);
    assert_eq!(
        refusal(server.get("/v1/models/absent").await).await.2,
        "model_not_found"
    );
}

#[tokio::test]
async fn unknown_fields_are_ignored() {
    let body = json!({
        "model": "base", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "user": "u", "store": false,
        "metadata": {"a": "b"}, "a_field_of_tomorrow": [1], "tool_choice": "none", "parallel_tool_calls": true,
    });
    Server::shared().ask("/v1/chat/completions", &body).await;
}
