//! A sequence that is being generated.

use std::{sync::Arc, time::Instant};

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc;
use tunesmith_dataset::TextTokenizer;
use tunesmith_model::KvCache;

use crate::{
    adapter::AdapterLease,
    constraint::ConstraintError,
    generation::{Event, FinishReason, Generation, Job},
    logits::LogitAdjuster,
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
    /// The prompt and all picked tokens.
    seen: Vec<u32>,
    /// Tokens of the prompt that its cache began with.
    cached: usize,
    /// Tokens of the prompt that are to be reported, and those that have been.
    to_report: usize,
    reported: usize,
    adjuster: LogitAdjuster,
    sampler: Sampler,
    text: SequenceText,
    events: mpsc::Sender<Event>,
    began: Instant,
    first_token_at: Option<Instant>,
    _place: OwnedSemaphorePermit,
}

/// Why no token can be picked.
#[derive(Debug, thiserror::Error)]
enum PickError {
    #[error(transparent)]
    NotANumber(#[from] NotANumber),
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
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
        let rules = generation.sampling.rules.clone();
        let seen = std::mem::take(&mut generation.prompt);
        let cached = cache.len();
        let to_report = if generation.reports_prompt { seen.len() } else { 0 };
        Self {
            adjuster: LogitAdjuster::new(rules, &seen, text.end_tokens()),
            unseen: seen[cached..].to_vec(),
            seen,
            cached,
            to_report,
            reported: 0,
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

    /// Whether its tokens must come out the same again.
    pub(super) fn has_seed(&self) -> bool {
        self.generation.sampling.seed.is_some()
    }

    /// Takes its share of the next step: the one token that was picked last, or as much of the prompt as the budgets have
    /// left: `budget` of tokens, and `scored` of those behind each of which scores are wanted.
    pub(super) fn plan(&mut self, budget: &mut usize, scored: &mut usize) {
        self.share = self.unseen.len();
        // More than one are a prompt, or what a sequence reads again.
        if self.share > 1 || self.text.generated() == 0 {
            self.share = self.share.min(*budget);
            if self.is_reporting() {
                self.share = self.share.min(*scored);
                *scored -= self.share;
            }
            *budget -= self.share;
        }
    }

    /// The tokens of its share and the cache that they go to; `None` where it sits this step out.
    pub(super) fn share(&mut self) -> Option<(&[u32], &mut KvCache)> {
        (self.share > 0).then_some((&self.unseen[..self.share], &mut self.cache))
    }

    /// Whether the scores behind every token of its share are wanted, lest tokens of the prompt stay unreported.
    pub(super) fn is_reporting(&self) -> bool {
        self.reported < self.to_report
    }

    /// The prompt and all picked tokens.
    pub(super) fn seen(&self) -> &[u32] {
        &self.seen
    }

    /// Tokens at its end, at most.
    pub(super) fn longest(&self) -> usize {
        let prompt = self.seen.len() - self.text.generated();
        prompt.saturating_add(self.generation.max_tokens)
    }

    /// Tokens in its cache after the next step.
    pub(super) fn needed(&self) -> usize {
        self.cache.len() + self.share
    }

    /// The same without keys and values: it must read all of its tokens again.
    pub(super) fn paused(mut self) -> Self {
        self.cache.clear();
        self.share = 0;
        self
    }

    /// Goes on with `cache`, which knows the beginning.
    pub(super) fn resumed(mut self, cache: KvCache) -> Self {
        self.unseen = self.seen[cache.len()..].to_vec();
        self.cache = cache;
        self
    }

    /// Rows of logits that [`Self::advance`] takes in.
    pub(super) fn rows(&self) -> usize {
        match self.share {
            0 => 0,
            share if self.is_reporting() => share,
            _ => 1,
        }
    }

    /// Takes in the logits that follow its share, of its last token or of each: `[rows, vocabulary]`.
    pub(super) fn advance(&mut self, rows: &[Vec<f32>]) -> Outcome {
        if let Err(error) = self.report(rows) {
            self.fail(&error);
            return Outcome::Failed;
        }
        self.unseen.drain(..self.share);
        if !self.unseen.is_empty() {
            return Outcome::Running;
        }
        if self.generation.max_tokens == 0 {
            let reported = self.text.reported();
            if !reported.is_empty() {
                let _ = self.events.try_send(Event::Piece(reported));
            }
            return self.finished(FinishReason::Length);
        }
        let logits = rows.last().expect("invariant: a share has a row of logits");
        match self.pick(logits) {
            Ok(None) => Outcome::Running,
            Ok(Some(reason)) => self.finished(reason),
            Err(error) => {
                self.fail(&error);
                Outcome::Failed
            }
        }
    }

    fn finished(&self, reason: FinishReason) -> Outcome {
        let _ = self.events.try_send(Event::Finished {
            reason,
            completion_tokens: self.text.generated(),
            cached_tokens: self.cached,
        });
        Outcome::Finished(reason)
    }

    /// Reports the tokens of the prompt that its share tells about: `rows` follow one token each. They go out with the
    /// first generated text, or at the end where none is asked for.
    fn report(&mut self, rows: &[Vec<f32>]) -> Result<(), NotANumber> {
        let Some(count) = self.generation.logprobs.filter(|_| self.is_reporting()) else {
            return Ok(());
        };
        if self.reported == 0 {
            self.text.report(self.seen[0], None);
            self.reported = 1;
        }
        let first = self.cache.len() - self.share + 1;
        for (place, logits) in (first..self.to_report).zip(rows) {
            // A sequence that stepped back reads again what it has reported.
            if place == self.reported {
                let token = self.seen[place];
                self.text
                    .report(token, Some(&Logprobs::of(logits, token, count)?));
                self.reported += 1;
            }
        }
        Ok(())
    }

    fn pick(&mut self, logits: &[f32]) -> Result<Option<FinishReason>, PickError> {
        let token = self.choose(logits)?;
        self.adjuster.count(token);
        self.seen.push(token);
        self.first_token_at.get_or_insert_with(Instant::now);
        let logprobs = self
            .generation
            .logprobs
            .map(|count| Logprobs::of(logits, token, count))
            .transpose()?;
        let (mut piece, mut finished) = self.text.push(token, logprobs.as_ref());
        if finished.is_none_or(|reason| reason == FinishReason::Length) && self.completes(token)? {
            if finished.is_none() {
                let rest = self.text.finish();
                piece.text.push_str(&rest.text);
                piece.tokens.extend(rest.tokens);
            }
            finished = Some(FinishReason::Stop);
        }
        if !piece.is_empty() {
            // The channel has room for every token; it fails only when nobody listens, which the next step sees.
            let _ = self.events.try_send(Event::Piece(piece));
        }
        self.unseen.push(token);
        Ok(finished)
    }

    fn choose(&mut self, logits: &[f32]) -> Result<u32, PickError> {
        if self.adjuster.is_idle() && self.generation.constraint.is_none() {
            return Ok(self.sampler.pick(logits)?);
        }
        let mut logits = logits.to_vec();
        self.adjuster.apply(&mut logits);
        if let Some(constraint) = &mut self.generation.constraint {
            constraint.mask(&mut logits)?;
        }
        Ok(self.sampler.pick(&logits)?)
    }

    /// Whether `token` completes the grammar, if there is one.
    fn completes(&mut self, token: u32) -> Result<bool, PickError> {
        match &mut self.generation.constraint {
            None => Ok(false),
            Some(constraint) => Ok(constraint.advance(token)?),
        }
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

    /// Its adapter, what it has seen, and the memory of that.
    pub(super) fn into_memory(self) -> (Option<Arc<AdapterLease>>, Vec<u32>, KvCache) {
        (self.generation.adapter, self.seen, self.cache)
    }

    pub(super) fn began(&self) -> Instant {
        self.began
    }

    pub(super) fn first_token_at(&self) -> Option<Instant> {
        self.first_token_at
    }
}
