//! From a sequence's tokens to its text: decoding, stop strings, end tokens and the limit, in that order.

use std::sync::Arc;

use tunesmith_dataset::TextTokenizer;

use crate::{
    detokenizer::{Decode, Detokenizer},
    generation::{FinishReason, Generation, Piece, ReportedToken, TokenLogprob},
    sampler::Logprobs,
    stop::{Released, StopStrings},
};

/// The model's tokenizer as the detokenizer uses it.
#[derive(Debug, Clone)]
pub struct TokenText {
    tokenizer: Arc<TextTokenizer>,
    skip_special: bool,
}

impl Decode for TokenText {
    fn decode(&self, tokens: &[u32]) -> String {
        // Only ids that the tokenizer does not know fail: rows that pad the embedding. They have no text.
        self.tokenizer
            .decode(tokens, self.skip_special)
            .unwrap_or_default()
    }
}

/// The text of one running sequence.
#[derive(Debug)]
pub struct SequenceText {
    tokenizer: TokenText,
    detokenizer: Detokenizer,
    stops: StopStrings,
    end_tokens: Vec<u32>,
    limit: usize,
    generated: usize,
    /// Tokens that have not been sent: of the prompt, and those whose text is still held back.
    tokens: Vec<ReportedToken>,
}

impl SequenceText {
    /// The text that follows the prompt of `generation`.
    #[must_use]
    pub fn new(generation: &Generation, tokenizer: &Arc<TextTokenizer>) -> Self {
        let stopping = &generation.stopping;
        let mut end_tokens = stopping.tokens.clone();
        if !stopping.ignore_end_of_sequence {
            end_tokens.extend(&tokenizer.special().eos_ids);
        }
        Self {
            tokenizer: TokenText {
                tokenizer: Arc::clone(tokenizer),
                skip_special: generation.skip_special_tokens,
            },
            detokenizer: Detokenizer::after(&generation.prompt),
            stops: StopStrings::new(stopping.strings.clone(), stopping.keep_stop_string),
            end_tokens,
            limit: generation.max_tokens,
            generated: 0,
            tokens: Vec::new(),
        }
    }

    /// Tokens that end it.
    #[must_use]
    pub fn end_tokens(&self) -> &[u32] {
        &self.end_tokens
    }

    /// Ends it after the last token, for a reason outside of the text.
    pub fn finish(&mut self) -> Piece {
        self.end(FinishReason::Stop).0
    }

    /// Tokens so far.
    #[must_use]
    pub fn generated(&self) -> usize {
        self.generated
    }

    /// Adds a token: what may be shown now, and why the sequence ended if it did.
    pub fn push(&mut self, token: u32, logprobs: Option<&Logprobs>) -> (Piece, Option<FinishReason>) {
        self.generated += 1;
        if let Some(logprobs) = logprobs {
            self.tokens.push(self.name_tokens(token, Some(logprobs)));
        }
        if self.end_tokens.contains(&token) {
            return self.end(FinishReason::Stop);
        }
        let new = self.detokenizer.push(token, &self.tokenizer);
        let text = match self.stops.push(&new) {
            Released::Stopped(text) => return (self.piece(text), Some(FinishReason::Stop)),
            Released::Text(text) => text,
        };
        if self.generated >= self.limit {
            let (rest, reason) = self.end(FinishReason::Length);
            let piece = Piece {
                text: text + &rest.text,
                tokens: rest.tokens,
            };
            return (piece, reason);
        }
        if text.is_empty() {
            return (Piece::default(), None);
        }
        (self.piece(text), None)
    }

    /// Everything that was held back. Its last letter may complete a stop string.
    fn end(&mut self, reason: FinishReason) -> (Piece, Option<FinishReason>) {
        let rest = self.detokenizer.finish(&self.tokenizer);
        match self.stops.push(&rest) {
            Released::Stopped(text) => (self.piece(text), Some(FinishReason::Stop)),
            Released::Text(text) => {
                let text = text + &self.stops.finish();
                (self.piece(text), Some(reason))
            }
        }
    }

    fn piece(&mut self, text: String) -> Piece {
        Piece {
            text,
            tokens: std::mem::take(&mut self.tokens),
        }
    }

    /// Reports a token of the prompt, with what the model expected there.
    pub fn report(&mut self, token: u32, logprobs: Option<&Logprobs>) {
        self.tokens.push(self.name_tokens(token, logprobs));
    }

    /// What has been reported of the prompt.
    pub fn reported(&mut self) -> Piece {
        self.piece(String::new())
    }

    fn name_tokens(&self, token: u32, logprobs: Option<&Logprobs>) -> ReportedToken {
        // Special tokens are named in full: a log-probability without a name says nothing.
        let named = TokenText {
            tokenizer: Arc::clone(&self.tokenizer.tokenizer),
            skip_special: false,
        };
        let name = |token: u32, logprob: Option<f32>| TokenLogprob {
            text: named.decode(&[token]),
            logprob,
        };
        ReportedToken {
            picked: name(token, logprobs.map(|logprobs| logprobs.picked)),
            top: logprobs
                .iter()
                .flat_map(|logprobs| &logprobs.top)
                .map(|(token, logprob)| name(*token, Some(*logprob)))
                .collect(),
        }
    }
}
