//! What a request may ask of its output: penalties, choices, grammars.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{golden, server::Server};

fn text(answer: &Value) -> &str {
    answer["choices"][0]["text"].as_str().unwrap()
}

async fn completed(fields: Value) -> Value {
    let mut body =
        json!({"model": "base", "prompt": "Hello", "max_tokens": 12, "ignore_eos": true, "temperature": 0});
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
    Server::shared().ask("/v1/completions", &body).await
}

#[tokio::test]
async fn bias_and_allowed_tokens_decide_the_text() {
    let forced = completed(json!({"logit_bias": {"40": 100}})).await;
    let alone = completed(json!({"allowed_token_ids": [40]})).await;
    assert_eq!(text(&forced), text(&alone));
    let letters: Vec<char> = text(&forced).chars().collect();
    assert_eq!(letters.len(), 12);
    assert!(letters.iter().all(|letter| *letter == letters[0]));
}

#[tokio::test]
async fn a_presence_penalty_ends_repetition() {
    let repeated = completed(json!({"logit_bias": {"40": 100, "41": 90}})).await;
    let penalized = completed(json!({"logit_bias": {"40": 100, "41": 90}, "frequency_penalty": 2})).await;
    let different = |answer: &Value| {
        text(answer)
            .chars()
            .collect::<std::collections::BTreeSet<_>>()
            .len()
    };
    assert_eq!(different(&repeated), 1);
    assert_eq!(different(&penalized), 2);
}

#[tokio::test]
async fn choices_of_one_seed_differ_and_repeat() {
    let body = json!({"n": 3, "best_of": 3, "temperature": 1.5, "seed": 5});
    let texts = |answer: &Value| -> Vec<String> {
        let choices = answer["choices"].as_array().unwrap();
        choices
            .iter()
            .map(|choice| choice["text"].as_str().unwrap().to_owned())
            .collect()
    };
    let first = texts(&completed(body.clone()).await);
    assert_eq!(first.len(), 3);
    assert_ne!(first[0], first[1]);
    assert_eq!(texts(&completed(body).await), first);
    let alone = completed(json!({"temperature": 1.5, "seed": 6})).await;
    assert_eq!(text(&alone), first[1]);
}

#[tokio::test]
async fn output_follows_its_schema() {
    let compact = json!({"whitespace_flexible": false});
    let schema = json!({
        "x-guidance": compact, "type": "object", "additionalProperties": false,
        "properties": {
            "color": {"enum": ["red", "green"]},
            "size": {"type": "integer", "minimum": 1, "maximum": 99},
            "parts": {"type": "array", "items": {"$ref": "#/$defs/part"}, "minItems": 1, "maxItems": 2},
        },
        "required": ["color", "size", "parts"],
        "$defs": {"part": {"type": "boolean"}},
    });
    for seed in 0..6 {
        let format = json!({"type": "json_schema", "json_schema": {"name": "thing", "schema": schema}});
        let answer = completed(json!({
            "response_format": format, "temperature": 1, "seed": seed, "max_tokens": 120, "ignore_eos": false,
        }))
        .await;
        assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
        let thing: Value = serde_json::from_str(text(&answer)).unwrap();
        assert_eq!(thing.as_object().unwrap().len(), 3);
        assert!(["red", "green"].contains(&thing["color"].as_str().unwrap()));
        assert!((1..=99).contains(&thing["size"].as_i64().unwrap()));
        let parts = thing["parts"].as_array().unwrap();
        assert!((1..=2).contains(&parts.len()) && parts.iter().all(Value::is_boolean));
    }
}

#[tokio::test]
async fn output_follows_its_expression_and_its_choices() {
    for seed in 0..4 {
        let fields = json!({"guided_regex": "[0-9]{3}-[a-c]{2}", "temperature": 1, "seed": seed});
        let answer = completed(fields).await;
        let found = text(&answer).as_bytes();
        assert_eq!(found.len(), 6);
        assert!(found[..3].iter().all(u8::is_ascii_digit) && found[3] == b'-');
        assert!(found[4..].iter().all(|letter| (b'a'..=b'c').contains(letter)));
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
        let answer = completed(json!({"guided_choice": ["yes", "no"], "temperature": 1, "seed": seed})).await;
        assert!(["yes", "no"].contains(&text(&answer)));
    }
}

#[tokio::test]
async fn a_wrong_grammar_is_refused_by_field() {
    for (field, value) in [
        (
            "response_format",
            json!({"type": "json_schema", "json_schema": {"schema": {"type": "poem"}}}),
        ),
        ("guided_regex", json!("(")),
    ] {
        let body = json!({"model": "base", "prompt": "x", field: value});
        let response = Server::shared().post("/v1/completions", &body).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"]["param"], field);
    }
}

const LONG: &str = "The quick brown fox jumps over the lazy dog, again and again.";

#[tokio::test]
async fn a_known_beginning_is_not_read_again() {
    let adapter = format!("tuned={}", golden::folder("llama", "adapter").display());
    let server = Server::start(&golden::folder("llama", "base"), &["--adapter", &adapter]);
    let ask = async |model: &str, prompt: &str| {
        let body = json!({
            "model": model, "prompt": prompt, "max_tokens": 8, "temperature": 0, "ignore_eos": true, "logprobs": 0,
        });
        let answer = server.ask("/v1/completions", &body).await;
        let cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
            .as_u64()
            .unwrap();
        (answer["choices"][0].clone(), cached)
    };
    let first = ask("base", LONG).await;
    assert_eq!(first.1, 0);
    let again = ask("base", LONG).await;
    assert!(again.1 >= 16 && again.1 % 16 == 0, "{}", again.1);
    assert_eq!(first.0["text"], again.0["text"]);
    for (fresh, cached) in first.0["logprobs"]["token_logprobs"]
        .as_array()
        .unwrap()
        .iter()
        .zip(again.0["logprobs"]["token_logprobs"].as_array().unwrap())
    {
        let difference = fresh.as_f64().unwrap() - cached.as_f64().unwrap();
        assert!(difference.abs() < golden::TOLERANCE, "{difference}");
    }
    // What the base model has read says nothing about an adapter, nor an adapter about the next of its name.
    let tuned = ask("tuned", LONG).await;
    assert_eq!(tuned.1, 0);
    assert_ne!(tuned.0["logprobs"], first.0["logprobs"]);
    assert!(ask("tuned", LONG).await.1 > 0);
    assert_eq!(server.unload("tuned").await.status(), StatusCode::OK);
    let other = golden::folder("llama", "training/final-adapter");
    assert_eq!(server.load("tuned", &other).await.status(), StatusCode::OK);
    assert_eq!(ask("tuned", LONG).await.1, 0);
}

/// A server of the golden llama with room for that many tokens.
fn with_memory_for(tokens: u64) -> Server {
    let base = golden::folder("llama", "base");
    let config: Value = serde_json::from_slice(&std::fs::read(base.join("config.json")).unwrap()).unwrap();
    let number = |name: &str| config[name].as_u64();
    let head = number("head_dim")
        .unwrap_or_else(|| number("hidden_size").unwrap() / number("num_attention_heads").unwrap());
    let token = 8 * number("num_hidden_layers").unwrap() * number("num_key_value_heads").unwrap() * head;
    Server::start(&base, &["--kv-cache-bytes", &(tokens * token).to_string()])
}

#[tokio::test]
async fn sequences_share_a_small_memory_without_failing() {
    let server = with_memory_for(128);
    let body = |tokens: u32| json!({"model": "base", "prompt": LONG, "max_tokens": tokens, "temperature": 0, "ignore_eos": true});
    let refused = server.post("/v1/completions", &body(150)).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    let message = refused.text().await.unwrap();
    assert!(
        message.contains("128") && message.contains("--kv-cache-bytes"),
        "{message}"
    );
    let bodies: Vec<Value> = (0..12).map(|_| body(20)).collect();
    let answers =
        futures::future::join_all(bodies.iter().map(|body| server.ask("/v1/completions", body))).await;
    assert!(
        answers
            .iter()
            .all(|answer| answer["choices"][0]["text"] == answers[0]["choices"][0]["text"])
    );
}

/// All begin at once, since each has room for its prompt and a little more; then they grow, and the last ones step back.
#[tokio::test]
async fn who_steps_back_goes_on_as_if_nothing_had_been() {
    let server = with_memory_for(448);
    let ask = async |seed: usize| {
        let prompt = format!("{} is the number of this question.", seed + 100);
        let body = json!({
            "model": "base", "prompt": prompt, "max_tokens": 150 + seed, "seed": seed, "ignore_eos": true, "logprobs": 1
        });
        let answer = server.ask("/v1/completions", &body).await;
        let used = answer["usage"]["completion_tokens"].clone();
        assert_eq!(used, 150 + seed);
        answer["choices"][0].clone()
    };
    let mut alone = Vec::new();
    for seed in 0..6 {
        alone.push(ask(seed).await);
    }
    let preemptions = "vllm:num_preemptions_total{model_name=\"base\"} ";
    let count = async || {
        let metrics = server.get("/metrics").await.text().await.unwrap();
        let line = metrics.lines().find_map(|line| line.strip_prefix(preemptions));
        line.unwrap().parse::<usize>().unwrap()
    };
    assert_eq!(count().await, 0);
    assert_eq!(futures::future::join_all((0..6).map(ask)).await, alone);
    assert!(count().await > 0, "nobody stepped back");
}
