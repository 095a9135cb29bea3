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

#[tokio::test]
async fn wrong_fields_are_refused_by_name() {
    let server = Server::shared();
    let table = [
        (json!({"model": null}), 400, Some("model"), "invalid_value"),
        (json!({"model": "absent"}), 404, Some("model"), "model_not_found"),
        (json!({"messages": null}), 400, Some("messages"), "invalid_value"),
        (json!({"messages": []}), 400, Some("messages"), "invalid_value"),
        (
            json!({"messages": [{"role": "cat", "content": ""}]}),
            400,
            Some("messages[0].role"),
            "invalid_value",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
            400,
            Some("messages[0].content[0]"),
            "invalid_value",
        ),
        (
            json!({"temperature": 3}),
            400,
            Some("temperature"),
            "invalid_value",
        ),
        (json!({"top_p": "x"}), 400, Some("top_p"), "invalid_value"),
        (json!({"top_k": -2}), 400, Some("top_k"), "invalid_value"),
        (json!({"max_tokens": 0}), 400, Some("max_tokens"), "invalid_value"),
        (
            json!({"max_tokens": 1.5}),
            400,
            Some("max_tokens"),
            "invalid_value",
        ),
        (
            json!({"max_completion_tokens": 256}),
            400,
            Some("messages"),
            "context_length_exceeded",
        ),
        (json!({"seed": 1.5}), 400, Some("seed"), "invalid_value"),
        (json!({"stop": [""]}), 400, Some("stop"), "invalid_value"),
        (json!({"stream": "yes"}), 400, Some("stream"), "invalid_value"),
        (
            json!({"stream_options": {"include_usage": true}}),
            400,
            Some("stream_options"),
            "invalid_value",
        ),
        (
            json!({"top_logprobs": 2}),
            400,
            Some("top_logprobs"),
            "invalid_value",
        ),
        (
            json!({"logprobs": true, "top_logprobs": 21}),
            400,
            Some("top_logprobs"),
            "invalid_value",
        ),
        (json!({"n": 2}), 400, Some("n"), "unsupported_parameter"),
        (
            json!({"tools": [{"type": "function"}]}),
            400,
            Some("tools"),
            "unsupported_parameter",
        ),
        (
            json!({"response_format": {"type": "json_object"}}),
            400,
            Some("response_format"),
            "unsupported_parameter",
        ),
        (
            json!({"logit_bias": {"1": 5}}),
            400,
            Some("logit_bias"),
            "unsupported_parameter",
        ),
        (
            json!({"presence_penalty": 1}),
            400,
            Some("presence_penalty"),
            "unsupported_parameter",
        ),
        (
            json!({"chat_template": "{{ 1 }}"}),
            400,
            Some("chat_template"),
            "unsupported_parameter",
        ),
    ];
    for (change, status, param, code) in table {
        let mut body =
            json!({"model": "base", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1});
        body.as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        let found = refusal(server.post("/v1/chat/completions", &body).await).await;
        assert_eq!(
            found,
            (status, param.map(ToOwned::to_owned), code.to_owned()),
            "{change}"
        );
    }
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
