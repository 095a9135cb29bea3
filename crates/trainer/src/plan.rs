//! Which examples each optimizer step takes: a pure function of the step, so that a resumed run goes on where it was.
//!
//! Work that grows with the number of examples is done once per epoch, never per step.

use tunesmith_dataset::order::{Order, permutation};
use tunesmith_types::hyperparameters::Batch;

/// Steps whose examples are sorted by length together, with `--length-buckets`.
const BUCKET_STEPS: usize = 32;

/// The plan of a run.
#[derive(Debug)]
pub struct Plan {
    order: Order,
    seed: u64,
    length_buckets: bool,
    batch: Batch,
    lengths: Vec<u32>,
    /// First step of each epoch that was looked at, and of the one behind them.
    starts: Vec<u64>,
    present: Option<Epoch>,
}

/// The examples of one epoch, step by step.
#[derive(Debug)]
struct Epoch {
    number: u64,
    places: Vec<usize>,
    /// For each step, where its examples end in `places`.
    ends: Vec<usize>,
}

/// Where in the data a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    epoch: u64,
    step: usize,
    steps: usize,
}

impl Plan {
    /// `lengths`: tokens of each training example; there must be some.
    #[must_use]
    pub fn new(order: Order, seed: u64, length_buckets: bool, batch: Batch, lengths: Vec<u32>) -> Self {
        Self {
            order,
            seed,
            length_buckets,
            batch,
            lengths,
            starts: vec![0],
            present: None,
        }
    }

    /// Tokens of the longest example.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.lengths.iter().max().map_or(0, |length| *length as usize)
    }

    /// Optimizer steps of `epochs` passes over the data. The last step of a pass may be smaller than the others.
    pub fn steps_of(&mut self, epochs: u32) -> u64 {
        while self.starts.len() <= epochs as usize {
            self.look_further();
        }
        self.starts[epochs as usize]
    }

    /// The examples of step `index`, from 0.
    pub fn step(&mut self, index: u64) -> &[usize] {
        let position = self.position(index);
        if self.present.as_ref().map(|epoch| epoch.number) != Some(position.epoch) {
            self.present = Some(self.epoch(position.epoch));
        }
        self.present
            .as_ref()
            .map_or(&[], |epoch| epoch.step(position.step))
    }

    /// Passes over the data done after `steps` steps, with a fraction.
    pub fn epochs_done(&mut self, steps: u64) -> f64 {
        let position = self.position(steps);
        position.epoch as f64 + position.step as f64 / position.steps as f64
    }

    /// Whether the first `steps` steps end with an epoch.
    pub fn is_epoch_end(&mut self, steps: u64) -> bool {
        self.position(steps).step == 0
    }

    fn position(&mut self, index: u64) -> Position {
        while self.starts.last().is_none_or(|start| *start <= index) {
            self.look_further();
        }
        let epoch = self.starts.partition_point(|start| *start <= index) - 1;
        Position {
            epoch: epoch as u64,
            step: (index - self.starts[epoch]) as usize,
            steps: (self.starts[epoch + 1] - self.starts[epoch]) as usize,
        }
    }

    /// Counts the steps of the next epoch.
    fn look_further(&mut self) {
        let number = self.starts.len() as u64 - 1;
        let steps = match self.batch {
            Batch::BatchSize(size) => self.lengths.len().div_ceil(size.get() as usize),
            Batch::BatchTokens(_) => {
                let epoch = self.epoch(number);
                let steps = epoch.ends.len();
                self.present = Some(epoch);
                steps
            }
        };
        self.starts
            .push(self.starts[number as usize] + steps.max(1) as u64);
    }

    fn epoch(&self, number: u64) -> Epoch {
        let mut places = self.order.epoch(number, self.lengths.len());
        if !self.length_buckets {
            let ends = self.cut(&places, 1);
            return Epoch { number, places, ends };
        }
        let mut start = 0;
        for end in self.cut(&places, BUCKET_STEPS) {
            places[start..end].sort_by_key(|place| self.lengths[*place]);
            start = end;
        }
        let sorted = Epoch {
            ends: self.cut(&places, 1),
            number,
            places,
        };
        let mut shuffled = Epoch {
            number,
            places: Vec::with_capacity(sorted.places.len()),
            ends: Vec::with_capacity(sorted.ends.len()),
        };
        for step in permutation(!self.seed, number, sorted.ends.len()) {
            shuffled.places.extend_from_slice(sorted.step(step));
            shuffled.ends.push(shuffled.places.len());
        }
        shuffled
    }

    /// Ends of runs of `places`, each of as many examples as `steps` steps may have.
    fn cut(&self, places: &[usize], steps: usize) -> Vec<usize> {
        match self.batch {
            Batch::BatchSize(size) => {
                let size = size.get() as usize * steps;
                (1..=places.len().div_ceil(size))
                    .map(|run| (run * size).min(places.len()))
                    .collect()
            }
            Batch::BatchTokens(most) => {
                let most = u64::from(most.get()) * steps as u64;
                let (mut ends, mut tokens) = (Vec::new(), 0);
                for (index, place) in places.iter().enumerate() {
                    let length = u64::from(self.lengths[*place]);
                    if index > 0 && tokens + length > most {
                        ends.push(index);
                        tokens = 0;
                    }
                    tokens += length;
                }
                ends.push(places.len());
                ends
            }
        }
    }
}

impl Epoch {
    fn step(&self, step: usize) -> &[usize] {
        let start = if step == 0 { 0 } else { self.ends[step - 1] };
        &self.places[start..self.ends[step]]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tunesmith_types::hyperparameters::{BatchSize, BatchTokens};

    fn lengths() -> Vec<u32> {
        (0..103).map(|place| place * 7 % 31 + 2).collect()
    }

    fn plans() -> impl Iterator<Item = Plan> {
        let batches = [
            Batch::BatchSize(BatchSize::new(10).unwrap()),
            Batch::BatchTokens(BatchTokens::new(100).unwrap()),
        ];
        batches.into_iter().flat_map(|batch| {
            [false, true].map(|length_buckets| {
                Plan::new(Order::Shuffled { seed: 5 }, 5, length_buckets, batch, lengths())
            })
        })
    }

    #[test]
    fn an_epoch_takes_every_example_once() {
        for mut plan in plans() {
            for epoch in 0..3 {
                let steps = plan.steps_of(epoch)..plan.steps_of(epoch + 1);
                let mut seen: Vec<usize> = steps.flat_map(|step| plan.step(step).to_vec()).collect();
                seen.sort_unstable();
                assert_eq!(seen, (0..103).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_step_keeps_to_its_batch() {
        for mut plan in plans() {
            for step in 0..plan.steps_of(2) {
                let members = plan.step(step).to_vec();
                let tokens: u32 = members.iter().map(|place| lengths()[*place]).sum();
                match plan.batch {
                    Batch::BatchSize(size) => assert!(members.len() <= size.get() as usize),
                    Batch::BatchTokens(most) => assert!(tokens <= most.get() && !members.is_empty()),
                }
            }
        }
        let mut long = Plan::new(
            Order::File,
            0,
            false,
            Batch::BatchTokens(BatchTokens::new(64).unwrap()),
            vec![10, 500, 10, 50, 4],
        );
        assert_eq!(long.steps_of(1), 3);
        assert_eq!(long.step(0), [0]);
        assert_eq!(long.step(1), [1], "a longer example is a step of its own");
        assert_eq!(long.step(2), [2, 3, 4]);
    }

    #[test]
    fn a_step_does_not_depend_on_the_steps_before() {
        for (mut plan, mut other) in plans().zip(plans()) {
            let wanted = (0..=37).map(|step| plan.step(step).to_vec()).last();
            assert_eq!(wanted.as_deref(), Some(other.step(37)));
        }
    }

    #[test]
    fn epochs_are_counted() {
        for mut plan in plans() {
            let end = plan.steps_of(1);
            assert!(plan.is_epoch_end(end) && !plan.is_epoch_end(end - 1));
            assert!((plan.epochs_done(end) - 1.0).abs() < 1e-12);
            assert!(plan.epochs_done(end - 1) < 1.0);
        }
    }
}
