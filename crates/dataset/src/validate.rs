//! Validation of a whole file as it streams by: every error is counted, the first thousand are listed, and memory does
//! not grow with the file.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, BufRead};

use tunesmith_types::dataset::{DatasetError, ExampleFormat, ValidationReport};

use crate::example::Example;
use crate::fields::Problem;
use crate::lines::{Line, LineSplitter, MOST_LINE_BYTES};

/// Errors that a report lists; the others are only counted.
pub const MOST_LISTED_ERRORS: usize = 1000;
/// Lines that are remembered for finding duplicates.
const MOST_REMEMBERED_LINES: usize = 1_000_000;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Validates a file that is pushed in chunks.
#[derive(Debug, Default)]
pub struct Validator {
    splitter: LineSplitter,
    judge: Judge,
}

/// Validates what `reader` gives, to its end.
///
/// # Errors
/// The reader's own error; what is wrong with the data is in the report.
pub fn validate(mut reader: impl BufRead) -> io::Result<ValidationReport> {
    let mut validator = Validator::default();
    loop {
        let chunk = reader.fill_buf()?;
        if chunk.is_empty() {
            return Ok(validator.finish());
        }
        let length = chunk.len();
        validator.push(chunk);
        reader.consume(length);
    }
}

impl Validator {
    /// Takes the next bytes of the file.
    pub fn push(&mut self, chunk: &[u8]) {
        let judge = &mut self.judge;
        judge.report.bytes += chunk.len() as u64;
        self.splitter.push(chunk, |line| judge.line(line));
    }

    /// The report, after the last bytes.
    #[must_use]
    pub fn finish(mut self) -> ValidationReport {
        let judge = &mut self.judge;
        self.splitter.finish(|line| judge.line(line));
        if judge.report.examples == 0 && judge.report.error_count == 0 {
            let message = "the file has no example; give at least one line.";
            judge.error(0, Problem::line("empty_file", message));
        }
        judge.report.valid = judge.report.error_count == 0;
        self.judge.report
    }
}

#[derive(Debug, Default)]
struct Judge {
    report: ValidationReport,
    seen: HashSet<u64>,
}

impl Judge {
    fn line(&mut self, line: Line<'_>) {
        self.report.lines += 1;
        let number = self.report.lines;
        let Line::Whole(mut bytes) = line else {
            let message =
                format!("the line has more than {MOST_LINE_BYTES} bytes; split it into shorter examples.");
            return self.error(number, Problem::line("line_too_long", message));
        };
        if number == 1
            && let Some(rest) = bytes.strip_prefix(BYTE_ORDER_MARK)
        {
            let message = "the file begins with a byte order mark; save it as UTF-8 without one (in Python: encoding=\"utf-8\").";
            self.error(number, Problem::line("byte_order_mark", message));
            bytes = rest;
        }
        if bytes.trim_ascii().is_empty() {
            self.report.blank_lines += 1;
            return;
        }
        match Example::parse(bytes) {
            Ok(example) => self.example(number, &example, bytes),
            Err(problems) => {
                for problem in problems {
                    self.error(number, problem);
                }
            }
        }
    }

    fn example(&mut self, number: u64, example: &Example, bytes: &[u8]) {
        let format = example.format();
        if let Some(first) = self.report.format
            && first != format
        {
            let message = format!(
                "the line is in the {} format, but the file began with {}; keep one format per file.",
                name(format),
                name(first)
            );
            return self.error(number, Problem::line("mixed_formats", message));
        }
        self.report.format = Some(format);
        self.report.examples += 1;
        self.report.longest_line_bytes = self.report.longest_line_bytes.max(bytes.len() as u64);
        if let Example::Chat { messages, .. } = example {
            self.report.messages += messages.len() as u64;
            self.report.trained_messages +=
                messages.iter().filter(|message| message.is_trained()).count() as u64;
        }
        self.remember(bytes.trim_ascii());
    }

    fn remember(&mut self, bytes: &[u8]) {
        let mut hasher = DefaultHasher::new();
        hasher.write(bytes);
        let hash = hasher.finish();
        if self.seen.contains(&hash) {
            self.report.duplicates += 1;
        } else if self.seen.len() < MOST_REMEMBERED_LINES {
            self.seen.insert(hash);
        }
    }

    fn error(&mut self, line: u64, problem: Problem) {
        self.report.error_count += 1;
        if self.report.errors.len() < MOST_LISTED_ERRORS {
            self.report.errors.push(DatasetError {
                line,
                field: problem.field,
                code: problem.code.to_owned(),
                message: problem.message,
            });
        }
    }
}

/// The format's name, as people know it.
const fn name(format: ExampleFormat) -> &'static str {
    match format {
        ExampleFormat::Chat => "chat",
        ExampleFormat::Completion => "prompt and completion",
        ExampleFormat::Text => "text",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn report(file: &[u8]) -> ValidationReport {
        validate(file).unwrap()
    }

    #[test]
    fn a_good_file() {
        let line = r#"{"messages":[{"role":"user","content":"u"},{"role":"assistant","content":"a"}]}"#;
        let file = format!(
            "{line}\r\n\n{line}\n{}",
            line.replace('u', "v").replace("v", "u ")
        );
        let found = report(file.as_bytes());
        assert!(found.errors.iter().all(|error| error.line == 4), "{found:?}");
        let found = report(format!("{line}\n\n{line}\n").as_bytes());
        assert!(found.valid);
        assert_eq!(
            (found.lines, found.examples, found.blank_lines, found.duplicates),
            (3, 2, 1, 1)
        );
        assert_eq!((found.messages, found.trained_messages), (4, 2));
        assert_eq!(found.format, Some(ExampleFormat::Chat));
    }

    #[test]
    fn errors_of_the_file_as_a_whole() {
        let codes = |file: &[u8]| -> Vec<(u64, String)> {
            let errors = report(file).errors.into_iter();
            errors.map(|error| (error.line, error.code)).collect()
        };
        assert_eq!(codes(b""), [(0, "empty_file".to_owned())]);
        assert_eq!(codes(b"\n \n"), [(0, "empty_file".to_owned())]);
        assert_eq!(
            codes(b"\xef\xbb\xbf{\"text\":\"a\"}"),
            [(1, "byte_order_mark".to_owned())]
        );
        assert_eq!(
            codes(b"{\"text\":\"a\"}\n{\"prompt\":\"a\",\"completion\":\"b\"}"),
            [(2, "mixed_formats".to_owned())]
        );
        assert_eq!(
            codes(b"{\"text\":\"a\"}\n\xff\n{}"),
            [(2, "invalid_utf8".to_owned()), (3, "no_format".to_owned())]
        );
        let long = format!("{{\"text\":\"{}\"}}\n", "x".repeat(MOST_LINE_BYTES));
        assert_eq!(codes(long.as_bytes()), [(1, "line_too_long".to_owned())]);
    }

    #[test]
    fn all_errors_are_counted_and_the_first_thousand_listed() {
        let found = report("{}\n".repeat(2500).as_bytes());
        assert_eq!(
            (found.error_count, found.errors.len()),
            (2500, MOST_LISTED_ERRORS)
        );
        assert!(!found.valid);
        assert_eq!(found.errors[999].line, 1000);
    }
}
