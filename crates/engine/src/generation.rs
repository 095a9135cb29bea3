//! What the engine is asked for and what it answers: the words that HTTP and the engine thread share.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::{adapter::AdapterLease, constraint::Constraint, sampler::Sampling};

/// When a sequence ends, besides its limit of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stopping {
    /// Texts at which to stop.
    pub strings: Vec<String>,
    /// Tokens at which to stop, besides the model's own.
    pub tokens: Vec<u32>,
    /// Whether to go on after the model's own end-of-sequence tokens.
    pub ignore_end_of_sequence: bool,
    /// Whether a stop string stays in the text.
    pub keep_stop_string: bool,
}

/// One sequence to generate, checked: it fits the context, and its tokens are in the vocabulary.
#[derive(Debug, Clone)]
pub struct Generation {
    /// Tokens to go on from; at least one.
    pub prompt: Vec<u32>,
    /// Whether the prompt's tokens are reported like generated ones, before those; needs `logprobs`.
    pub reports_prompt: bool,
    /// The adapter, kept alive for as long as the sequence runs; `None` is the base model.
    pub adapter: Option<Arc<AdapterLease>>,
    /// Most tokens to generate; none where only the prompt is reported.
    pub max_tokens: usize,
    /// How tokens are picked.
    pub sampling: Sampling,
    /// When to stop.
    pub stopping: Stopping,
    /// What the text must follow; of this sequence alone.
    pub constraint: Option<Constraint>,
    /// Whether special tokens stay out of the text.
    pub skip_special_tokens: bool,
    /// How many of the likeliest tokens' log-probabilities to report beside the picked one's; `None` reports none.
    pub logprobs: Option<usize>,
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it, or a stop string or token.
    Stop,
    /// Its limit of tokens.
    Length,
    /// The model ended it, and its text has calls of tools. The engine's thread does not know of those; HTTP does.
    ToolCalls,
}

impl FinishReason {
    /// The word of the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
        }
    }
}

/// A token by its text, with its log-probability.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// The token's text alone.
    pub text: String,
    /// Natural logarithm of its probability; none for the first token of a prompt, which nothing precedes.
    pub logprob: Option<f32>,
}

/// A token of the answer and what else was likely there.
#[derive(Debug, Clone, PartialEq)]
pub struct ReportedToken {
    /// The token itself.
    pub picked: TokenLogprob,
    /// The likeliest tokens, likeliest first.
    pub top: Vec<TokenLogprob>,
}

/// New text, and the tokens it is made of where they were asked for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Piece {
    /// Text that will not change any more.
    pub text: String,
    /// Tokens since the last piece; empty unless log-probabilities were asked for.
    pub tokens: Vec<ReportedToken>,
}

impl Piece {
    /// Whether there is nothing to show.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty() && self.tokens.is_empty()
    }
}

/// What the engine sends while it generates. The last one is `Finished` or `Failed`.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// New text.
    Piece(Piece),
    /// The end.
    Finished {
        /// Why.
        reason: FinishReason,
        /// Generated tokens, the one that ended the sequence included.
        completion_tokens: usize,
        /// Tokens of the prompt that were not read anew.
        cached_tokens: usize,
    },
    /// The engine could not go on; the message is for the log.
    Failed(String),
}

/// A generation on its way to the engine.
#[derive(Debug)]
pub struct Job {
    /// What to generate.
    pub generation: Generation,
    /// Where the events go. Its receiver gone, nobody wants the rest.
    pub events: mpsc::Sender<Event>,
    /// The place in the queue, free again when the job ends.
    pub place: OwnedSemaphorePermit,
}
