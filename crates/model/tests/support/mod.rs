//! What the tests of this crate share.
#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    dead_code,
    reason = "each test uses a part of it"
)]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tempfile::TempDir;
use tunesmith_model::ModelError;

/// The families with golden files, by the names of their folders.
pub const FAMILIES: [&str; 7] = ["llama", "mistral", "qwen", "qwen3", "gemma2", "gemma3", "phi3"];

/// The golden files of one family.
pub fn golden(family: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(family)
}

fn read_object(path: &Path) -> Map<String, Value> {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// A copy of one golden folder with some fields of its JSON file set; null removes.
pub fn changed_copy(folder: &Path, file: &str, changes: &Value) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let mut object = read_object(&copy.path().join(file));
    for (field, value) in changes.as_object().unwrap() {
        if value.is_null() {
            object.remove(field);
        } else {
            object.insert(field.clone(), value.clone());
        }
    }
    fs::write(copy.path().join(file), Value::Object(object).to_string()).unwrap();
    copy
}

/// Asserts an error's code, and that its text contains `words`.
pub fn assert_refused<T: std::fmt::Debug>(outcome: Result<T, ModelError>, code: &str, words: &str) {
    let error = outcome.unwrap_err();
    assert_eq!(error.code(), code, "{error}");
    assert!(
        error.to_string().contains(words),
        "`{error}` should contain `{words}`"
    );
}
