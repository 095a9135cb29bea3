//! Which examples each optimizer step takes: a pure function of the step, so that a resumed run goes on where it was.

use tunesmith_dataset::order::{Order, permutation};

/// Steps whose examples are sorted by length together, with `--length-buckets`.
const BUCKET_STEPS: usize = 32;

/// The plan of a run.
#[derive(Debug)]
pub struct Plan {
    order: Order,
    seed: u64,
    length_buckets: bool,
    batch_size: usize,
    lengths: Vec<usize>,
    /// The epoch that `batches` belongs to.
    epoch: Option<u64>,
    batches: Vec<Vec<usize>>,
}

impl Plan {
    /// `lengths`: tokens of each training example.
    #[must_use]
    pub fn new(
        order: Order,
        seed: u64,
        length_buckets: bool,
        batch_size: usize,
        lengths: Vec<usize>,
    ) -> Self {
        Self {
            order,
            seed,
            length_buckets,
            batch_size: batch_size.max(1),
            lengths,
            epoch: None,
            batches: Vec::new(),
        }
    }

    /// Optimizer steps of one pass over the data; the last one may be smaller.
    #[must_use]
    pub fn steps_per_epoch(&self) -> u64 {
        self.lengths.len().div_ceil(self.batch_size) as u64
    }

    /// The examples of step `index`, from 0.
    pub fn step(&mut self, index: u64) -> &[usize] {
        let epoch = index / self.steps_per_epoch();
        if self.epoch != Some(epoch) {
            self.batches = self.batches_of(epoch);
            self.epoch = Some(epoch);
        }
        &self.batches[(index % self.steps_per_epoch()) as usize]
    }

    fn batches_of(&self, epoch: u64) -> Vec<Vec<usize>> {
        let mut order = self.order.epoch(epoch, self.lengths.len());
        if !self.length_buckets {
            return order.chunks(self.batch_size).map(<[usize]>::to_vec).collect();
        }
        for window in order.chunks_mut(self.batch_size * BUCKET_STEPS) {
            window.sort_by_key(|place| self.lengths[*place]);
        }
        let batches: Vec<&[usize]> = order.chunks(self.batch_size).collect();
        permutation(!self.seed, epoch, batches.len())
            .into_iter()
            .map(|batch| batches[batch].to_vec())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(length_buckets: bool) -> Plan {
        let lengths = (0..103).map(|place| place * 7 % 31 + 2).collect();
        Plan::new(Order::Shuffled { seed: 5 }, 5, length_buckets, 10, lengths)
    }

    #[test]
    fn an_epoch_takes_every_example_once() {
        for length_buckets in [false, true] {
            let mut plan = plan(length_buckets);
            assert_eq!(plan.steps_per_epoch(), 11);
            for epoch in 0..2 {
                let mut seen: Vec<usize> = (0..11)
                    .flat_map(|step| plan.step(epoch * 11 + step).to_vec())
                    .collect();
                seen.sort_unstable();
                assert_eq!(seen, (0..103).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_step_does_not_depend_on_the_steps_before() {
        for length_buckets in [false, true] {
            let wanted = {
                let mut plan = plan(length_buckets);
                (0..=17).map(|step| plan.step(step).to_vec()).last()
            };
            assert_eq!(wanted.as_deref(), Some(plan(length_buckets).step(17)));
        }
    }
}
