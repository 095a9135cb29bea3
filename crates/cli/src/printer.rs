//! The only door to the terminal: data to stdout, words to stderr.

use std::{fmt::Display, io::Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// How results are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Printer {
    /// JSON on stdout, for programs.
    json: bool,
}

impl Printer {
    pub(crate) const fn new(json: bool) -> Self {
        Self { json }
    }

    pub(crate) const fn is_json(self) -> bool {
        self.json
    }

    /// A result: JSON for programs, `text` for people.
    pub(crate) fn result(self, value: &impl Serialize, text: impl FnOnce() -> String) {
        if self.json {
            self.json(value);
        } else {
            self.line(text());
        }
    }

    /// One JSON document on stdout.
    pub(crate) fn json(self, value: &impl Serialize) {
        let text = serde_json::to_string_pretty(value).expect("invariant: what is shown is JSON");
        self.line(text);
    }

    /// A line of data on stdout.
    pub(crate) fn line(self, text: impl Display) {
        self.write(format_args!("{text}\n"));
    }

    /// Data on stdout as it is. Nobody reading any more (`| head`) is no error.
    pub(crate) fn write(self, text: impl Display) {
        let mut stdout = std::io::stdout().lock();
        let _ = write!(stdout, "{text}").and_then(|()| stdout.flush());
    }

    /// A sentence for a person, on stderr.
    pub(crate) fn words(self, text: impl Display) {
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }
}

/// A table without borders.
pub(crate) fn table(headings: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.iter().map(|heading| heading.to_uppercase()));
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

/// `name: value` lines, the values in one column.
pub(crate) fn details(pairs: &[(&str, String)]) -> String {
    let width = pairs
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or_default();
    let lines = pairs
        .iter()
        .map(|(name, value)| format!("{name:width$}  {value}"));
    lines.collect::<Vec<_>>().join("\n")
}
