//! Copies of requests to a version that nobody sees: sent after the answer, compared with it, and thrown away. The
//! queue is short; what finds no room is dropped and counted, so a slow shadow slows nobody down.

use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tunesmith_store::requests::{MeteredRequest, Mirror};
use tunesmith_types::states::RequestStatus;
use uuid::Uuid;

use crate::{
    fleet::Fleet,
    metering::Meter,
    request::ModelRequest,
    request_meter::{Tokens, text_of},
    resolve::Target,
};

/// Copies that wait.
const MOST_WAITING: usize = 64;
/// Copies that run at once.
const AT_ONCE: usize = 4;
/// How long a copy waits for a replica that has the version.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest time of one copy.
const LONGEST: Duration = Duration::from_secs(120);
/// Words of each text that are compared.
const MOST_WORDS: usize = 1_000;

/// A copy that waits.
#[derive(Debug)]
pub(crate) struct Mirrored {
    pub(crate) request: ModelRequest,
    pub(crate) target: Target,
    /// What the caller got.
    pub(crate) text: String,
    /// The record of the copy, not filled in yet; its id is that of the original.
    pub(crate) record: MeteredRequest,
}

/// The queue's entrance.
#[derive(Debug, Clone)]
pub(crate) struct Mirrors {
    sender: mpsc::Sender<Mirrored>,
}

/// The queue's other end.
#[derive(Debug)]
pub(crate) struct MirrorQueue {
    receiver: mpsc::Receiver<Mirrored>,
}

pub(crate) fn queue() -> (Mirrors, MirrorQueue) {
    let (sender, receiver) = mpsc::channel(MOST_WAITING);
    (Mirrors { sender }, MirrorQueue { receiver })
}

impl Mirrors {
    /// Puts a copy into the queue, or notes that there was no room.
    pub(crate) fn offer(&self, mirrored: Mirrored, meter: &Meter) {
        if let Err(mpsc::error::TrySendError::Full(mirrored) | mpsc::error::TrySendError::Closed(mirrored)) =
            self.sender.try_send(mirrored)
        {
            meter.record(MeteredRequest {
                duration_ms: 0.0,
                ..outcome(mirrored.record, None, None)
            });
        }
    }
}

/// The record of a copy under an id of its own.
fn outcome(record: MeteredRequest, text_equal: Option<bool>, similarity: Option<f64>) -> MeteredRequest {
    MeteredRequest {
        id: Uuid::now_v7(),
        mirror: Some(Mirror {
            of: record.id,
            text_equal,
            similarity,
        }),
        ..record
    }
}

impl MirrorQueue {
    /// Sends copies until `shutdown`; those that wait then are dropped.
    pub(crate) async fn send(
        self,
        fleet: Fleet,
        http: reqwest::Client,
        meter: Meter,
        shutdown: CancellationToken,
    ) {
        let copies = futures::stream::unfold(self.receiver, |mut receiver| async move {
            receiver.recv().await.map(|mirrored| (mirrored, receiver))
        });
        let all = copies.for_each_concurrent(AT_ONCE, |mirrored| {
            let (fleet, http, meter) = (&fleet, &http, &meter);
            async move { meter.record(send_one(fleet, http, mirrored).await) }
        });
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = all => {}
        }
    }
}

async fn send_one(fleet: &Fleet, http: &reqwest::Client, mirrored: Mirrored) -> MeteredRequest {
    let started = Instant::now();
    let answer = tokio::time::timeout(LONGEST, ask(fleet, http, &mirrored)).await;
    let Mirrored { record, text, .. } = mirrored;
    let duration_ms = started.elapsed().as_secs_f64() * 1_000.0;
    match answer.unwrap_or_else(|_| Err("timeout")) {
        Ok(answer) => {
            let tokens = Tokens::read(&answer["usage"]);
            let shadow = text_of(&answer);
            let record = MeteredRequest {
                status: RequestStatus::Ok,
                prompt_tokens: tokens.prompt,
                completion_tokens: tokens.completion,
                cached_tokens: tokens.cached,
                duration_ms,
                ..record
            };
            outcome(record, Some(text == shadow), Some(similarity(&text, shadow)))
        }
        Err(code) => {
            let record = MeteredRequest {
                status: RequestStatus::Error,
                error_code: Some(code.to_owned()),
                duration_ms,
                ..record
            };
            outcome(record, None, None)
        }
    }
}

async fn ask(fleet: &Fleet, http: &reqwest::Client, mirrored: &Mirrored) -> Result<Value, &'static str> {
    let target = &mirrored.target;
    let lease = fleet.acquire(target.base, target.arm.adapter.as_deref(), PATIENCE);
    let lease = lease.await.map_err(|_| "no_replica")?;
    let mut body = mirrored.request.body(&lease.internal);
    if let Some(fields) = body.as_object_mut() {
        fields.insert("stream".to_owned(), json!(false));
        fields.remove("stream_options");
    }
    let url = format!("{}{}", lease.url, mirrored.request.endpoint.path());
    let answer = lease.authorize(http.post(url)).json(&body).send().await;
    let answer = answer.and_then(reqwest::Response::error_for_status);
    let answer = answer.map_err(|_| "upstream_error")?;
    answer.json().await.map_err(|_| "upstream_error")
}

/// Twice the words in common (in order), of all words of both: 1 for the same text, 0 for nothing in common.
fn similarity(a: &str, b: &str) -> f64 {
    let words = |text: &str| -> Vec<String> {
        text.split_whitespace()
            .take(MOST_WORDS)
            .map(ToOwned::to_owned)
            .collect()
    };
    let (a, b) = (words(a), words(b));
    if a.is_empty() && b.is_empty() {
        return 1.0;
    }
    // The longest common subsequence, a row at a time.
    let mut row = vec![0_u32; b.len() + 1];
    for word in &a {
        let mut diagonal = 0;
        for (place, other) in b.iter().enumerate() {
            let above = row[place + 1];
            row[place + 1] = if word == other {
                diagonal + 1
            } else {
                above.max(row[place])
            };
            diagonal = above;
        }
    }
    let length = |words: &[String]| f64::from(u32::try_from(words.len()).unwrap_or(u32::MAX));
    2.0 * f64::from(row[b.len()]) / (length(&a) + length(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similarity_counts_words_in_order() {
        for (a, b, wanted) in [
            ("", "", 1.0),
            ("a b c", "a b c", 1.0),
            ("a b c d", "a x c d", 0.75),
            ("a b", "b a", 0.5),
            ("a", "b", 0.0),
            ("a", "", 0.0),
            ("the cat sat", "the cat sat on the mat", 2.0 / 3.0),
        ] {
            let found = similarity(a, b);
            assert!((found - wanted).abs() < 1e-12, "{a} / {b}: {found}");
            assert!((similarity(b, a) - wanted).abs() < 1e-12);
        }
    }
}
