//! Splits a byte stream into lines without ever holding more than one line.

/// Most bytes of one line.
pub const MOST_LINE_BYTES: usize = 4 * 1024 * 1024;

/// A line, or the fact that it was too long to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line<'a> {
    /// Its bytes, without the line break.
    Whole(&'a [u8]),
    /// It has more than [`MOST_LINE_BYTES`].
    TooLong,
}

/// Cuts pushed chunks into lines. Its memory is bounded by [`MOST_LINE_BYTES`].
#[derive(Debug, Default)]
pub struct LineSplitter {
    part: Vec<u8>,
    too_long: bool,
    started: bool,
}

impl LineSplitter {
    /// Calls `each` with every line that `chunk` completes.
    pub fn push(&mut self, mut chunk: &[u8], mut each: impl FnMut(Line<'_>)) {
        while let Some(end) = chunk.iter().position(|byte| *byte == b'\n') {
            let (head, tail) = chunk.split_at(end);
            if self.part.is_empty() && !self.too_long && head.len() <= MOST_LINE_BYTES {
                each(Line::Whole(head));
            } else {
                self.keep(head);
                self.flush(&mut each);
            }
            self.started = false;
            chunk = &tail[1..];
        }
        if !chunk.is_empty() {
            self.keep(chunk);
            self.started = true;
        }
    }

    /// Calls `each` with the last line, if the stream does not end with a line break.
    pub fn finish(&mut self, mut each: impl FnMut(Line<'_>)) {
        if std::mem::take(&mut self.started) {
            self.flush(&mut each);
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.too_long || self.part.len() + bytes.len() > MOST_LINE_BYTES {
            self.too_long = true;
            self.part = Vec::new();
        } else {
            self.part.extend_from_slice(bytes);
        }
    }

    fn flush(&mut self, each: &mut impl FnMut(Line<'_>)) {
        if std::mem::take(&mut self.too_long) {
            each(Line::TooLong);
        } else {
            each(Line::Whole(&self.part));
        }
        self.part.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(chunks: &[&[u8]]) -> Vec<Option<Vec<u8>>> {
        let mut splitter = LineSplitter::default();
        let mut lines = Vec::new();
        let mut each = |line: Line<'_>| {
            lines.push(match line {
                Line::Whole(bytes) => Some(bytes.to_vec()),
                Line::TooLong => None,
            });
        };
        for chunk in chunks {
            splitter.push(chunk, &mut each);
        }
        splitter.finish(&mut each);
        lines
    }

    #[test]
    fn chunks_do_not_matter() {
        let wanted: Vec<_> = [&b"ab"[..], b"", b"c"].map(|line| Some(line.to_vec())).into();
        assert_eq!(split(&[b"ab\n\nc"]), wanted);
        assert_eq!(split(&[b"a", b"b", b"\n", b"\nc"]), wanted);
        assert_eq!(split(&[b"ab\n", b"\nc\n"]), wanted);
        assert_eq!(split(&[]), Vec::<Option<Vec<u8>>>::new());
    }

    #[test]
    fn long_line_is_dropped_and_the_next_one_kept() {
        let long = vec![b'x'; MOST_LINE_BYTES + 1];
        assert_eq!(split(&[&long, b"\nok\n"]), [None, Some(b"ok".to_vec())]);
        let exact = vec![b'x'; MOST_LINE_BYTES];
        assert_eq!(split(&[&exact, b"\n"]), [Some(exact.clone())]);
    }
}
