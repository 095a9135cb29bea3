//! Output that follows a JSON schema, a regular expression or a grammar: llguidance says after every token which may
//! come next.

use std::{fmt, path::Path, sync::Arc};

use llguidance::{
    Matcher, ParserFactory,
    api::TopLevelGrammar,
    token_bytes_from_tokenizer_json,
    toktrie::{ApproximateTokEnv, INVALID_TOKEN, TokEnv, TokRxInfo, TokTrie},
};
use serde_json::{Value, json};

/// Whitespace between two parts of a JSON text.
const GAP: &str = r"[\x20\x0A\x0D\x09]{1,21}";

/// What the output must be.
#[derive(Debug, Clone, PartialEq)]
pub enum Grammar {
    /// JSON that the schema allows.
    JsonSchema(Value),
    /// A text that the regular expression matches from end to end.
    Regex(String),
    /// A text of a Lark grammar.
    Lark(String),
}

/// Why output cannot be constrained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// The tokenizer's tokens are not bytes, as far as can be told.
    #[error("this model's tokenizer does not say which bytes its tokens are: {0}")]
    Tokenizer(String),
    /// The grammar is not valid, or too large.
    #[error("{0}")]
    Grammar(String),
    /// The output left the grammar, which the mask should have prevented.
    #[error("the output left its grammar: {0}")]
    Left(String),
}

/// Compiles grammars for one model.
pub struct GrammarCompiler {
    factory: ParserFactory,
}

impl fmt::Debug for GrammarCompiler {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("GrammarCompiler")
    }
}

impl GrammarCompiler {
    /// A compiler for the tokenizer in the folder `base`. `vocabulary`: rows of the model's logits; `end_tokens`: what
    /// ends a sequence.
    ///
    /// # Errors
    /// The tokenizer's file does not say which bytes a token is.
    pub fn load(base: &Path, vocabulary: u32, end_tokens: &[u32]) -> Result<Self, ConstraintError> {
        let read = || -> Result<Vec<Vec<u8>>, String> {
            let file = std::fs::read(base.join("tokenizer.json")).map_err(|error| error.to_string())?;
            let json: Value = serde_json::from_slice(&file).map_err(|error| error.to_string())?;
            // The library asserts on vocabularies that it does not know.
            std::panic::catch_unwind(|| token_bytes_from_tokenizer_json(&json))
                .map_err(|_| "its vocabulary is of an unknown form".to_owned())?
                .map_err(|error| error.to_string())
        };
        let mut words = read().map_err(ConstraintError::Tokenizer)?;
        words.resize(vocabulary as usize, Vec::new());
        let info = TokRxInfo::new(vocabulary, end_tokens.first().copied().unwrap_or(INVALID_TOKEN));
        let mut trie = TokTrie::from(&info, &words);
        if end_tokens.len() > 1 {
            trie = trie.with_eos_tokens(end_tokens);
        }
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&environment)
            .map_err(|error| ConstraintError::Tokenizer(error.to_string()))?;
        factory.quiet();
        Ok(Self { factory })
    }

    /// Compiles a grammar. This may take a while, so never on the engine's thread.
    ///
    /// # Errors
    /// The grammar is not valid, or larger than the library's limits.
    pub fn compile(&self, grammar: Grammar) -> Result<Constraint, ConstraintError> {
        let grammar = match grammar {
            Grammar::JsonSchema(schema) => TopLevelGrammar::from_json_schema(with_short_gaps(schema)),
            Grammar::Regex(pattern) => TopLevelGrammar::from_regex(&pattern),
            Grammar::Lark(text) => TopLevelGrammar::from_lark(text),
        };
        let matcher = Matcher::new(self.factory.create_parser(grammar));
        match matcher.get_error() {
            None => Ok(Constraint { matcher }),
            Some(error) => Err(ConstraintError::Grammar(error)),
        }
    }
}

/// The schema with a bound on the whitespace between two parts, unless it says something on that itself: small models
/// otherwise fill all their tokens with empty lines. A new line with five levels of four spaces fits.
fn with_short_gaps(mut schema: Value) -> Value {
    if let Some(fields) = schema.as_object_mut() {
        let options = fields.entry("x-guidance").or_insert_with(|| json!({}));
        let own = ["whitespace_pattern", "whitespace_flexible"];
        if own.iter().all(|field| options.get(field).is_none())
            && let Some(options) = options.as_object_mut()
        {
            options.insert("whitespace_pattern".to_owned(), json!(GAP));
        }
    }
    schema
}

/// A grammar and how far the output of one sequence has come in it.
#[derive(Clone)]
pub struct Constraint {
    matcher: Matcher,
}

impl fmt::Debug for Constraint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Constraint")
    }
}

impl Constraint {
    /// A constraint of its own for another sequence.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self {
            matcher: self.matcher.deep_clone(),
        }
    }

    /// Forbids what may not come next in a row of logits `[vocabulary]`.
    ///
    /// # Errors
    /// The grammar cannot say.
    pub fn mask(&mut self, logits: &mut [f32]) -> Result<(), ConstraintError> {
        let mask = self.matcher.compute_mask_or_eos();
        let mask = mask.map_err(|error| ConstraintError::Left(error.to_string()))?;
        for (token, logit) in (0_u32..).zip(logits) {
            if token as usize >= mask.len() || !mask.is_allowed(token) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    /// Takes in a picked token; whether the output is complete, so that nothing can follow.
    ///
    /// # Errors
    /// The token was not allowed.
    pub fn advance(&mut self, token: u32) -> Result<bool, ConstraintError> {
        let consumed = self.matcher.consume_token(token);
        consumed.map_err(|error| ConstraintError::Left(error.to_string()))?;
        Ok(self.matcher.is_stopped())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const VOCABULARY: u32 = 288;

    /// How many new lines the schema of `{"a": 1}` allows behind the first brace.
    fn most_new_lines(options: &Value) -> usize {
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/golden/llama/base");
        let compiler = GrammarCompiler::load(&base, VOCABULARY, &[]).unwrap();
        let tokenizer = std::fs::read(base.join("tokenizer.json")).unwrap();
        let tokenizer: Value = serde_json::from_slice(&tokenizer).unwrap();
        let token = |word: &str| u32::try_from(tokenizer["model"]["vocab"][word].as_u64().unwrap()).unwrap();
        let mut schema =
            json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]});
        if !options.is_null() {
            schema["x-guidance"] = options.clone();
        }
        let mut constraint = compiler.compile(Grammar::JsonSchema(schema)).unwrap();
        constraint.advance(token("{")).unwrap();
        // Byte-level tokenizers write a new line so.
        let line = token("\u{10a}");
        let allowed = |constraint: &mut Constraint| {
            let mut logits = vec![0.0; VOCABULARY as usize];
            constraint.mask(&mut logits).unwrap();
            logits[line as usize] == 0.0
        };
        (0..100)
            .take_while(|_| {
                let may = allowed(&mut constraint);
                if may {
                    constraint.advance(line).unwrap();
                }
                may
            })
            .count()
    }

    #[test]
    fn whitespace_in_json_ends_unless_the_schema_says_otherwise() {
        assert_eq!(most_new_lines(&Value::Null), 21);
        assert_eq!(most_new_lines(&json!({"lenient": true})), 21);
        assert_eq!(most_new_lines(&json!({"whitespace_flexible": false})), 0);
        assert_eq!(most_new_lines(&json!({"whitespace_pattern": "\\n+"})), 100);
    }
}
