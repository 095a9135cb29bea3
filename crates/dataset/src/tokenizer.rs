//! The base model's own tokenizer: `tokenizer.json` and its special tokens.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokenizers::Tokenizer;

use crate::special::SpecialTokens;

/// Why a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not JSON.
    #[error("{path} is not valid JSON", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// `tokenizer.json` does not describe a tokenizer.
    #[error("{path} is not a tokenizer that can be loaded", path = path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: tokenizers::Error,
    },
    /// A text could not be split into tokens, or tokens not be joined.
    #[error("the tokenizer failed on a text")]
    Run(#[source] tokenizers::Error),
}

/// A text in tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids.
    pub ids: Vec<u32>,
    /// For each token, its bytes in the text; empty for a token that the tokenizer added.
    pub offsets: Vec<Range<usize>>,
}

/// A tokenizer with its special tokens.
#[derive(Debug, Clone)]
pub struct TextTokenizer {
    tokenizer: Tokenizer,
    special: SpecialTokens,
    digest: String,
}

impl TextTokenizer {
    /// Loads the tokenizer of a base model's folder.
    ///
    /// # Errors
    /// A file that is missing or is not what its name says.
    pub fn load(folder: &Path) -> Result<Self, TokenizerError> {
        let path = folder.join("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(|source| TokenizerError::Read {
            path: path.clone(),
            source,
        })?;
        let mut json: Value = serde_json::from_slice(&bytes).map_err(|source| TokenizerError::Json {
            path: path.clone(),
            source,
        })?;
        keep_exact_offsets(&mut json);
        let tokenizer = serde_json::from_value::<Tokenizer>(json).map_err(|source| TokenizerError::Load {
            path,
            source: source.into(),
        })?;
        let special = SpecialTokens::read(folder, |text| tokenizer.token_to_id(text))?;
        Ok(Self::new(tokenizer, special, hex::encode(Sha256::digest(&bytes))))
    }

    /// A tokenizer from its parts. `digest`: sha256 of its file.
    fn new(mut tokenizer: Tokenizer, special: SpecialTokens, digest: String) -> Self {
        tokenizer.with_padding(None);
        let _ = tokenizer.with_truncation(None);
        Self {
            tokenizer,
            special,
            digest,
        }
    }

    /// The special tokens.
    #[must_use]
    pub const fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// sha256 of `tokenizer.json`, in hex.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Ids in use, added tokens included.
    #[must_use]
    pub fn vocabulary_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// The greatest id in use.
    #[must_use]
    pub fn greatest_id(&self) -> u32 {
        self.tokenizer.get_vocab(true).into_values().max().unwrap_or(0)
    }

    /// Id of the token with that text.
    #[must_use]
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.tokenizer.token_to_id(text)
    }

    /// Splits `text`. `add_special`: whether the tokenizer adds its own (such as a leading `<s>`); false for text from a
    /// chat template, which has them already.
    ///
    /// # Errors
    /// The tokenizer refuses the text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Encoded, TokenizerError> {
        let encoding = self.tokenizer.encode(text, add_special);
        Ok(from_encoding(&encoding.map_err(TokenizerError::Run)?))
    }

    /// Splits many texts, on all cores.
    ///
    /// # Errors
    /// The tokenizer refuses one of them.
    pub fn encode_batch(&self, texts: Vec<(String, bool)>) -> Result<Vec<Encoded>, TokenizerError> {
        let mut encoded = vec![Encoded::default(); texts.len()];
        for add_special in [true, false] {
            let (places, chosen): (Vec<usize>, Vec<&str>) = texts
                .iter()
                .enumerate()
                .filter(|(_, (_, special))| *special == add_special)
                .map(|(place, (text, _))| (place, text.as_str()))
                .unzip();
            if chosen.is_empty() {
                continue;
            }
            let encodings = self.tokenizer.encode_batch(chosen, add_special);
            for (place, encoding) in places.into_iter().zip(encodings.map_err(TokenizerError::Run)?) {
                encoded[place] = from_encoding(&encoding);
            }
        }
        Ok(encoded)
    }

    /// Joins tokens to text.
    ///
    /// # Errors
    /// An id outside the vocabulary.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        self.tokenizer
            .decode(ids, skip_special)
            .map_err(TokenizerError::Run)
    }
}

fn from_encoding(encoding: &tokenizers::Encoding) -> Encoded {
    let offsets = encoding.get_offsets().iter();
    Encoded {
        ids: encoding.get_ids().to_vec(),
        offsets: offsets.map(|&(start, end)| start..end).collect(),
    }
}

/// Byte-level tokenizers may cut white space from the offsets that they report (never from the tokens). Loss masks need
/// the true ones.
fn keep_exact_offsets(json: &mut Value) {
    match json {
        Value::Object(object) => {
            for (key, value) in object.iter_mut() {
                match key.as_str() {
                    "trim_offsets" => *value = Value::Bool(false),
                    "model" | "added_tokens" => {}
                    _ => keep_exact_offsets(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(keep_exact_offsets),
        _ => {}
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokenizers::AddedToken;
    use tokenizers::models::bpe::BPE;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    /// One token per byte, and `<s>`, `</s>`, `<|im_start|>`, `<|im_end|>`.
    pub(crate) fn byte_tokenizer() -> TextTokenizer {
        let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
        alphabet.sort_unstable();
        let vocabulary: Vec<(String, u32)> = alphabet
            .into_iter()
            .zip(0u32..)
            .map(|(letter, id)| (letter.to_string(), id))
            .collect();
        let model = BPE::builder()
            .vocab_and_merges(
                vocabulary
                    .into_iter()
                    .collect::<std::collections::HashMap<_, _>>()
                    .into_iter()
                    .collect::<tokenizers::models::bpe::Vocab>(),
                Vec::new(),
            )
            .build()
            .unwrap();
        let mut tokenizer = Tokenizer::new(model);
        tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, false, true)));
        tokenizer.with_decoder(Some(ByteLevel::default()));
        let names = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"];
        tokenizer
            .add_special_tokens(names.map(|name| AddedToken::from(name, true)))
            .unwrap();
        let special = SpecialTokens {
            bos: Some("<s>".to_owned()),
            eos: Some("</s>".to_owned()),
            pad: None,
            eos_ids: vec![257],
        };
        TextTokenizer::new(tokenizer, special, "test".to_owned())
    }

    #[test]
    fn encodes_and_decodes() {
        let tokenizer = byte_tokenizer();
        let encoded = tokenizer.encode("<s> é\n", false).unwrap();
        assert_eq!(encoded.ids.len(), 5);
        assert_eq!(encoded.ids[0], 256);
        assert_eq!(encoded.offsets[1], 3..4);
        assert_eq!(tokenizer.decode(&encoded.ids, true).unwrap(), " é\n");
        let batch = tokenizer
            .encode_batch(vec![("a".to_owned(), false), ("bc".to_owned(), true)])
            .unwrap();
        assert_eq!((batch[0].ids.len(), batch[1].ids.len()), (1, 2));
    }

    #[test]
    fn offsets_are_never_trimmed() {
        let mut json = serde_json::json!({"post_processor": {"processors": [{"trim_offsets": true}]}, "model": {"vocab": {"trim_offsets": 3}}});
        keep_exact_offsets(&mut json);
        assert_eq!(json["post_processor"]["processors"][0]["trim_offsets"], false);
        assert_eq!(json["model"]["vocab"]["trim_offsets"], 3);
    }

    #[test]
    fn missing_file_names_its_path() {
        let error = TextTokenizer::load(Path::new("/nowhere")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read /nowhere/tokenizer.json");
    }
}
