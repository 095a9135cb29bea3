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
    calls::{self, CallDeltas},
    error::ApiError,
};
use crate::generation::{Event, Piece};

/// How long a stream may be silent before a comment keeps the connection open.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Most tokens that one chunk reports; readers of streams bound the length of a line.
const MOST_TOKENS: usize = 128;

/// A request that is being generated. Dropping it cancels it.
#[derive(Debug)]
pub(super) struct Generating {
    /// One for each choice.
    pub(super) receivers: Vec<mpsc::Receiver<Event>>,
    /// Finds the calls of tools, one for each choice; empty where there can be none.
    pub(super) calls: Vec<CallDeltas>,
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
        mut calls,
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
    for (choice, deltas) in choices.iter_mut().zip(&mut calls) {
        (choice.whole.text, choice.calls) = calls::read_whole(deltas, &choice.whole.text);
        choice.reason = choice.reason.map(|reason| deltas.reason(reason));
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
    calls: Vec<CallDeltas>,
    usage: Usage,
    include_usage: bool,
    /// Choices that have not ended.
    open: usize,
}

/// The `data` of each event.
fn chunks(generating: Generating, include_usage: bool) -> impl Stream<Item = String> + Send {
    let Generating {
        receivers,
        calls,
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
        calls,
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
                let chunks = self.piece(index, &piece);
                self.finished_chunks(chunks)
            }
            Event::Finished {
                reason,
                completion_tokens,
                cached_tokens,
            } => {
                self.usage.cached_tokens += cached_tokens;
                self.usage.completion_tokens += completion_tokens;
                self.open -= 1;
                let mut chunks = Vec::new();
                let mut reason = reason;
                if let Some(calls) = self.calls.get_mut(index) {
                    chunks = self.writer.deltas(index, calls.finish(), &[]);
                    reason = calls.reason(reason);
                }
                chunks.push(self.writer.finish(index, reason));
                let mut texts = self.finished_chunks(chunks);
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

    fn piece(&mut self, index: usize, piece: &Piece) -> Vec<Value> {
        match self.calls.get_mut(index) {
            Some(calls) => {
                let deltas = calls.push(&piece.text);
                self.writer.deltas(index, deltas, &piece.tokens)
            }
            None => self.plain_piece(index, piece),
        }
    }

    /// In one chunk, or where it reports many tokens in several, the last of which has the text.
    fn plain_piece(&mut self, index: usize, piece: &Piece) -> Vec<Value> {
        let before = piece.tokens.len().saturating_sub(1) / MOST_TOKENS * MOST_TOKENS;
        let (before, last) = piece.tokens.split_at(before);
        let parts = before.chunks(MOST_TOKENS).map(|tokens| ("", tokens));
        let parts = parts.chain([(piece.text.as_str(), last)]);
        parts
            .map(|(text, tokens)| {
                let part = Piece {
                    text: text.to_owned(),
                    tokens: tokens.to_vec(),
                };
                self.writer.piece(index, &part)
            })
            .collect()
    }

    fn finished_chunks(&self, chunks: Vec<Value>) -> Vec<String> {
        chunks
            .into_iter()
            .map(|chunk| self.finished_chunk(chunk))
            .collect()
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
mod tests;
