//! The fast path of an adapter that has all the traffic: its weights folded into a copy of the base model's.
//!
//! After [`STEPS_ALONE`] steps in which every sequence was on one adapter its copy is made, a block between two steps, if
//! it keeps to a budget of bytes. Steps of that adapter alone then cost what the base model's do. The copy rounds
//! otherwise, so a step with a request that has a seed does not use it.

use std::sync::{Arc, Weak};

use tunesmith_model::{Adapter, CausalLm, MergedWeights, ModelError};

use crate::adapter::AdapterLease;

/// Steps that an adapter must have had alone.
const STEPS_ALONE: usize = 64;

/// The adapter that has the traffic, and its copy.
#[derive(Debug)]
pub(super) struct FastPath {
    budget: usize,
    alone: Option<(Weak<AdapterLease>, usize)>,
    merged: Option<(Weak<AdapterLease>, MergedWeights)>,
}

fn is(held: &Weak<AdapterLease>, lease: &Arc<AdapterLease>) -> bool {
    std::ptr::eq(held.as_ptr(), Arc::as_ptr(lease))
}

impl FastPath {
    /// `budget`: most bytes of a copy; none is made of an adapter that needs more.
    pub(super) fn new(budget: usize) -> Self {
        Self {
            budget,
            alone: None,
            merged: None,
        }
    }

    /// Takes note of whose step comes: `sole` is the adapter of all its sequences, if they are on one.
    ///
    /// # Errors
    /// There is no memory for the copy; it is given up, and begun again later.
    pub(super) fn observe(
        &mut self,
        sole: Option<(&Arc<AdapterLease>, &Adapter)>,
        model: &CausalLm,
    ) -> Result<(), ModelError> {
        let Some((lease, adapter)) = sole else {
            self.alone = None;
            return Ok(());
        };
        let steps = match &mut self.alone {
            Some((held, steps)) if is(held, lease) => {
                *steps = steps.saturating_add(1);
                *steps
            }
            _ => {
                self.alone = Some((Arc::downgrade(lease), 1));
                1
            }
        };
        if steps >= STEPS_ALONE {
            self.fold(lease, adapter, model).inspect_err(|_| self.forget())?;
        }
        Ok(())
    }

    fn fold(
        &mut self,
        lease: &Arc<AdapterLease>,
        adapter: &Adapter,
        model: &CausalLm,
    ) -> Result<(), ModelError> {
        if !self.merged.as_ref().is_some_and(|(held, _)| is(held, lease)) {
            let bytes = MergedWeights::bytes(model.config(), adapter, model.precision().weights);
            if bytes > self.budget {
                return Ok(());
            }
            self.merged = Some((Arc::downgrade(lease), MergedWeights::default()));
        }
        match &mut self.merged {
            Some((_, weights)) if !weights.is_complete(model) => weights.fold_next(model, adapter),
            _ => Ok(()),
        }
    }

    /// The copy for a step whose sequences are all on `lease`, once it is whole.
    pub(super) fn weights(&self, lease: &Arc<AdapterLease>, model: &CausalLm) -> Option<&MergedWeights> {
        let (held, weights) = self.merged.as_ref()?;
        (is(held, lease) && weights.is_complete(model)).then_some(weights)
    }

    fn forget(&mut self) {
        self.alone = None;
        self.merged = None;
    }

    /// Drops the copy of an adapter that is gone.
    pub(super) fn collect(&mut self) {
        if self
            .merged
            .as_ref()
            .is_some_and(|(held, _)| held.strong_count() == 0)
        {
            self.forget();
        }
    }
}
