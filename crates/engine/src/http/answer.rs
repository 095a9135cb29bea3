//! The JSON of answers: chat completions, completions, and the chunks of both.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    clock::unix_seconds,
    generation::{FinishReason, Piece, ReportedToken, TokenLogprob},
};

/// JSON has no negative infinity; this is what vLLM writes for it.
const LEAST_LOGPROB: f32 = -9999.0;

/// Which of the two shapes an answer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completion,
}

/// Tokens of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Usage {
    /// Of all prompts.
    pub(super) prompt_tokens: usize,
    /// Of all choices.
    pub(super) completion_tokens: usize,
    /// Of all prompts, those that were not read anew.
    pub(super) cached_tokens: usize,
}

impl Usage {
    fn to_json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        })
    }
}

/// A choice that is complete.
#[derive(Debug, Clone, Default)]
pub(super) struct Choice {
    /// All its text and tokens.
    pub(super) whole: Piece,
    /// Calls of tools that were found in the text, which is without them.
    pub(super) calls: Vec<Value>,
    /// Why it ended.
    pub(super) reason: Option<FinishReason>,
}

/// Writes the objects of one answer; id, time and model are the same in all of them.
#[derive(Debug)]
pub(super) struct AnswerWriter {
    shape: Shape,
    id: String,
    created: i64,
    model: String,
    logprobs: bool,
    /// For each choice, how many characters its tokens have so far.
    offsets: Vec<usize>,
}

impl AnswerWriter {
    /// A writer for an answer of `choices` choices by `model`.
    #[must_use]
    pub(super) fn new(shape: Shape, model: &str, choices: usize, logprobs: bool) -> Self {
        let prefix = if shape == Shape::Chat { "chatcmpl" } else { "cmpl" };
        Self {
            shape,
            id: format!("{prefix}-{}", Uuid::now_v7().simple()),
            created: unix_seconds(),
            model: model.to_owned(),
            logprobs,
            offsets: vec![0; choices],
        }
    }

    /// The answer as one object.
    #[must_use]
    pub(super) fn whole(&mut self, choices: &[Choice], usage: Usage) -> Value {
        let object = if self.shape == Shape::Chat {
            "chat.completion"
        } else {
            "text_completion"
        };
        let choices: Vec<Value> = choices.iter().enumerate().map(|(index, choice)| {
            let logprobs = self.logprobs(index, &choice.whole.tokens);
            let reason = choice.reason.map(FinishReason::as_str);
            match self.shape {
                Shape::Chat => json!({
                    "index": index, "message": message(choice), "logprobs": logprobs, "finish_reason": reason,
                }),
                Shape::Completion => json!({
                    "index": index, "text": choice.whole.text, "logprobs": logprobs, "finish_reason": reason,
                }),
            }
        }).collect();
        let mut answer = self.object(object, Value::Array(choices));
        answer["usage"] = usage.to_json();
        answer
    }

    /// The chunk with which a choice begins, where the shape has one.
    #[must_use]
    pub(super) fn opening(&self, index: usize) -> Option<Value> {
        (self.shape == Shape::Chat).then(|| {
            self.chunk(
                index,
                json!({"role": "assistant", "content": ""}),
                Value::Null,
                None,
            )
        })
    }

    /// A chunk of new text.
    #[must_use]
    pub(super) fn piece(&mut self, index: usize, piece: &Piece) -> Value {
        let logprobs = self.logprobs(index, &piece.tokens);
        let content = match self.shape {
            Shape::Chat => json!({"content": piece.text}),
            Shape::Completion => json!(piece.text),
        };
        self.chunk(index, content, logprobs, None)
    }

    /// The chunks of `deltas`; all of `tokens` are told in the first.
    #[must_use]
    pub(super) fn deltas(
        &mut self,
        index: usize,
        mut deltas: Vec<Value>,
        tokens: &[ReportedToken],
    ) -> Vec<Value> {
        if deltas.is_empty() && !tokens.is_empty() {
            deltas.push(json!({}));
        }
        let mut logprobs = self.logprobs(index, tokens);
        let chunks = deltas
            .into_iter()
            .map(|delta| self.chunk(index, delta, logprobs.take(), None));
        chunks.collect()
    }

    /// The last chunk of a choice.
    #[must_use]
    pub(super) fn finish(&self, index: usize, reason: FinishReason) -> Value {
        let content = if self.shape == Shape::Chat {
            json!({})
        } else {
            json!("")
        };
        self.chunk(index, content, Value::Null, Some(reason))
    }

    /// The chunk that counts tokens; it has no choice.
    #[must_use]
    pub(super) fn usage(&self, usage: Usage) -> Value {
        let mut chunk = self.object(self.chunk_object(), json!([]));
        chunk["usage"] = usage.to_json();
        chunk
    }

    fn chunk_object(&self) -> &'static str {
        if self.shape == Shape::Chat {
            "chat.completion.chunk"
        } else {
            "text_completion"
        }
    }

    fn chunk(&self, index: usize, content: Value, logprobs: Value, reason: Option<FinishReason>) -> Value {
        let key = if self.shape == Shape::Chat {
            "delta"
        } else {
            "text"
        };
        let reason = reason.map(FinishReason::as_str);
        let choice = json!({"index": index, key: content, "logprobs": logprobs, "finish_reason": reason});
        self.object(self.chunk_object(), json!([choice]))
    }

    fn object(&self, object: &str, choices: Value) -> Value {
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices,
        })
    }

    fn logprobs(&mut self, index: usize, tokens: &[ReportedToken]) -> Value {
        match self.shape {
            _ if !self.logprobs => Value::Null,
            Shape::Chat => chat_logprobs(tokens),
            Shape::Completion => completion_logprobs(tokens, &mut self.offsets[index]),
        }
    }
}

/// A message that only calls has no content.
fn message(choice: &Choice) -> Value {
    let text = &choice.whole.text;
    if choice.calls.is_empty() {
        return json!({"role": "assistant", "content": text});
    }
    let content = Some(text).filter(|text| !text.is_empty());
    json!({"role": "assistant", "content": content, "tool_calls": choice.calls})
}

fn finite(logprob: Option<f32>) -> Option<f32> {
    logprob.map(|logprob| logprob.max(LEAST_LOGPROB))
}

fn chat_logprobs(tokens: &[ReportedToken]) -> Value {
    let entry = |token: &TokenLogprob| json!({"token": token.text, "logprob": finite(token.logprob), "bytes": token.text.as_bytes()});
    let content: Vec<Value> = tokens
        .iter()
        .map(|token| {
            let mut content = entry(&token.picked);
            content["top_logprobs"] = token.top.iter().map(entry).collect();
            content
        })
        .collect();
    json!({"content": content, "refusal": null})
}

/// `top_logprobs` has the picked token too, likely or not.
fn completion_logprobs(tokens: &[ReportedToken], offset: &mut usize) -> Value {
    let mut offsets = Vec::with_capacity(tokens.len());
    let mut tops = Vec::with_capacity(tokens.len());
    for token in tokens {
        offsets.push(*offset);
        *offset += token.picked.text.chars().count();
        let top = token.top.iter().chain([&token.picked]);
        let top: serde_json::Map<String, Value> = top
            .filter_map(|token| Some((token.text.clone(), json!(finite(Some(token.logprob?))))))
            .collect();
        tops.push(if top.is_empty() {
            Value::Null
        } else {
            Value::Object(top)
        });
    }
    let texts: Vec<&str> = tokens.iter().map(|token| token.picked.text.as_str()).collect();
    let logprobs: Vec<Option<f32>> = tokens.iter().map(|token| finite(token.picked.logprob)).collect();
    json!({"text_offset": offsets, "token_logprobs": logprobs, "tokens": texts, "top_logprobs": tops})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str, logprob: f32) -> TokenLogprob {
        TokenLogprob {
            text: text.to_owned(),
            logprob: Some(logprob),
        }
    }

    fn piece(text: &str) -> Piece {
        let tokens = vec![ReportedToken {
            picked: token(text, -0.5),
            top: vec![token("x", -0.25), token("y", f32::NEG_INFINITY)],
        }];
        Piece {
            text: text.to_owned(),
            tokens,
        }
    }

    #[test]
    fn a_chat_completion_has_its_fields() {
        let mut writer = AnswerWriter::new(Shape::Chat, "m", 1, false);
        let choice = Choice {
            whole: piece("hi"),
            calls: Vec::new(),
            reason: Some(FinishReason::Stop),
        };
        let answer = writer.whole(
            &[choice],
            Usage {
                prompt_tokens: 3,
                completion_tokens: 2,
                cached_tokens: 1,
            },
        );
        assert_eq!(answer["object"], "chat.completion");
        assert!(
            answer["id"]
                .as_str()
                .is_some_and(|id| id.starts_with("chatcmpl-"))
        );
        assert_eq!(
            answer["choices"],
            json!([{"index": 0, "message": {"role": "assistant", "content": "hi"}, "logprobs": null, "finish_reason": "stop"}])
        );
        assert_eq!(
            answer["usage"],
            json!({
                "prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 1},
            })
        );
    }

    #[test]
    fn chat_chunks_begin_with_the_role_and_end_with_the_reason() {
        let mut writer = AnswerWriter::new(Shape::Chat, "m", 1, false);
        let opening = writer.opening(0).unwrap_or_default();
        let chunks = [
            opening,
            writer.piece(0, &piece("hi")),
            writer.finish(0, FinishReason::Length),
        ];
        assert_eq!(
            chunks[0]["choices"][0]["delta"],
            json!({"role": "assistant", "content": ""})
        );
        assert_eq!(chunks[1]["choices"][0]["delta"], json!({"content": "hi"}));
        assert_eq!(chunks[1]["choices"][0]["finish_reason"], Value::Null);
        assert_eq!(chunks[2]["choices"][0]["finish_reason"], "length");
        for chunk in &chunks {
            assert_eq!(chunk["object"], "chat.completion.chunk");
            assert_eq!(
                (&chunk["id"], &chunk["created"]),
                (&chunks[0]["id"], &chunks[0]["created"])
            );
        }
        assert_eq!(writer.usage(Usage::default())["choices"], json!([]));
    }

    #[test]
    fn chat_logprobs_have_bytes_and_alternatives() {
        let mut writer = AnswerWriter::new(Shape::Chat, "m", 1, true);
        let chunk = writer.piece(0, &piece("é"));
        let expected = json!({"content": [{
            "token": "é", "logprob": -0.5, "bytes": [195, 169],
            "top_logprobs": [
                {"token": "x", "logprob": -0.25, "bytes": [120]},
                {"token": "y", "logprob": -9999.0, "bytes": [121]},
            ],
        }], "refusal": null});
        assert_eq!(chunk["choices"][0]["logprobs"], expected);
    }

    #[test]
    fn completion_logprobs_count_characters() {
        let mut writer = AnswerWriter::new(Shape::Completion, "m", 1, true);
        assert!(writer.opening(0).is_none());
        let _ = writer.piece(0, &piece("né"));
        let chunk = writer.piece(0, &piece("b"));
        let expected = json!({
            "text_offset": [2], "token_logprobs": [-0.5], "tokens": ["b"],
            "top_logprobs": [{"x": -0.25, "y": -9999.0, "b": -0.5}],
        });
        assert_eq!(chunk["choices"][0]["logprobs"], expected);
        assert_eq!(chunk["choices"][0]["text"], "b");
        let first = ReportedToken {
            picked: TokenLogprob {
                text: "b".to_owned(),
                logprob: None,
            },
            top: Vec::new(),
        };
        let first = completion_logprobs(&[first], &mut 0);
        assert_eq!(
            (&first["token_logprobs"], &first["top_logprobs"]),
            (&json!([null]), &json!([null]))
        );
        assert_eq!(chunk["object"], "text_completion");
    }
}
