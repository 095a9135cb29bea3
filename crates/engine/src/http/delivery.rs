//! Sending what the engine generates: gathered into one object, or as server-sent events while it comes.

use std::{convert::Infallible, time::Duration};

use axum::{
    Json,
    http::{HeaderName, HeaderValue, header::CACHE_CONTROL},
    response::{
        IntoResponse, Response,
        sse::{self, KeepAlive, Sse},
    },
};
use futures::{Stream, StreamExt, stream};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    answer::{AnswerWriter, Choice, Usage},
    error::ApiError,
};
use crate::generation::{Event, Piece};

/// How long a stream may be silent before a comment keeps the connection open.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// A request that is being generated. Dropping it cancels it.
#[derive(Debug)]
pub(super) struct Generating {
    /// One for each choice.
    pub(super) receivers: Vec<mpsc::Receiver<Event>>,
    /// Writes the objects.
    pub(super) writer: AnswerWriter,
    /// Texts that come before the generated ones, one for each choice or none.
    pub(super) echo: Vec<String>,
    /// Prompt tokens; completion tokens are added as choices end.
    pub(super) usage: Usage,
}

/// Waits for all choices and answers with one object.
///
/// # Errors
/// The engine fails.
pub(super) async fn whole(generating: Generating) -> Result<Response, ApiError> {
    let Generating {
        receivers,
        mut writer,
        echo,
        mut usage,
    } = generating;
    let mut choices = vec![Choice::default(); receivers.len()];
    for (choice, text) in choices.iter_mut().zip(echo) {
        choice.whole.text = text;
    }
    for (choice, mut receiver) in choices.iter_mut().zip(receivers) {
        while choice.reason.is_none() {
            match receiver.recv().await {
                Some(Event::Piece(piece)) => {
                    choice.whole.text.push_str(&piece.text);
                    choice.whole.tokens.extend(piece.tokens);
                }
                Some(Event::Finished {
                    reason,
                    completion_tokens,
                    cached_tokens,
                }) => {
                    choice.reason = Some(reason);
                    usage.cached_tokens += cached_tokens;
                    usage.completion_tokens += completion_tokens;
                }
                Some(Event::Failed(_)) | None => return Err(ApiError::internal()),
            }
        }
    }
    Ok(Json(writer.whole(&choices, usage)).into_response())
}

/// Answers with a stream of chunks that ends with `[DONE]`.
pub(super) fn stream(generating: Generating, include_usage: bool) -> Response {
    let events =
        chunks(generating, include_usage).map(|data| Ok::<_, Infallible>(sse::Event::default().data(data)));
    let keep_alive = KeepAlive::new().interval(HEARTBEAT).text("ping");
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Tells nginx to pass events on as they come.
    headers.insert(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    response
}

/// Turns events into the chunks of a stream.
struct ChunkWriter {
    writer: AnswerWriter,
    usage: Usage,
    include_usage: bool,
    /// Choices that have not ended.
    open: usize,
}

/// The `data` of each event.
fn chunks(generating: Generating, include_usage: bool) -> impl Stream<Item = String> + Send {
    let Generating {
        receivers,
        mut writer,
        echo,
        usage,
    } = generating;
    let open = receivers.len();
    let mut openings: Vec<Value> = (0..open).filter_map(|index| writer.opening(index)).collect();
    for (index, text) in echo.into_iter().enumerate() {
        let piece = Piece {
            text,
            tokens: Vec::new(),
        };
        openings.push(writer.piece(index, &piece));
    }
    let mut state = ChunkWriter {
        writer,
        usage,
        include_usage,
        open,
    };
    let openings: Vec<String> = openings
        .into_iter()
        .map(|chunk| state.finished_chunk(chunk))
        .collect();
    let events = receivers.into_iter().enumerate().map(|(index, receiver)| {
        // A channel that closes before its last event means that the engine's thread is gone.
        let lost = stream::once(async { Event::Failed("the engine has stopped".to_owned()) });
        let ended = |event: &Event| !matches!(event, Event::Piece(_));
        until(ReceiverStream::new(receiver).chain(lost), ended)
            .map(move |event| (index, event))
            .boxed()
    });
    let texts = stream::select_all(events).map(move |(index, event)| state.write(index, event));
    let texts = until(texts, |texts: &Vec<String>| {
        texts.last().is_some_and(|text| text == "[DONE]")
    });
    stream::iter(openings).chain(texts.flat_map(stream::iter))
}

/// The items up to and with the first for which `last` holds. Then the stream is dropped, which cancels what is left.
fn until<S: Stream>(stream: S, last: impl Fn(&S::Item) -> bool) -> impl Stream<Item = S::Item> {
    stream::unfold(Some((Box::pin(stream), last)), |state| async {
        let (mut stream, last) = state?;
        let item = stream.next().await?;
        let rest = (!last(&item)).then_some((stream, last));
        Some((item, rest))
    })
}

impl ChunkWriter {
    fn write(&mut self, index: usize, event: Event) -> Vec<String> {
        match event {
            Event::Piece(piece) => {
                let chunk = self.writer.piece(index, &piece);
                vec![self.finished_chunk(chunk)]
            }
            Event::Finished {
                reason,
                completion_tokens,
                cached_tokens,
            } => {
                self.usage.cached_tokens += cached_tokens;
                self.usage.completion_tokens += completion_tokens;
                self.open -= 1;
                let chunk = self.writer.finish(index, reason);
                let mut texts = vec![self.finished_chunk(chunk)];
                if self.open == 0 {
                    texts.extend(
                        self.include_usage
                            .then(|| self.writer.usage(self.usage).to_string()),
                    );
                    texts.push("[DONE]".to_owned());
                }
                texts
            }
            Event::Failed(_) => {
                let error = ApiError::internal();
                let body = serde_json::to_string(error.body()).expect("invariant: an error object is JSON");
                vec![body, "[DONE]".to_owned()]
            }
        }
    }

    /// With usage asked for, every chunk before the last says that it has none.
    fn finished_chunk(&self, mut chunk: Value) -> String {
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::{generation::FinishReason, http::answer::Shape};

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
}
