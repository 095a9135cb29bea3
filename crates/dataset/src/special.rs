//! Special tokens: which texts and ids open a sequence and end a turn. They are spread over four files of a Hugging
//! Face folder, which do not always agree.

use std::path::Path;

use serde_json::Value;

use crate::tokenizer::TokenizerError;

/// Special tokens as the folder's files name them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Text of the token that opens a sequence.
    pub bos: Option<String>,
    /// Text of the token that ends one.
    pub eos: Option<String>,
    /// Text of the padding token.
    pub pad: Option<String>,
    /// Ids that end a generation (`eos_token_id` of generation_config.json and config.json, and the id of `eos`).
    pub eos_ids: Vec<u32>,
}

/// A JSON file of the folder; None where it is absent.
pub(crate) fn read_json(folder: &Path, name: &str) -> Result<Option<Value>, TokenizerError> {
    let path = folder.join(name);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(TokenizerError::Read { path, source }),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|source| TokenizerError::Json { path, source })
}

impl SpecialTokens {
    /// Reads them. `id`: looks a token's text up in the vocabulary.
    pub(crate) fn read(folder: &Path, id: impl Fn(&str) -> Option<u32>) -> Result<Self, TokenizerError> {
        let tokenizer_config = read_json(folder, "tokenizer_config.json")?;
        let map = read_json(folder, "special_tokens_map.json")?;
        let text = |name: &str| {
            [&tokenizer_config, &map]
                .into_iter()
                .flatten()
                .find_map(|file| token_text(&file[name]))
        };
        let mut tokens = Self {
            bos: text("bos_token"),
            eos: text("eos_token"),
            pad: text("pad_token"),
            eos_ids: Vec::new(),
        };
        for name in ["generation_config.json", "config.json"] {
            if let Some(file) = read_json(folder, name)? {
                tokens.add_eos_ids(&file["eos_token_id"]);
            }
        }
        if let Some(id) = tokens.eos.as_deref().and_then(&id) {
            tokens.add_eos_id(id);
        }
        Ok(tokens)
    }

    fn add_eos_ids(&mut self, value: &Value) {
        match value {
            Value::Array(ids) => ids.iter().for_each(|id| self.add_eos_ids(id)),
            Value::Number(id) => {
                if let Some(id) = id.as_u64().and_then(|id| u32::try_from(id).ok()) {
                    self.add_eos_id(id);
                }
            }
            _ => {}
        }
    }

    fn add_eos_id(&mut self, id: u32) {
        if !self.eos_ids.contains(&id) {
            self.eos_ids.push(id);
        }
    }
}

/// A token is written as its text, or as an object with the text under `content`.
fn token_text(value: &Value) -> Option<String> {
    let text = match value {
        Value::Object(object) => object.get("content")?,
        other => other,
    };
    text.as_str().map(ToOwned::to_owned)
}
