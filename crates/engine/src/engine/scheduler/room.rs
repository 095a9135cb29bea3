//! Who runs. A sequence is admitted when its prompt and some tokens of its answer fit; its memory grows as it goes on. When
//! memory runs out the one that came last steps back: it gives up its keys and values, and reads its own tokens again once
//! there is room. They come out the same, so it goes on as if nothing had been.

use std::{sync::Arc, time::Instant};

use tunesmith_model::{KvCache, ModelError};

use super::{Scheduler, Sequence, count_end};
use crate::{
    adapter::AdapterLease,
    generation::{Event, Generation, Job},
};

/// Tokens of its answer that a sequence has room for when it begins, and by which its room grows at least.
const HEADROOM: usize = 64;

/// Who waits for a place.
pub(super) enum Waiting {
    /// It came at that time.
    New(Box<Job>, Instant),
    /// It had begun, and stepped back.
    Paused(Box<Sequence>),
}

impl Waiting {
    pub(super) fn adapter(&self) -> Option<&Arc<AdapterLease>> {
        self.generation().adapter.as_ref()
    }

    fn generation(&self) -> &Generation {
        match self {
            Self::New(job, _) => &job.generation,
            Self::Paused(sequence) => &sequence.generation,
        }
    }

    /// The tokens that it must read.
    fn tokens(&self) -> &[u32] {
        match self {
            Self::New(job, _) => &job.generation.prompt,
            Self::Paused(sequence) => sequence.seen(),
        }
    }

    /// Whether tokens of its prompt are still to be reported.
    fn is_reporting(&self) -> bool {
        match self {
            Self::New(job, _) => job.generation.reports_prompt,
            Self::Paused(sequence) => sequence.is_reporting(),
        }
    }

    /// Tokens that it has room for at first.
    fn room(&self) -> usize {
        let longest = match self {
            Self::New(job, _) => job
                .generation
                .prompt
                .len()
                .saturating_add(job.generation.max_tokens),
            Self::Paused(sequence) => sequence.longest(),
        };
        longest.min(self.tokens().len() + HEADROOM)
    }

    fn fail(self, error: &ModelError) {
        match self {
            Self::New(job, _) => drop(job.events.try_send(Event::Failed(error.to_string()))),
            Self::Paused(sequence) => sequence.fail(error),
        }
    }
}

impl Scheduler {
    /// In the order of arrival: who waits for memory is not overtaken, so everybody's turn comes.
    pub(super) fn admit(&mut self) {
        while self.active.len() < self.max_sequences {
            let Some(first) = self.waiting.front() else {
                break;
            };
            let needed = self.budget.bound(first.room());
            let running = self.running_bytes();
            if !self.prefixes.make_room(needed, running) && !self.active.is_empty() {
                break;
            }
            let Some(first) = self.waiting.pop_front() else {
                break;
            };
            match self.begin(&first) {
                Ok(cache) => self.active.push(match first {
                    Waiting::New(job, began) => Sequence::new(*job, cache, &self.tokenizer, began),
                    Waiting::Paused(sequence) => sequence.resumed(cache),
                }),
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "no memory for a sequence"
                    );
                    first.fail(&error);
                }
            }
        }
        self.active
            .sort_by_key(|sequence| sequence.adapter().map(Arc::as_ptr));
    }

    /// Memory for a sequence, with what is known of its beginning.
    fn begin(&mut self, waiting: &Waiting) -> Result<KvCache, ModelError> {
        let is_exact = waiting.generation().sampling.seed.is_some();
        let (tokens, room) = (waiting.tokens(), waiting.room());
        // What is to be reported must be read.
        let known = (!waiting.is_reporting())
            .then(|| self.prefixes.begin(tokens, waiting.adapter(), room, is_exact))
            .flatten();
        if let Waiting::New(..) = waiting {
            let cached = known.as_ref().map_or(0, KvCache::len);
            self.metrics.prompt_begun(tokens.len(), cached);
        }
        known.map_or_else(|| self.model.new_cache(room), Ok)
    }

    /// Bytes that the running sequences have taken.
    pub(super) fn running_bytes(&self) -> usize {
        let tokens = self.active.iter().map(|sequence| sequence.cache.capacity());
        tokens.sum::<usize>() * self.budget.bytes_per_token
    }

    /// Gives every running sequence the memory that the next step takes, those that came first before the others.
    pub(super) fn make_room(&mut self) {
        let mut order: Vec<Instant> = self.active.iter().map(Sequence::began).collect();
        order.sort();
        for began in order {
            // Those that came with it, or later, may have stepped back meanwhile.
            while let Some(place) = self.lacking(began) {
                if self.grow(place) {
                    continue;
                }
                let last = self.active.iter().enumerate();
                let last = last.max_by_key(|(_, sequence)| sequence.began());
                self.pause(last.expect("invariant: one lacks memory").0);
            }
        }
    }

    /// A sequence that began then and has too little memory for its share.
    fn lacking(&self, began: Instant) -> Option<usize> {
        let lacks = |sequence: &Sequence| sequence.needed() > sequence.cache.capacity();
        self.active
            .iter()
            .position(|sequence| sequence.began() == began && lacks(sequence))
    }

    /// Whether the sequence at `place` has the memory that it needs now, or has ended for want of it.
    fn grow(&mut self, place: usize) -> bool {
        let (running, is_alone) = (self.running_bytes(), self.active.len() == 1);
        let sequence = &mut self.active[place];
        let (needed, capacity) = (sequence.needed(), sequence.cache.capacity());
        let held = capacity * self.budget.bytes_per_token;
        let ample = sequence.longest().min(needed + HEADROOM.max(capacity / 2));
        for room in [ample, needed] {
            // The longest sequence fits alone; that was seen to before it came.
            if !self.prefixes.make_room(self.budget.bound(room), running - held) && !is_alone {
                continue;
            }
            if let Err(error) = sequence.cache.grow(room) {
                sequence.fail(&error);
                count_end(&self.metrics, &self.active.remove(place), "error");
            }
            return true;
        }
        false
    }

    fn pause(&mut self, place: usize) {
        let sequence = self.active.remove(place).paused();
        self.metrics.preempted();
        self.waiting.push_front(Waiting::Paused(Box::new(sequence)));
    }
}
