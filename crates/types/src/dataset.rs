//! What validation finds out about a dataset.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Format of the lines of a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExampleFormat {
    /// `{"messages": […]}`
    Chat,
    /// `{"prompt", "completion"}`
    Completion,
    /// `{"text"}`
    Text,
}

/// Result of the validation of a dataset's file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ValidationReport {
    /// Whether the dataset can be trained on: at least one example, and no error.
    pub valid: bool,
    /// Size of the file.
    pub bytes: u64,
    /// Lines, blank ones included.
    pub lines: u64,
    /// Lines without an error.
    pub examples: u64,
    /// Format of the file: that of its first good line.
    pub format: Option<ExampleFormat>,
    /// Lines with nothing but white space, which training skips.
    pub blank_lines: u64,
    /// Good lines that repeat an earlier one byte for byte (counted among the first million of distinct lines).
    pub duplicates: u64,
    /// Messages in conversations.
    pub messages: u64,
    /// Assistant messages that are trained on.
    pub trained_messages: u64,
    /// Bytes of the longest good line.
    pub longest_line_bytes: u64,
    /// All errors, also those that are not listed.
    pub error_count: u64,
    /// The first thousand errors, in the order of the file.
    pub errors: Vec<DatasetError>,
}

/// One error of a dataset's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatasetError {
    /// Line, from 1; 0 where the file as a whole is at fault.
    pub line: u64,
    /// Path of the field (`messages[2].role`); null where the line as a whole is at fault.
    pub field: Option<String>,
    /// A stable code (`unknown_role`).
    pub code: String,
    /// A sentence: what is wrong and how to mend it.
    pub message: String,
}
