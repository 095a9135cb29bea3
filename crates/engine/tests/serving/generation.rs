//! What comes out of the model: against golden logits, whole and streamed, alone and beside others.

use futures::future::join_all;
use serde_json::{Value, json};
use tch::{IndexOp, Tensor};

use crate::{
    golden::{self, FAMILIES, TOLERANCE},
    server::{Server, chunks},
};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

fn chat(model: &str, more: &Value) -> Value {
    let mut body = json!({
        "model": model, "max_tokens": 24, "ignore_eos": true,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is my order?"}],
    });
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    body
}

fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

/// The text of a stream's choice.
fn joined(chunks: &[Value], index: usize) -> String {
    let choices = chunks.iter().filter_map(|chunk| chunk["choices"].get(0));
    let choices = choices.filter(|choice| choice["index"] == index);
    choices
        .filter_map(|choice| choice["delta"]["content"].as_str().or(choice["text"].as_str()))
        .collect()
}

/// Usage, less how much of the prompt was known already.
fn tokens_used(answer: &Value) -> [Option<u64>; 3] {
    ["prompt_tokens", "completion_tokens", "total_tokens"].map(|name| answer["usage"][name].as_u64())
}

#[tokio::test]
async fn logprobs_are_those_of_transformers_and_peft() {
    for family in FAMILIES {
        let adapter = format!("tuned={}", golden::folder(family, "adapter").display());
        let server = Server::start(&golden::folder(family, "base"), &["--adapter", &adapter]);
        for case in golden::cases(family) {
            // After the whole sequence, and after half of it.
            for end in [case.tokens.len(), case.tokens.len().div_ceil(2)] {
                for (model, logprobs) in [("base", &case.base), ("tuned", &case.adapter)] {
                    let body = json!({
                        "model": model, "prompt": case.tokens[..end], "max_tokens": 1, "temperature": 0, "logprobs": 5
                    });
                    let answer = server.ask(COMPLETIONS, &body).await;
                    check_logprobs(&answer["choices"][0]["logprobs"], &logprobs.i(end as i64 - 1));
                }
            }
        }
    }
}

/// Greedy and top-5 log-probabilities against a row `[vocabulary]`.
fn check_logprobs(found: &Value, expected: &Tensor) {
    let (top, _) = expected.topk(5, -1, true, true);
    let top: Vec<f64> = top.try_into().unwrap();
    let picked = found["token_logprobs"][0].as_f64().unwrap();
    assert!((picked - top[0]).abs() < TOLERANCE, "{picked} is not {}", top[0]);
    let mut alternatives: Vec<f64> = found["top_logprobs"][0]
        .as_object()
        .unwrap()
        .values()
        .map(|value| value.as_f64().unwrap())
        .collect();
    alternatives.sort_by(|left, right| right.total_cmp(left));
    // Different tokens of half letters have one text, so there may be fewer names than tokens.
    for value in alternatives {
        assert!(
            top.iter().any(|expected| (value - expected).abs() < TOLERANCE),
            "{value} is not in {top:?}"
        );
    }
}

#[tokio::test]
async fn a_stream_gives_the_text_of_the_whole() {
    let server = Server::shared();
    for more in [
        json!({"temperature": 0}),
        json!({"seed": 5}),
        json!({"seed": 6, "temperature": 0.7, "top_p": 0.9, "top_k": 20, "max_tokens": 60}),
    ] {
        let whole = server.ask(CHAT, &chat("tuned", &more)).await;
        let mut body = chat("tuned", &more);
        body["stream"] = true.into();
        body["stream_options"] = json!({"include_usage": true});
        let chunks = chunks(server.post(CHAT, &body).await).await;
        assert_eq!(joined(&chunks, 0), content(&whole));
        assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
        let (usage, finish) = (&chunks[chunks.len() - 1], &chunks[chunks.len() - 2]);
        assert_eq!(
            finish["choices"][0]["finish_reason"],
            whole["choices"][0]["finish_reason"]
        );
        assert_eq!(
            (tokens_used(usage), &usage["choices"]),
            (tokens_used(&whole), &json!([]))
        );
        assert!(
            chunks
                .iter()
                .all(|chunk| chunk["id"] == chunks[0]["id"] && chunk["model"] == "tuned")
        );
    }
}

/// Bit for bit: alone, with its prompt known already, and among others whose prompts are read meanwhile in pieces of all
/// sizes.
#[tokio::test]
async fn a_seed_gives_the_same_whoever_is_served_beside_it() {
    let server = Server::shared();
    let ask = async |model: &str, first: u32, length: u32, seed: u32| {
        let prompt: Vec<u32> = (0..length)
            .map(|place| 30 + (first + place * place) % 200)
            .collect();
        let body = json!({
            "model": model, "prompt": prompt, "max_tokens": 40, "ignore_eos": true, "seed": seed, "logprobs": 3
        });
        let answer = server.ask(COMPLETIONS, &body).await;
        (
            answer["choices"][0]["text"].clone(),
            answer["choices"][0]["logprobs"].clone(),
        )
    };
    for model in ["base", "tuned"] {
        let alone = ask(model, 3, 61, 8).await;
        assert_eq!(alone, ask(model, 3, 61, 8).await, "with the beginning known");
        for round in 1..4 {
            let others = (0..9).map(|other| {
                let name = ["base", "tuned", "other"][other as usize % 3];
                ask(name, 7 + round * 11 + other, 5 + 9 * other + round, other)
            });
            let (again, _) = tokio::join!(ask(model, 3, 61, 8), join_all(others));
            assert_eq!(alone, again, "in company");
        }
    }
}

#[tokio::test]
async fn a_seed_gives_the_same_text_again() {
    let server = Server::shared();
    let text = async |more: Value| content(&server.ask(CHAT, &chat("base", &more)).await).to_owned();
    assert_eq!(text(json!({"seed": 11})).await, text(json!({"seed": 11})).await);
    assert_ne!(text(json!({"seed": 11})).await, text(json!({"seed": 12})).await);
    assert_ne!(text(json!({})).await, text(json!({})).await);
    assert_eq!(
        text(json!({"temperature": 0})).await,
        text(json!({"top_k": 1})).await
    );
}

#[tokio::test]
async fn requests_on_different_models_do_not_mix() {
    let server = Server::shared();
    let models = ["base", "tuned", "other", "base", "tuned", "other"];
    let bodies: Vec<Value> = models
        .iter()
        .enumerate()
        .map(|(number, model)| {
            let more = json!({"temperature": 0, "max_tokens": 20 + number, "logprobs": true});
            let mut body = chat(model, &more);
            body["messages"][1]["content"] = format!("Question {number}?").into();
            body
        })
        .collect();
    let mut alone = Vec::new();
    for body in &bodies {
        alone.push(server.ask(CHAT, body).await);
    }
    let together = join_all(bodies.iter().map(|body| server.ask(CHAT, body))).await;
    for (alone, together) in alone.iter().zip(&together) {
        assert_eq!(content(alone), content(together));
        let logprobs = |answer: &Value| -> Vec<f64> {
            let tokens = answer["choices"][0]["logprobs"]["content"]
                .as_array()
                .unwrap()
                .clone();
            tokens
                .iter()
                .map(|token| token["logprob"].as_f64().unwrap())
                .collect()
        };
        let differences = logprobs(alone)
            .into_iter()
            .zip(logprobs(together))
            .map(|(left, right)| (left - right).abs());
        assert!(differences.fold(0.0, f64::max) < TOLERANCE);
    }
    let same = |left: &str, right: &str| {
        let text =
            |model: &str| content(&alone[models.iter().position(|name| *name == model).unwrap()]).to_owned();
        text(left) == text(right)
    };
    assert!(!same("base", "tuned") && !same("tuned", "other") && !same("base", "other"));
}

#[tokio::test]
async fn long_prompts_are_read_in_parts() {
    let base = golden::endless("llama");
    let server = Server::start(base.path(), &[]);
    // Longer than a step takes, alone and together.
    let prompts: Vec<Vec<u32>> = [900, 1200, 700]
        .map(|length| (0..length).map(|i| 3 + i % 90).collect())
        .into();
    let server = &server;
    let answers = join_all(prompts.iter().map(|prompt| async move {
        let body =
            json!({"model": "base", "prompt": prompt, "max_tokens": 2, "temperature": 0, "logprobs": 0});
        server.ask(COMPLETIONS, &body).await
    }))
    .await;
    for (prompt, answer) in prompts.iter().zip(answers) {
        assert_eq!(answer["usage"]["prompt_tokens"], prompt.len());
        let found = answer["choices"][0]["logprobs"]["token_logprobs"][0]
            .as_f64()
            .unwrap();
        let expected = golden::next_logprobs(base.path(), prompt).max().double_value(&[]);
        assert!((found - expected).abs() < TOLERANCE, "{found} is not {expected}");
    }
}

#[tokio::test]
async fn a_stop_string_cuts_the_text() {
    let server = Server::shared();
    let whole = server.ask(CHAT, &chat("base", &json!({"temperature": 0}))).await;
    let text: Vec<char> = content(&whole).chars().collect();
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    // Two letters from the middle, where they come first.
    let stop: String = text[text.len() / 2..text.len() / 2 + 2].iter().collect();
    let whole: String = text.iter().collect();
    let expected = &whole[..whole.find(&stop).unwrap()];
    for stream in [false, true] {
        let body = chat(
            "base",
            &json!({"temperature": 0, "stop": [stop.clone(), "never"], "stream": stream}),
        );
        let (found, reason) = if stream {
            let chunks = chunks(server.post(CHAT, &body).await).await;
            (
                joined(&chunks, 0),
                chunks[chunks.len() - 1]["choices"][0]["finish_reason"].clone(),
            )
        } else {
            let answer = server.ask(CHAT, &body).await;
            (
                content(&answer).to_owned(),
                answer["choices"][0]["finish_reason"].clone(),
            )
        };
        assert_eq!((found.as_str(), reason), (expected, json!("stop")));
    }
}

#[tokio::test]
async fn several_prompts_give_several_choices() {
    let server = Server::shared();
    let prompts = ["one", "two two", "three"];
    let body =
        |prompt: Value| json!({"model": "other", "prompt": prompt, "temperature": 0, "ignore_eos": true});
    let all = server.ask(COMPLETIONS, &body(json!(prompts))).await;
    let streamed = {
        let mut body = body(json!(prompts));
        body["stream"] = true.into();
        chunks(server.post(COMPLETIONS, &body).await).await
    };
    let mut prompt_tokens = 0;
    for (index, prompt) in prompts.iter().enumerate() {
        let one = server.ask(COMPLETIONS, &body(json!(prompt))).await;
        assert_eq!(all["choices"][index]["text"], one["choices"][0]["text"]);
        assert_eq!(
            joined(&streamed, index),
            one["choices"][0]["text"].as_str().unwrap()
        );
        prompt_tokens += one["usage"]["prompt_tokens"].as_u64().unwrap();
    }
    // 16 is the default of this endpoint.
    let usage =
        json!({"prompt_tokens": prompt_tokens, "completion_tokens": 48, "total_tokens": prompt_tokens + 48});
    assert_eq!(tokens_used(&all), tokens_used(&json!({"usage": usage})));
}

#[tokio::test]
async fn chat_logprobs_name_their_tokens() {
    let server = Server::shared();
    let body = chat(
        "tuned",
        &json!({"temperature": 0, "logprobs": true, "top_logprobs": 3, "max_tokens": 5}),
    );
    let whole = server.ask(CHAT, &body).await;
    let tokens = whole["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap()
        .clone();
    assert_eq!(tokens.len(), 5);
    for token in &tokens {
        assert_eq!(token["top_logprobs"].as_array().unwrap().len(), 3);
        assert_eq!(token["top_logprobs"][0]["logprob"], token["logprob"]);
        assert!(token["bytes"].is_array());
    }
    let mut body = body;
    body["stream"] = true.into();
    let chunks = chunks(server.post(CHAT, &body).await).await;
    let streamed: Vec<Value> = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array())
        .flatten()
        .cloned()
        .collect();
    // What was read before may be rounded otherwise than what is read anew.
    let names =
        |tokens: &[Value]| -> Vec<Value> { tokens.iter().map(|token| token["token"].clone()).collect() };
    assert_eq!(names(&streamed), names(&tokens));
}

#[tokio::test]
async fn content_parts_and_the_developer_role_are_understood() {
    let server = Server::shared();
    let plain = chat("base", &json!({"temperature": 0}));
    let mut parts = plain.clone();
    parts["messages"][0]["role"] = "developer".into();
    parts["messages"][1]["content"] = json!([{"type": "text", "text": "Where is my order?"}]);
    let (plain, parts) = (server.ask(CHAT, &plain).await, server.ask(CHAT, &parts).await);
    assert_eq!(content(&plain), content(&parts));
    assert_eq!(tokens_used(&plain), tokens_used(&parts));
}
