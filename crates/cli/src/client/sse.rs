//! Server-sent events, read from a response.

use futures::{Stream, StreamExt};
use tokio_util::{
    codec::{FramedRead, LinesCodec},
    io::StreamReader,
};

/// Longest line of a stream.
const MAX_LINE: usize = 4 * 1024 * 1024;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ServerEvent {
    /// Its name; empty where the stream gives none.
    pub(crate) name: String,
    pub(crate) data: String,
}

/// The events of a response, as they come.
pub(crate) fn events(response: reqwest::Response) -> impl Stream<Item = anyhow::Result<ServerEvent>> {
    let bytes = response
        .bytes_stream()
        .map(|chunk| chunk.map_err(std::io::Error::other));
    let lines = FramedRead::new(
        StreamReader::new(Box::pin(bytes)),
        LinesCodec::new_with_max_length(MAX_LINE),
    );
    futures::stream::unfold(
        (lines, ServerEvent::default()),
        |(mut lines, mut event)| async move {
            loop {
                let line = match lines.next().await? {
                    Ok(line) => line,
                    Err(error) => {
                        let error = anyhow::Error::new(error).context("the stream broke off");
                        return Some((Err(error), (lines, ServerEvent::default())));
                    }
                };
                if line.is_empty() {
                    if event.data.is_empty() {
                        event = ServerEvent::default();
                        continue;
                    }
                    return Some((Ok(event), (lines, ServerEvent::default())));
                }
                let (field, value) = line.split_once(':').unwrap_or((&line, ""));
                let value = value.strip_prefix(' ').unwrap_or(value);
                match field {
                    "event" => value.clone_into(&mut event.name),
                    "data" => {
                        if !event.data.is_empty() {
                            event.data.push('\n');
                        }
                        event.data.push_str(value);
                    }
                    _ => {}
                }
            }
        },
    )
}
