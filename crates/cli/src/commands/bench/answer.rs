//! What one answer says about the model's speed, read from its events or from its body.

use std::time::Duration;

use serde_json::Value;

/// One request that was answered whole.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Answer {
    /// `x-tunesmith-version`, where the server sends it.
    pub(super) version: Option<String>,
    /// From the request to the first text of its stream.
    pub(super) first: Option<Duration>,
    /// From the request to the last text; where nothing is streamed, to the end of the body.
    pub(super) last: Duration,
    /// Between texts that followed each other.
    pub(super) gaps: Vec<Duration>,
    pub(super) prompt_tokens: Option<u64>,
    pub(super) completion_tokens: u64,
}

impl Answer {
    /// Time per token after the first.
    pub(super) fn per_token(&self) -> Option<Duration> {
        let rest = u32::try_from(self.completion_tokens.checked_sub(1)?).ok()?;
        let elapsed = self.last.checked_sub(self.first?)?;
        (rest > 0).then(|| elapsed / rest)
    }
}

/// Whether more events follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    More,
    Done,
}

/// Reads the events of one stream.
#[derive(Debug, Default)]
pub(super) struct Reading {
    answer: Answer,
    texts: u64,
    counted: Option<u64>,
}

impl Reading {
    /// Takes the data of an event that came `at` after the request.
    ///
    /// # Errors
    /// The code of an error that the stream reports, or of one that is seen in it.
    pub(super) fn event(&mut self, at: Duration, data: &str) -> Result<Next, String> {
        if data == "[DONE]" {
            return Ok(Next::Done);
        }
        let chunk: Value = serde_json::from_str(data).map_err(|_| "unreadable_event".to_owned())?;
        if let Some(error) = chunk.get("error").filter(|error| !error.is_null()) {
            return Err(code(error).unwrap_or_else(|| "error_in_stream".to_owned()));
        }
        if chunk["choices"]
            .as_array()
            .is_some_and(|all| all.iter().any(has_text))
        {
            match self.answer.first {
                None => self.answer.first = Some(at),
                Some(_) => self.answer.gaps.push(at.saturating_sub(self.answer.last)),
            }
            self.answer.last = at;
            self.texts += 1;
        }
        if let Some(count) = chunk["usage"]["completion_tokens"].as_u64() {
            self.counted = Some(count);
            self.answer.prompt_tokens = chunk["usage"]["prompt_tokens"].as_u64();
        }
        Ok(Next::More)
    }

    /// The answer; a server that does not count tokens is taken to send one with each event.
    pub(super) fn finish(self, version: Option<String>) -> Answer {
        Answer {
            version,
            completion_tokens: self.counted.unwrap_or(self.texts),
            ..self.answer
        }
    }
}

/// Whether a choice brings text, of a chat or of a completion.
fn has_text(choice: &Value) -> bool {
    let texts = [
        &choice["delta"]["content"],
        &choice["delta"]["reasoning_content"],
        &choice["text"],
    ];
    let has_words = texts
        .iter()
        .any(|text| text.as_str().is_some_and(|text| !text.is_empty()));
    has_words || choice["delta"]["tool_calls"].is_array()
}

/// An answer that came whole, `at` after the request.
///
/// # Errors
/// It counts no tokens.
pub(super) fn whole(at: Duration, body: &Value, version: Option<String>) -> Result<Answer, String> {
    let usage = &body["usage"];
    let counted = usage["completion_tokens"].as_u64();
    Ok(Answer {
        version,
        last: at,
        prompt_tokens: usage["prompt_tokens"].as_u64(),
        completion_tokens: counted.ok_or_else(|| "no_usage".to_owned())?,
        ..Answer::default()
    })
}

/// The code of an error object: OpenAI's text, or the number that vLLM puts there.
pub(super) fn code(error: &Value) -> Option<String> {
    match &error["code"] {
        Value::String(code) => Some(code.clone()),
        Value::Number(code) => Some(format!("status_{code}")),
        _ => error["type"].as_str().map(ToOwned::to_owned),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn read(events: &[(u64, Value)]) -> Answer {
        let mut reading = Reading::default();
        for (at, event) in events {
            assert_eq!(reading.event(ms(*at), &event.to_string()), Ok(Next::More));
        }
        assert_eq!(reading.event(ms(999), "[DONE]"), Ok(Next::Done));
        reading.finish(Some("support@7".to_owned()))
    }

    #[test]
    fn the_first_text_counts_and_not_the_role() {
        let answer = read(&[
            (
                5,
                json!({"choices": [{"delta": {"role": "assistant", "content": ""}}]}),
            ),
            (20, json!({"choices": [{"delta": {"content": "a"}}]})),
            (30, json!({"choices": [{"delta": {"content": "b"}}]})),
            (60, json!({"choices": [{"delta": {"content": "c"}}]})),
            (61, json!({"choices": [{"delta": {}, "finish_reason": "length"}]})),
            (
                62,
                json!({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 5}}),
            ),
        ]);
        assert_eq!((answer.first, answer.last), (Some(ms(20)), ms(60)));
        assert_eq!(answer.gaps, [ms(10), ms(30)]);
        assert_eq!((answer.prompt_tokens, answer.completion_tokens), (Some(9), 5));
        assert_eq!(answer.per_token(), Some(ms(10)));
        assert_eq!(answer.version.as_deref(), Some("support@7"));
    }

    #[test]
    fn texts_are_tokens_where_the_server_does_not_count() {
        let answer = read(&[
            (10, json!({"choices": [{"text": "a"}], "usage": null})),
            (30, json!({"choices": [{"text": "b"}]})),
        ]);
        assert_eq!((answer.completion_tokens, answer.prompt_tokens), (2, None));
        assert_eq!(answer.per_token(), Some(ms(20)));
        assert_eq!(
            read(&[(10, json!({"choices": [{"text": "a"}]}))]).per_token(),
            None
        );
        assert_eq!(read(&[]).first, None);
    }

    #[test]
    fn an_error_in_the_stream_has_its_code() {
        for (event, expected) in [
            (
                json!({"error": {"message": "m", "code": "model_overloaded"}}),
                "model_overloaded",
            ),
            (json!({"error": {"message": "m", "code": 500}}), "status_500"),
            (
                json!({"error": {"type": "server_error", "code": null}}),
                "server_error",
            ),
            (json!({"error": "m"}), "error_in_stream"),
        ] {
            let code = Reading::default().event(ms(1), &event.to_string());
            assert_eq!(code, Err(expected.to_owned()));
        }
        let code = Reading::default().event(ms(1), "{");
        assert_eq!(code, Err("unreadable_event".to_owned()));
    }

    #[test]
    fn a_whole_answer_has_no_first_token() {
        let body = json!({"usage": {"prompt_tokens": 3, "completion_tokens": 8}});
        let answer = whole(ms(40), &body, None).unwrap();
        assert_eq!((answer.first, answer.completion_tokens), (None, 8));
        assert_eq!(answer.per_token(), None);
        assert!(whole(ms(40), &json!({}), None).is_err());
    }
}
