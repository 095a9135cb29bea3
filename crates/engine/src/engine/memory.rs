//! What the keys and values of sequences may take: a budget of bytes, and what ended sequences leave behind for those
//! that begin alike.
//!
//! A sequence is admitted when its bound, prompt and most tokens together, fits beside those that run; so a running
//! sequence never lacks memory. Leftovers live in what nobody runs on, and go first.

use std::sync::{Arc, Weak};

use tunesmith_model::KvCache;

use crate::adapter::AdapterLease;

/// Tokens by which caches grow.
const BLOCK: usize = 64;
/// A shared beginning is cut to a multiple of this many tokens.
const PREFIX_BLOCK: usize = 16;

/// How many bytes of keys and values there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvBudget {
    /// In all.
    pub bytes: usize,
    /// For one token.
    pub bytes_per_token: usize,
}

impl KvBudget {
    /// Bytes that a sequence of up to `tokens` tokens takes.
    #[must_use]
    pub fn bound(&self, tokens: usize) -> usize {
        let tokens = tokens.max(1).div_ceil(BLOCK).saturating_mul(BLOCK);
        tokens.saturating_mul(self.bytes_per_token)
    }

    /// The longest sequence that fits alone, in tokens.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.bytes / self.bytes_per_token.max(1) / BLOCK * BLOCK
    }
}

/// The weights under which a cache was filled. The pointer, not the name: a name may be loaded anew with others, and a
/// pointer is not used twice while a weak one is held.
#[derive(Debug, Clone)]
struct Weights(Option<Weak<AdapterLease>>);

impl Weights {
    fn of(adapter: Option<&Arc<AdapterLease>>) -> Self {
        Self(adapter.map(Arc::downgrade))
    }

    fn are(&self, adapter: Option<&Arc<AdapterLease>>) -> bool {
        match (&self.0, adapter) {
            (None, None) => true,
            (Some(held), Some(adapter)) => std::ptr::eq(held.as_ptr(), Arc::as_ptr(adapter)),
            _ => false,
        }
    }

    fn are_gone(&self) -> bool {
        self.0.as_ref().is_some_and(|held| held.strong_count() == 0)
    }
}

/// What an ended sequence left.
#[derive(Debug)]
struct Leftover {
    weights: Weights,
    tokens: Vec<u32>,
    cache: KvCache,
}

/// Leftovers, the least recently used first.
#[derive(Debug)]
pub(super) struct PrefixCache {
    budget: KvBudget,
    enabled: bool,
    leftovers: Vec<Leftover>,
}

impl PrefixCache {
    /// `enabled`: false keeps nothing.
    pub(super) fn new(budget: KvBudget, enabled: bool) -> Self {
        Self {
            budget,
            enabled,
            leftovers: Vec::new(),
        }
    }

    /// Bytes of all leftovers.
    pub(super) fn bytes(&self) -> usize {
        let sizes = self.leftovers.iter().map(|left| left.cache.capacity());
        sizes.sum::<usize>() * self.budget.bytes_per_token
    }

    /// Whether `needed` bytes fit beside the `running`, once leftovers made room.
    pub(super) fn make_room(&mut self, needed: usize, running: usize) -> bool {
        if running.saturating_add(needed) > self.budget.bytes {
            return false;
        }
        while !self.leftovers.is_empty() && running + needed + self.bytes() > self.budget.bytes {
            self.leftovers.remove(0);
        }
        true
    }

    /// A cache with the longest known beginning of `prompt` on `adapter`, and room for `capacity` tokens. At least one
    /// token is left to read, whose logits are needed. `is_exact`: without what merged weights computed.
    pub(super) fn begin(
        &mut self,
        prompt: &[u32],
        adapter: Option<&Arc<AdapterLease>>,
        capacity: usize,
        is_exact: bool,
    ) -> Option<KvCache> {
        let most = prompt.len().saturating_sub(1);
        let shared = |left: &Leftover| {
            let pairs = left.tokens.iter().zip(&prompt[..most]);
            pairs.take_while(|(old, new)| old == new).count() / PREFIX_BLOCK * PREFIX_BLOCK
        };
        let candidates = self.leftovers.iter().enumerate();
        let (place, tokens) = candidates
            .filter(|(_, left)| left.weights.are(adapter) && !(is_exact && left.cache.is_merged()))
            .map(|(place, left)| (place, shared(left)))
            .max_by_key(|(_, tokens)| *tokens)
            .filter(|(_, tokens)| *tokens > 0)?;
        let used = self.leftovers.remove(place);
        let copy = used.cache.prefix(tokens, capacity).ok();
        self.leftovers.push(used);
        copy
    }

    /// Keeps what an ended sequence has seen, if it fits beside the `running` bytes of the others.
    pub(super) fn keep(
        &mut self,
        adapter: Option<&Arc<AdapterLease>>,
        seen: &[u32],
        cache: KvCache,
        running: usize,
    ) {
        let length = cache.len().min(seen.len()) / PREFIX_BLOCK * PREFIX_BLOCK;
        if !self.enabled || length == 0 {
            return;
        }
        let tokens = seen[..length].to_vec();
        self.leftovers
            .retain(|left| !(left.weights.are(adapter) && tokens.starts_with(&left.tokens)));
        // Room that was meant for tokens which never came is given back.
        let is_loose = cache.capacity() > length + 2 * BLOCK;
        let needed = if is_loose {
            self.budget.bound(length)
        } else {
            cache.capacity() * self.budget.bytes_per_token
        };
        if !self.make_room(needed, running) {
            return;
        }
        let cache = if is_loose {
            match cache.prefix(length, length) {
                Ok(tight) => tight,
                Err(_) => return,
            }
        } else {
            cache
        };
        self.leftovers.push(Leftover {
            weights: Weights::of(adapter),
            tokens,
            cache,
        });
    }

    /// Drops what was left by adapters that are gone.
    pub(super) fn collect(&mut self) {
        self.leftovers.retain(|left| !left.weights.are_gone());
    }
}
