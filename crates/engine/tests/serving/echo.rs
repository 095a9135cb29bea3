//! Completions that begin with their prompt, and the log-probabilities of its tokens.

use futures::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{
    golden::{self, TOLERANCE},
    server::Server,
};

const COMPLETIONS: &str = "/v1/completions";

fn body(prompt: Value, max_tokens: usize, echo: bool) -> Value {
    json!({
        "model": "base", "prompt": prompt, "max_tokens": max_tokens, "echo": echo, "ignore_eos": true, "temperature": 0,
    })
}

fn text(answer: &Value) -> &str {
    answer["choices"][0]["text"].as_str().unwrap()
}

#[tokio::test]
async fn an_echo_begins_with_the_prompt() {
    let server = Server::shared();
    let plain = server.ask(COMPLETIONS, &body(json!("Hello"), 12, false)).await;
    let echoed = server.ask(COMPLETIONS, &body(json!("Hello"), 12, true)).await;
    assert_eq!(text(&echoed), format!("Hello{}", text(&plain)));
    let bare = server.ask(COMPLETIONS, &body(json!("Hello"), 0, true)).await;
    assert_eq!(text(&bare), "Hello");
    assert_eq!(bare["usage"]["completion_tokens"], 0);
    let refused = server.post(COMPLETIONS, &body(json!("Hello"), 0, false)).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
}

/// A part of the answer's log-probabilities.
fn part<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    answer["choices"][0]["logprobs"][name].as_array().unwrap()
}

#[tokio::test]
async fn a_prompt_has_the_logprobs_with_which_it_would_have_been_generated() {
    let base = golden::endless("llama");
    let server = &Server::start(base.path(), &[]);
    let ask = async |prompt: &[u32], max_tokens: usize, echo: bool| {
        let mut body = body(json!(prompt), max_tokens, echo);
        body["logprobs"] = json!(2);
        server.ask(COMPLETIONS, &body).await
    };
    // The first is longer than one step takes.
    let long: Vec<u32> = (0..700).map(|i| 3 + i % 90).collect();
    let generated = ask(&long, 12, false).await;
    // Beside one another, and once more when all of it is known already.
    for _ in 0..2 {
        let lengths = [700, 1, 130];
        let answers = join_all(lengths.map(|length| ask(&long[..length], 12, true))).await;
        for (length, answer) in lengths.into_iter().zip(&answers) {
            for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
                assert_eq!(part(answer, name).len(), length + 12, "{name}");
            }
            assert!(part(answer, "token_logprobs")[0].is_null() && part(answer, "top_logprobs")[0].is_null());
            assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
            // The beginning of a longer prompt is worth the same alone.
            for name in ["tokens", "token_logprobs", "top_logprobs"] {
                assert_eq!(part(answer, name)[..length], part(&answers[0], name)[..length]);
            }
        }
        assert_eq!(
            part(&answers[0], "token_logprobs")[700..],
            *part(&generated, "token_logprobs")
        );
    }
    let scored = ask(&long, 0, true).await;
    assert_eq!(part(&scored, "token_logprobs").len(), 700);
    for place in [1, 64, 65, 400, 699] {
        let found = part(&scored, "token_logprobs")[place].as_f64().unwrap();
        let expected =
            golden::next_logprobs(base.path(), &long[..place]).double_value(&[i64::from(long[place])]);
        assert!(
            (found - expected).abs() < TOLERANCE,
            "{place}: {found} is not {expected}"
        );
    }
}

#[tokio::test]
async fn a_stream_tells_the_prompt_first() {
    let mut body = body(json!("Hello"), 6, true);
    body["logprobs"] = json!(1);
    let whole = Server::shared().ask(COMPLETIONS, &body).await;
    body["stream"] = json!(true);
    let answer = Server::shared().post(COMPLETIONS, &body).await;
    let streamed = crate::server::chunks(answer).await;
    let choices = || streamed.iter().filter_map(|chunk| chunk["choices"].get(0));
    let told: String = choices().filter_map(|choice| choice["text"].as_str()).collect();
    assert_eq!(told, text(&whole));
    for name in ["tokens", "token_logprobs"] {
        let told: Vec<Value> = choices()
            .filter_map(|choice| choice["logprobs"][name].as_array())
            .flatten()
            .cloned()
            .collect();
        assert_eq!(told, part(&whole, name), "{name}");
    }
}
