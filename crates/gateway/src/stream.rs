//! Server-sent events on their way through: every chunk gets the public model name, errors become ours, and a broken
//! upstream ends with an error event instead of a silent cut. Nothing is read before the client asks for more.

use std::{collections::VecDeque, pin::Pin};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use serde_json::Value;

use crate::{GatewayError, fleet::Lease, request_meter::RequestMeter, upstream_error::UpstreamError};

/// Longest line of a stream. A replica that sends a longer one is out of order.
const MAX_LINE: usize = 4 * 1024 * 1024;

type Upstream = Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>;

struct Relay {
    upstream: Upstream,
    lines: LineBuffer,
    rewriter: Rewriter,
    ready: VecDeque<Bytes>,
    ended: bool,
    // The replica counts the request as running until the client has the last byte or is gone.
    _lease: Lease,
}

/// The client's stream for `response`. Dropping it closes the connection to the replica, which stops generating.
pub(crate) fn relay(
    response: reqwest::Response,
    rewriter: Rewriter,
    lease: Lease,
) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> + Send {
    let relay = Relay {
        upstream: Box::pin(response.bytes_stream()),
        lines: LineBuffer::default(),
        rewriter,
        ready: VecDeque::new(),
        ended: false,
        _lease: lease,
    };
    futures::stream::unfold(relay, |mut relay| async move {
        loop {
            if let Some(event) = relay.ready.pop_front() {
                return Some((Ok(event), relay));
            }
            if relay.ended {
                return None;
            }
            relay.pull().await;
        }
    })
}

impl Relay {
    async fn pull(&mut self) {
        match self.upstream.next().await {
            Some(Ok(bytes)) => {
                self.lines.push(&bytes);
                if self.lines.pending() > MAX_LINE {
                    self.fail(0, "a line of the stream is too long");
                }
                while let Some(line) = self.lines.next_line() {
                    self.ready.extend(self.rewriter.line(&line));
                }
            }
            Some(Err(error)) => self.fail(0, &error.to_string()),
            None if self.rewriter.done => self.ended = true,
            None => self.fail(0, "the stream ended without [DONE]"),
        }
    }

    fn fail(&mut self, status: u16, message: &str) {
        self.ended = true;
        if !self.rewriter.done {
            tracing::warn!(model = %self.rewriter.public, message, "a stream from a replica broke");
            let error = GatewayError::Upstream {
                status,
                message: message.to_owned(),
            };
            self.rewriter.meter.failed(&error);
            self.ready.push_back(error_event(&error));
        }
    }
}

fn error_event(error: &GatewayError) -> Bytes {
    let body = serde_json::to_string(&error.body()).expect("invariant: an error object is JSON");
    Bytes::from(format!("data: {body}\n\n"))
}

fn error_status(value: &Value) -> u16 {
    value["error"]["code"]
        .as_u64()
        .and_then(|code| u16::try_from(code).ok())
        .unwrap_or(500)
}

/// Splits bytes into lines, whatever the chunk borders.
#[derive(Debug, Default)]
struct LineBuffer {
    bytes: Vec<u8>,
    start: usize,
}

impl LineBuffer {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    fn pending(&self) -> usize {
        self.bytes.len() - self.start
    }

    fn next_line(&mut self) -> Option<Vec<u8>> {
        let rest = &self.bytes[self.start..];
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]).to_vec();
        self.start += end + 1;
        Some(line)
    }
}

/// Puts the public name and our id where the replica wrote its own, and reads what is metered.
#[derive(Debug)]
pub(crate) struct Rewriter {
    /// The replica's name for the model.
    pub(crate) internal: String,
    /// The name that the caller used.
    pub(crate) public: String,
    pub(crate) meter: RequestMeter,
    id: String,
    /// The caller asked for the usage of the stream.
    shows_usage: bool,
    done: bool,
}

impl Rewriter {
    pub(crate) fn new(internal: &str, public: &str, meter: RequestMeter, shows_usage: bool) -> Self {
        Self {
            internal: internal.to_owned(),
            public: public.to_owned(),
            id: meter.answer_id(),
            meter,
            shows_usage,
            done: false,
        }
    }

    /// Rewrites a whole answer.
    pub(crate) fn whole(&mut self, value: &mut Value) {
        self.meter.whole(value);
        self.rename(value);
    }

    fn rename(&self, value: &mut Value) {
        for (field, ours) in [("model", &self.public), ("id", &self.id)] {
            if let Some(theirs) = value.get_mut(field) {
                *theirs = Value::String(ours.clone());
            }
        }
    }

    /// Takes out the usage that only we asked for. False where nothing is left for the caller.
    fn hide_usage(&self, chunk: &mut Value) -> bool {
        if self.shows_usage {
            return true;
        }
        let Some(fields) = chunk.as_object_mut() else {
            return true;
        };
        let usage = fields
            .shift_remove("usage")
            .is_some_and(|usage| usage.is_object());
        let empty = fields
            .get("choices")
            .and_then(Value::as_array)
            .is_some_and(Vec::is_empty);
        !(usage && empty)
    }

    /// The event for the client that a line of the replica makes, if any.
    fn line(&mut self, line: &[u8]) -> Option<Bytes> {
        let Some(data) = line.strip_prefix(b"data:") else {
            // A comment keeps the connection open; the blank lines between events are written with the events.
            return line.starts_with(b":").then(|| Bytes::from_static(b": ping\n\n"));
        };
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            self.done = true;
            self.meter.done();
            return Some(Bytes::from_static(b"data: [DONE]\n\n"));
        }
        let Ok(mut value) = serde_json::from_slice::<Value>(data) else {
            let message = "a chunk of the stream is not JSON".to_owned();
            return Some(self.failed(GatewayError::Upstream { status: 0, message }));
        };
        if value.get("error").is_some() {
            let error = UpstreamError::parse(error_status(&value), &value);
            let error = GatewayError::from_upstream(error, &self.internal, &self.public);
            return Some(self.failed(error));
        }
        self.meter.piece(&value);
        self.rename(&mut value);
        self.hide_usage(&mut value)
            .then(|| Bytes::from(format!("data: {value}\n\n")))
    }

    fn failed(&mut self, error: GatewayError) -> Bytes {
        self.meter.failed(&error);
        error_event(&error)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tunesmith_types::ids::OrganizationId;

    use super::*;
    use crate::{
        metering::Meter,
        request::{Endpoint, ModelRequest},
        shadow,
    };

    #[test]
    fn lines_survive_any_chunk_border() {
        let text = "data: {\"model\":\"x\"}\r\n\r\ndata: [DONE]\n\n";
        let mut lines = LineBuffer::default();
        let mut found = Vec::new();
        for byte in text.bytes() {
            lines.push(&[byte]);
            while let Some(line) = lines.next_line() {
                found.push(String::from_utf8(line).unwrap());
            }
        }
        assert_eq!(found, ["data: {\"model\":\"x\"}", "", "data: [DONE]", ""]);
        assert_eq!(lines.pending(), 0);
    }

    fn rewriter(shows_usage: bool) -> Rewriter {
        let body = serde_json::json!({"model": "support", "prompt": "x", "stream": true});
        let request = ModelRequest::parse(Endpoint::Completion, body).unwrap();
        let (mirrors, _) = shadow::queue();
        let meter = RequestMeter::new(Meter::default(), mirrors, OrganizationId::new(), &request);
        Rewriter::new("a--v1-01234567", "support", meter, shows_usage)
    }

    #[test]
    fn chunks_carry_the_public_name_and_our_id_only() {
        let mut rewriter = rewriter(false);
        let chunk = rewriter
            .line(br#"data: {"id":"c","model":"a--v1-01234567","choices":[]}"#)
            .unwrap();
        let id = rewriter.id.clone();
        assert!(id.starts_with("cmpl-"), "{id}");
        assert_eq!(
            chunk,
            format!("data: {{\"id\":\"{id}\",\"model\":\"support\",\"choices\":[]}}\n\n")
        );
        let line = br#"data: {"error":{"message":"a--v1-01234567 at /cache/x broke","code":500}}"#;
        let error = rewriter.line(line).unwrap();
        let text = String::from_utf8(error.to_vec()).unwrap();
        assert!(
            text.contains("upstream_error") && !text.contains("a--v1") && !text.contains("/cache"),
            "{text}"
        );
        assert!(rewriter.line(b"").is_none());
        assert!(!rewriter.done);
        rewriter.line(b"data: [DONE]").unwrap();
        assert!(rewriter.done);
    }

    #[test]
    fn usage_is_shown_to_those_who_asked() {
        let word = br#"data: {"id":"c","choices":[{"text":"x"}],"usage":null}"#;
        let last = br#"data: {"id":"c","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#;
        let mut asked = rewriter(true);
        assert!(asked.line(word).unwrap().ends_with(b"\"usage\":null}\n\n"));
        assert!(asked.line(last).is_some());
        let mut did_not = rewriter(false);
        assert!(did_not.line(word).unwrap().ends_with(b"[{\"text\":\"x\"}]}\n\n"));
        assert!(did_not.line(last).is_none());
    }
}
