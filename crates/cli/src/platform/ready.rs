//! The ready file: how a program that started us learns that all parts work, and where.

use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::config::write_private;

/// Contents of the file. It appears whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReadyFile {
    /// `http://127.0.0.1:8080`
    pub(crate) api_url: String,
    /// An owner's key of the default organization.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api_key: Option<String>,
    /// Of the process that wrote it.
    pub(crate) pid: u32,
}

impl ReadyFile {
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_vec(self).context("cannot serialise the ready file")?;
        write_private(path, &text).with_context(|| format!("cannot write {}", path.display()))
    }
}
