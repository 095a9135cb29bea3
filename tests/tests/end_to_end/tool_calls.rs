//! A model learns to call functions, and calls them by itself.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{Client, Platform};

/// The bundled base model with a chat template that knows tools.
fn base_model(folder: &Path) {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    for file in [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        std::fs::copy(root.join("models/primer").join(file), folder.join(file)).unwrap();
    }
    let template = root.join("scripts/parity/templates/qwen2.5.jinja");
    std::fs::copy(template, folder.join("chat_template.jinja")).unwrap();
}

fn tools() -> Value {
    let tool = |name: &str, field: &str, kind: &str| {
        json!({"type": "function", "function": {"name": name, "parameters": {
            "type": "object", "properties": {field: {"type": kind}}, "required": [field],
        }}})
    };
    json!([
        tool("weather", "city", "string"),
        tool("order", "number", "integer")
    ])
}

fn said(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

fn called(name: &str, arguments: &Value) -> Value {
    let function = json!({"name": name, "arguments": arguments.to_string()});
    json!({"role": "assistant", "tool_calls": [{"id": "call_1", "type": "function", "function": function}]})
}

fn result(content: &str) -> Value {
    json!({"role": "tool", "tool_call_id": "call_1", "content": content})
}

/// Questions that want a call, results of calls, and talk that wants none.
fn lines() -> String {
    let example = |number: usize| {
        let (round, city) = (number / 4, ["Oslo", "Lima"][number / 4 % 2]);
        let question = said("user", &format!("What is the weather in {city}?"));
        let call = called("weather", &json!({"city": city}));
        let degrees = format!("{} degrees", 10 + round);
        match number % 4 {
            0 => vec![question, call],
            1 => {
                let order = 10 + round;
                let question = said("user", &format!("Where is order {order}?"));
                vec![question, called("order", &json!({"number": order}))]
            }
            2 => {
                let greeting = ["Hello there.", "Good morning.", "Thank you."][round % 3];
                vec![said("user", greeting), said("assistant", "You are welcome.")]
            }
            _ => {
                let answer = said("assistant", &format!("It is {degrees} in {city}."));
                vec![question, call, result(&degrees), answer]
            }
        }
    };
    let line = |number| format!("{}\n", json!({"messages": example(number), "tools": tools()}));
    (0..120).map(line).collect()
}

/// `tool_choice` is left out, so whether to call is the model's choice.
async fn ask(client: &Client, messages: &Value) -> Value {
    let request = json!({
        "model": "caller", "messages": messages, "tools": tools(), "temperature": 0, "max_tokens": 48,
    });
    let answer = client.post("/v1/chat/completions", &request).await.ok();
    answer["choices"][0].clone()
}

#[tokio::test]
async fn a_trained_model_calls_functions_by_itself() {
    let platform = Platform::start().await;
    let client = &platform.client;
    let folder = tempfile::tempdir().unwrap();
    base_model(folder.path());
    client.register_base_model("primer-tools", folder.path()).await;
    let dataset = client.upload("calls", &lines()).await;
    assert_eq!(dataset["status"], "valid", "{dataset}");
    let job = json!({
        "base_model": "primer-tools", "dataset": "calls", "adapter": "caller",
        "hyperparameters": {
            "rank": 8, "learning_rate": 0.01, "max_steps": 60, "batch_size": 4, "dtype": "float32", "seed": 7,
            "eval_fraction": 0,
        },
    });
    let job = client.post("/v1/jobs", &job).await.ok();
    let job = client.finish(job["id"].as_str().unwrap()).await;
    assert_eq!(job["status"], "succeeded", "{job}");
    client.deploy("caller", "primer-tools").await;

    let wants_call = [
        ("What is the weather in Oslo?", "weather", "city"),
        ("Where is order 23?", "order", "number"),
    ];
    for (question, name, field) in wants_call {
        let choice = ask(client, &json!([said("user", question)])).await;
        assert_eq!(choice["finish_reason"], "tool_calls", "{choice}");
        let function = &choice["message"]["tool_calls"][0]["function"];
        assert_eq!(function["name"], name, "{choice}");
        let arguments: Value = serde_json::from_str(function["arguments"].as_str().unwrap()).unwrap();
        assert!(!arguments[field].is_null(), "{choice}");
    }
    let choice = ask(client, &json!([said("user", "Thank you.")])).await;
    assert_eq!(choice["finish_reason"], "stop", "{choice}");
    assert_eq!(choice["message"]["content"], "You are welcome.");
    assert!(choice["message"]["tool_calls"].is_null(), "{choice}");

    let question = said("user", "What is the weather in Lima?");
    let call = called("weather", &json!({"city": "Lima"}));
    let choice = ask(client, &json!([question, call, result("14 degrees")])).await;
    let answer = choice["message"]["content"].as_str().unwrap();
    assert!(
        answer.starts_with("It is") && answer.contains("degrees"),
        "{choice}"
    );
    platform.stop().await;
}
