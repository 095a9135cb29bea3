//! A sequence that is being generated.

use std::{sync::Arc, time::Instant};

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc;
use tunesmith_dataset::TextTokenizer;
use tunesmith_model::KvCache;

use crate::{
    adapter::AdapterLease,
    generation::{Event, FinishReason, Generation, Job},
    sampler::{Logprobs, NotANumber, Sampler},
    text::SequenceText,
};

/// One job with its memory in the model.
pub(super) struct Sequence {
    pub(super) generation: Generation,
    pub(super) cache: KvCache,
    /// Tokens that the model has not seen yet: what is left of the prompt, or the last picked token.
    unseen: Vec<u32>,
    /// How many of them are in this step.
    share: usize,
    sampler: Sampler,
    text: SequenceText,
    events: mpsc::Sender<Event>,
    began: Instant,
    first_token_at: Option<Instant>,
    _place: OwnedSemaphorePermit,
}

/// What became of a sequence in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It goes on.
    Running,
    /// It is over.
    Finished(FinishReason),
    /// It failed.
    Failed,
}

impl Sequence {
    pub(super) fn new(job: Job, cache: KvCache, tokenizer: &Arc<TextTokenizer>, began: Instant) -> Self {
        let Job {
            mut generation,
            events,
            place,
        } = job;
        let text = SequenceText::new(&generation, tokenizer);
        Self {
            unseen: std::mem::take(&mut generation.prompt),
            share: 0,
            sampler: Sampler::new(generation.sampling.clone()),
            text,
            generation,
            cache,
            events,
            began,
            first_token_at: None,
            _place: place,
        }
    }

    /// Whether nobody waits for the rest.
    pub(super) fn is_abandoned(&self) -> bool {
        self.events.is_closed()
    }

    pub(super) fn adapter(&self) -> Option<&Arc<AdapterLease>> {
        self.generation.adapter.as_ref()
    }

    /// Takes its share of the next step: the one token that was picked last, or as much of the prompt as the `budget`
    /// has left.
    pub(super) fn plan(&mut self, budget: &mut usize) {
        self.share = self.unseen.len();
        if self.text.generated() == 0 {
            self.share = self.share.min(*budget);
            *budget -= self.share;
        }
    }

    /// The tokens of its share and the cache that they go to; `None` where it sits this step out.
    pub(super) fn share(&mut self) -> Option<(&[u32], &mut KvCache)> {
        (self.share > 0).then_some((&self.unseen[..self.share], &mut self.cache))
    }

    /// Takes in the logits that follow its share: `[vocabulary]`.
    pub(super) fn advance(&mut self, logits: &[f32]) -> Outcome {
        self.unseen.drain(..self.share);
        if !self.unseen.is_empty() {
            return Outcome::Running;
        }
        match self.pick(logits) {
            Ok(None) => Outcome::Running,
            Ok(Some(reason)) => {
                let completion_tokens = self.text.generated();
                let _ = self.events.try_send(Event::Finished {
                    reason,
                    completion_tokens,
                });
                Outcome::Finished(reason)
            }
            Err(error) => {
                self.fail(&error);
                Outcome::Failed
            }
        }
    }

    fn pick(&mut self, logits: &[f32]) -> Result<Option<FinishReason>, NotANumber> {
        let token = self.sampler.pick(logits)?;
        self.first_token_at.get_or_insert_with(Instant::now);
        let logprobs = self
            .generation
            .logprobs
            .map(|count| Logprobs::of(logits, token, count));
        let (piece, finished) = self.text.push(token, logprobs.as_ref());
        if !piece.is_empty() {
            // The channel has room for every token; it fails only when nobody listens, which the next step sees.
            let _ = self.events.try_send(Event::Piece(piece));
        }
        self.unseen.push(token);
        Ok(finished)
    }

    /// Tells the reader that it is over.
    pub(super) fn fail(&self, error: &dyn std::error::Error) {
        let _ = self.events.try_send(Event::Failed(error.to_string()));
    }

    /// Seconds and tokens for the metrics.
    pub(super) fn generated(&self) -> usize {
        self.text.generated()
    }

    pub(super) fn prompt_tokens(&self) -> usize {
        // The cache has seen the prompt and all but the last picked token.
        self.cache
            .len()
            .saturating_sub(self.text.generated().saturating_sub(1))
    }

    pub(super) fn began(&self) -> Instant {
        self.began
    }

    pub(super) fn first_token_at(&self) -> Option<Instant> {
        self.first_token_at
    }
}
