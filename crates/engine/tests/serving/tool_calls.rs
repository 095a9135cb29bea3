//! Calls of tools by a real model: one that knows nothing, and is forced.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{
    golden,
    server::{Server, chunks},
};

const PATH: &str = "/v1/chat/completions";

fn tools() -> Value {
    let weather = json!({
        "type": "object", "additionalProperties": false, "required": ["place", "days"],
        "properties": {"place": {"enum": ["Kiel", "K\u{f6}ln"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    });
    json!([
        {"type": "function", "function": {"name": "weather", "description": "The weather", "parameters": weather}},
        {"type": "function", "function": {"name": "now"}},
    ])
}

fn asking(fields: &Value) -> Value {
    let mut body = json!({
        "model": "base", "messages": [{"role": "user", "content": "Rain?"}], "tools": tools(), "max_tokens": 300,
        "temperature": 1, "tool_choice": "required", "parallel_tool_calls": false,
    });
    body.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    body
}

fn named(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name}})
}

#[track_caller]
fn check_call(call: &Value) {
    assert_eq!(call["type"], "function");
    let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    match call["function"]["name"].as_str().unwrap() {
        "weather" => {
            assert!(["Kiel", "K\u{f6}ln"].contains(&arguments["place"].as_str().unwrap()));
            assert!((1..=9).contains(&arguments["days"].as_i64().unwrap()));
        }
        "now" => assert_eq!(arguments, json!({})),
        other => panic!("{other} was not offered"),
    }
}

/// The message and the reason of a stream, put together as clients do.
fn joined(chunks: &[Value]) -> (Value, Value) {
    let (mut content, mut calls, mut reason) = (String::new(), Vec::<Value>::new(), Value::Null);
    for chunk in chunks {
        let choice = &chunk["choices"][0];
        content.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        for delta in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            let index = usize::try_from(delta["index"].as_u64().unwrap()).unwrap();
            if index == calls.len() {
                assert!(
                    delta["id"].is_string() && delta["function"]["name"].is_string(),
                    "{delta}"
                );
                calls.push(json!({"id": delta["id"], "type": delta["type"], "function": delta["function"]}));
            } else {
                let so_far = calls[index]["function"]["arguments"].as_str().unwrap();
                let piece = delta["function"]["arguments"].as_str().unwrap();
                calls[index]["function"]["arguments"] = json!([so_far, piece].concat());
            }
        }
        reason = choice["finish_reason"].clone();
    }
    let content = Some(content).filter(|content| !content.is_empty());
    (
        json!({"role": "assistant", "content": content, "tool_calls": calls}),
        reason,
    )
}

/// A call is valid, ends as it should, comes alike in a stream, and can be answered.
async fn call_and_answer(server: &Server, ids: &str) {
    for seed in 0..3 {
        let body = asking(&json!({"seed": seed}));
        let whole = server.ask(PATH, &body).await;
        let choice = &whole["choices"][0];
        assert_eq!(
            (&choice["finish_reason"], &choice["message"]["content"]),
            (&json!("tool_calls"), &Value::Null)
        );
        let calls = choice["message"]["tool_calls"].as_array().unwrap();
        assert_eq!(calls.len(), 1, "{whole}");
        check_call(&calls[0]);
        let id = calls[0]["id"].as_str().unwrap();
        assert!(id.starts_with(ids), "{id}");

        let streamed = server
            .post(PATH, &asking(&json!({"seed": seed, "stream": true})))
            .await;
        let (mut message, reason) = joined(&chunks(streamed).await);
        assert_eq!(reason, "tool_calls");
        message["tool_calls"][0]["id"] = json!(id);
        assert_eq!(&message, &choice["message"]);

        let result = json!({"role": "tool", "content": "21", "tool_call_id": id});
        let messages = json!([{"role": "user", "content": "Rain?"}, message, result]);
        let after = json!({"messages": messages, "tool_choice": "auto", "max_tokens": 2});
        assert_eq!(
            server.ask(PATH, &asking(&after)).await["usage"]["completion_tokens"],
            2
        );
    }
    for name in ["weather", "now"] {
        let answer = server
            .ask(PATH, &asking(&json!({"tool_choice": named(name)})))
            .await;
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "stop");
        assert_eq!(choice["message"]["tool_calls"][0]["function"]["name"], name);
        check_call(&choice["message"]["tool_calls"][0]);
    }
}

#[tokio::test]
async fn forced_calls_are_valid_in_every_dialect() {
    for (dialect, ids) in [("qwen2.5", "call_"), ("llama3", "call_"), ("mistral3", "")] {
        let base = golden::speaking(dialect);
        call_and_answer(&Server::start(base.path(), &[]), ids).await;
    }
}

#[tokio::test]
async fn several_calls_may_be_forced_at_once() {
    for dialect in ["qwen2.5", "mistral3"] {
        let base = golden::speaking(dialect);
        let server = Server::start(base.path(), &[]);
        let mut most = 0;
        for seed in 0..8 {
            let body = asking(&json!({"seed": seed, "parallel_tool_calls": true, "max_tokens": 1000}));
            let answer = server.ask(PATH, &body).await;
            let choice = &answer["choices"][0];
            let calls = choice["message"]["tool_calls"].as_array().unwrap();
            let whole = calls.len() - usize::from(choice["finish_reason"] == "length");
            calls[..whole].iter().for_each(check_call);
            most = most.max(calls.len());
        }
        assert!(most > 1, "{dialect}");
    }
}

#[tokio::test]
async fn what_cannot_be_called_is_refused() {
    let base = golden::speaking("qwen2.5");
    let speaking = Server::start(base.path(), &[]);
    let shape = json!([{"type": "function", "function": {
        "name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "poem"}}},
    }}]);
    let orphan =
        json!([{"role": "user", "content": "x"}, {"role": "tool", "content": "1", "tool_call_id": "c"}]);
    for (server, fields, param) in [
        (Server::shared(), json!({}), "tools"),
        (&speaking, json!({"tools": shape}), "tools"),
        (
            &speaking,
            json!({"tools": vec![tools()[1].clone(); 129]}),
            "tools",
        ),
        (
            &speaking,
            json!({"tool_choice": named("poem")}),
            "tool_choice.function.name",
        ),
        (
            &speaking,
            json!({"response_format": {"type": "json_object"}}),
            "response_format",
        ),
        (&speaking, json!({"messages": orphan}), "messages[1].tool_call_id"),
    ] {
        let response = server.post(PATH, &asking(&fields)).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{fields}");
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"]["param"], param, "{error}");
    }
    let words: Value = Server::shared()
        .post(PATH, &asking(&json!({})))
        .await
        .json()
        .await
        .unwrap();
    assert!(
        words["error"]["message"]
            .as_str()
            .unwrap()
            .contains("does not know tools")
    );
    // What may not be called need not be known.
    Server::shared()
        .ask(PATH, &asking(&json!({"tool_choice": "none", "max_tokens": 1})))
        .await;
}

/// Calls in a conversation are no use where the template leaves them out.
#[tokio::test]
async fn a_conversation_with_calls_needs_a_template_that_shows_them() {
    let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let messages = json!([
        {"role": "user", "content": "x"}, {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "content": "1", "tool_call_id": "c"},
    ]);
    let body = json!({"model": "base", "messages": messages, "max_tokens": 1});
    let response = Server::shared().post(PATH, &body).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    let error: Value = response.json().await.unwrap();
    assert_eq!(error["error"]["param"], "messages");
}
