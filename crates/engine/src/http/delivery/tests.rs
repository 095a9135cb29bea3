#![allow(clippy::unwrap_used)]
use serde_json::json;
use tunesmith_dataset::template::CallSyntax;

use super::*;
use crate::{
    generation::{FinishReason, ReportedToken, TokenLogprob},
    http::{answer::Shape, calls::CallReading},
};

fn piece(text: &str) -> Event {
    Event::Piece(Piece {
        text: text.to_owned(),
        tokens: Vec::new(),
    })
}

fn finished(completion_tokens: usize) -> Event {
    Event::Finished {
        reason: FinishReason::Stop,
        completion_tokens,
        cached_tokens: 0,
    }
}

fn generating(shape: Shape, choices: Vec<Vec<Event>>) -> Generating {
    let receivers: Vec<_> = choices
        .into_iter()
        .map(|events| {
            let (sender, receiver) = mpsc::channel(events.len().max(1));
            events
                .into_iter()
                .for_each(|event| sender.try_send(event).unwrap());
            receiver
        })
        .collect();
    let writer = AnswerWriter::new(shape, "m", receivers.len(), false);
    Generating {
        receivers,
        calls: Vec::new(),
        writer,
        echo: Vec::new(),
        usage: Usage {
            prompt_tokens: 3,
            ..Usage::default()
        },
    }
}

async fn streamed(generating: Generating, include_usage: bool) -> Vec<String> {
    chunks(generating, include_usage).collect().await
}

#[tokio::test]
async fn a_long_report_comes_in_several_chunks() {
    let token = ReportedToken {
        picked: TokenLogprob {
            text: "x".to_owned(),
            logprob: Some(-0.5),
        },
        top: Vec::new(),
    };
    let report = Event::Piece(Piece {
        text: "the text".to_owned(),
        tokens: vec![token; 300],
    });
    let mut generating = generating(Shape::Completion, vec![vec![report, finished(1)]]);
    generating.writer = AnswerWriter::new(Shape::Completion, "m", 1, true);
    let chunks: Vec<Value> = streamed(generating, false)
        .await
        .iter()
        .filter_map(|text| serde_json::from_str(text).ok())
        .collect();
    let told: Vec<(&str, usize)> = chunks
        .iter()
        .filter_map(|chunk| {
            let choice = &chunk["choices"][0];
            let tokens = choice["logprobs"]["tokens"].as_array()?;
            Some((choice["text"].as_str()?, tokens.len()))
        })
        .collect();
    assert_eq!(told, [("", 128), ("", 128), ("the text", 44)]);
    assert_eq!(chunks[2]["choices"][0]["logprobs"]["text_offset"][0], 256);
}

#[tokio::test]
async fn a_stream_has_role_pieces_reason_usage_and_done() {
    let events = vec![piece("a"), piece("b"), finished(2)];
    let texts = streamed(generating(Shape::Chat, vec![events]), true).await;
    assert_eq!(texts.last().unwrap(), "[DONE]");
    let chunks: Vec<Value> = texts[..5]
        .iter()
        .map(|text| serde_json::from_str(text).unwrap())
        .collect();
    let deltas: Vec<&Value> = chunks[..4]
        .iter()
        .map(|chunk| &chunk["choices"][0]["delta"])
        .collect();
    assert_eq!(deltas[0]["role"], "assistant");
    assert_eq!(
        (&deltas[1]["content"], &deltas[2]["content"], deltas[3]),
        (&json!("a"), &json!("b"), &json!({}))
    );
    assert_eq!(chunks[3]["choices"][0]["finish_reason"], "stop");
    assert!(
        chunks[..4]
            .iter()
            .all(|chunk| chunk["usage"].is_null() && chunk.get("usage").is_some())
    );
    assert_eq!(chunks[4]["usage"]["total_tokens"], 5);
}

#[tokio::test]
async fn calls_are_streamed_as_deltas() {
    let events = vec![
        piece("Well. <tool_"),
        piece("call>{\"name\": \"f\", \"arguments\": {"),
        piece("}}</tool_call>"),
        finished(3),
    ];
    let mut generating = generating(Shape::Chat, vec![events]);
    generating.calls.push(CallDeltas::new(&CallReading {
        syntax: CallSyntax::Hermes,
        names: vec!["f".to_owned()],
        named: false,
        parallel: true,
    }));
    let texts = streamed(generating, false).await;
    let choices: Vec<Value> = texts[1..texts.len() - 1]
        .iter()
        .map(|text| serde_json::from_str::<Value>(text).unwrap()["choices"][0].clone())
        .collect();
    assert_eq!(choices[0]["delta"], json!({"content": "Well."}));
    let function = |place: usize| &choices[place]["delta"]["tool_calls"][0]["function"];
    assert_eq!(function(1), &json!({"name": "f", "arguments": ""}));
    assert_eq!(
        (function(2), function(3)),
        (&json!({"arguments": "{"}), &json!({"arguments": "}"}))
    );
    assert_eq!(
        (&choices[4]["delta"], &choices[4]["finish_reason"]),
        (&json!({}), &json!("tool_calls"))
    );
}

#[tokio::test]
async fn usage_is_left_out_unless_asked_for() {
    let texts = streamed(
        generating(Shape::Completion, vec![vec![piece("a"), finished(1)]]),
        false,
    )
    .await;
    assert_eq!(texts.len(), 3);
    assert!(texts.iter().all(|text| !text.contains("usage")));
}

#[tokio::test]
async fn several_choices_share_one_end() {
    let choices = vec![
        vec![piece("a"), finished(1)],
        vec![piece("b"), piece("c"), finished(2)],
    ];
    let texts = streamed(generating(Shape::Completion, choices), true).await;
    assert_eq!(texts.iter().filter(|text| *text == "[DONE]").count(), 1);
    let usage: Value = serde_json::from_str(&texts[texts.len() - 2]).unwrap();
    assert_eq!(usage["usage"]["completion_tokens"], 3);
}

#[tokio::test]
async fn a_failure_ends_the_stream_with_an_error() {
    for events in [vec![piece("a"), Event::Failed("x".into())], vec![piece("a")]] {
        let texts = streamed(
            generating(Shape::Completion, vec![events, vec![piece("b")]]),
            false,
        )
        .await;
        let error: Value = serde_json::from_str(&texts[texts.len() - 2]).unwrap();
        assert_eq!(error["error"]["code"], "internal_error");
        assert_eq!(texts.last().unwrap(), "[DONE]");
    }
}

#[tokio::test]
async fn the_whole_gathers_all_choices() {
    let choices = vec![
        vec![piece("a"), piece("b"), finished(2)],
        vec![piece("c"), finished(1)],
    ];
    let response = whole(generating(Shape::Completion, choices)).await.unwrap();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX)
        .await
        .unwrap();
    let answer: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (&answer["choices"][0]["text"], &answer["choices"][1]["text"]),
        (&json!("ab"), &json!("c"))
    );
    assert_eq!(
        answer["usage"],
        json!({
            "prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6,
            "prompt_tokens_details": {"cached_tokens": 0},
        })
    );
    assert!(
        whole(generating(Shape::Chat, vec![vec![piece("a")]]))
            .await
            .is_err()
    );
}
