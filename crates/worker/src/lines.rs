//! Lines of bounded length from a child that may print anything.

use std::collections::VecDeque;

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// What [`BoundedLines::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A line without its end.
    Whole(Vec<u8>),
    /// The beginning of a line that is longer than allowed; the rest was thrown away.
    Cut(Vec<u8>),
}

/// Reads lines and never holds more than `most` bytes of one.
#[derive(Debug)]
pub(crate) struct BoundedLines<R> {
    reader: R,
    most: usize,
    line: Vec<u8>,
    /// The rest of a line that was given as cut is on its way.
    skipping: bool,
}

impl<R: AsyncBufRead + Unpin> BoundedLines<R> {
    pub(crate) const fn new(reader: R, most: usize) -> Self {
        Self {
            reader,
            most,
            line: Vec::new(),
            skipping: false,
        }
    }

    /// The next line; none at the end. A line that is too long is given as soon as it is. Dropping the future loses
    /// nothing: what was read is kept for the next call.
    pub(crate) async fn next(&mut self) -> std::io::Result<Option<Line>> {
        loop {
            let available = self.reader.fill_buf().await?;
            if available.is_empty() {
                let rest = std::mem::take(&mut self.line);
                return Ok((!rest.is_empty()).then_some(Line::Whole(rest)));
            }
            let end = available.iter().position(|byte| *byte == b'\n');
            let piece = &available[..end.unwrap_or(available.len())];
            let room = self.most - self.line.len();
            let too_long = piece.len() > room;
            if !self.skipping {
                self.line.extend_from_slice(&piece[..piece.len().min(room)]);
            }
            let used = piece.len() + usize::from(end.is_some());
            self.reader.consume(used);
            let was_skipping = self.skipping;
            self.skipping = end.is_none() && (was_skipping || too_long);
            match (was_skipping, too_long, end) {
                (false, true, _) => return Ok(Some(Line::Cut(std::mem::take(&mut self.line)))),
                (false, false, Some(_)) => return Ok(Some(Line::Whole(std::mem::take(&mut self.line)))),
                _ => {}
            }
        }
    }
}

/// The last lines of a log.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    lines: VecDeque<String>,
    bytes: usize,
}

impl Tail {
    const MOST_BYTES: usize = 8 * 1024;

    pub(crate) fn push(&mut self, line: &[u8]) {
        let line = String::from_utf8_lossy(line).into_owned();
        self.bytes += line.len() + 1;
        self.lines.push_back(line);
        while self.bytes > Self::MOST_BYTES && self.lines.len() > 1 {
            let dropped = self.lines.pop_front().map_or(0, |line| line.len() + 1);
            self.bytes -= dropped;
        }
    }

    pub(crate) fn text(&self) -> String {
        self.lines
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("\n")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn long_lines_are_cut_and_the_next_one_is_whole() {
        let text = format!("one\n{}\ntwo", "x".repeat(100));
        let mut lines = BoundedLines::new(tokio::io::BufReader::with_capacity(7, text.as_bytes()), 10);
        assert_eq!(lines.next().await.unwrap(), Some(Line::Whole(b"one".to_vec())));
        assert_eq!(lines.next().await.unwrap(), Some(Line::Cut(vec![b'x'; 10])));
        assert_eq!(lines.next().await.unwrap(), Some(Line::Whole(b"two".to_vec())));
        assert_eq!(lines.next().await.unwrap(), None);
    }

    #[test]
    fn a_tail_keeps_the_end() {
        let mut tail = Tail::default();
        for number in 0..10_000 {
            tail.push(format!("line {number}").as_bytes());
        }
        let text = tail.text();
        assert!(text.len() <= Tail::MOST_BYTES);
        assert!(text.ends_with("line 9999"));
    }
}
