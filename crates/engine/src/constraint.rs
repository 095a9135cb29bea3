//! Output that follows a JSON schema, a regular expression or a grammar: llguidance says after every token which may
//! come next.

use std::{fmt, path::Path, sync::Arc};

use llguidance::{
    Matcher, ParserFactory,
    api::TopLevelGrammar,
    token_bytes_from_tokenizer_json,
    toktrie::{ApproximateTokEnv, INVALID_TOKEN, TokEnv, TokRxInfo, TokTrie},
};
use serde_json::Value;

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
            Grammar::JsonSchema(schema) => TopLevelGrammar::from_json_schema(schema),
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
