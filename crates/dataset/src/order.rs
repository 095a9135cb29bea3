//! The order of examples: a pure function of seed, epoch and count, so that a resumed run sees what an unbroken one
//! would have seen.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// How an epoch is ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As in the file.
    File,
    /// Shuffled anew in every epoch.
    Shuffled {
        /// The seed.
        seed: u64,
    },
}

impl Order {
    /// Places 0 to `count` - 1 in the order of `epoch`.
    #[must_use]
    pub fn epoch(self, epoch: u64, count: usize) -> Vec<usize> {
        match self {
            Self::File => (0..count).collect(),
            Self::Shuffled { seed } => permutation(seed, epoch, count),
        }
    }
}

/// A permutation of 0 to `count` - 1: Fisher-Yates on ChaCha8 with the seed as its key and the epoch as its stream.
#[must_use]
pub fn permutation(seed: u64, epoch: u64, count: usize) -> Vec<usize> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(epoch);
    let mut places: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        places.swap(last, below(&mut random, last as u64 + 1) as usize);
    }
    places
}

/// A uniform number below `bound`, by rejection: spelled out, so that no library update can change an order.
fn below(random: &mut ChaCha8Rng, bound: u64) -> u64 {
    let limit = u64::MAX - u64::MAX % bound;
    loop {
        let drawn = random.next_u64();
        if drawn < limit {
            return drawn % bound;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_permutation_and_never_changes() {
        let order = permutation(7, 2, 1000);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
        assert_eq!(order, permutation(7, 2, 1000));
        assert_ne!(order, permutation(7, 3, 1000));
        assert_ne!(order, permutation(8, 2, 1000));
        assert_eq!(permutation(0, 0, 8), PINNED);
        assert!(permutation(0, 0, 0).is_empty());
    }

    /// Checkpoints of released versions rely on it.
    const PINNED: [usize; 8] = [3, 6, 0, 5, 1, 7, 2, 4];

    #[test]
    fn file_order() {
        assert_eq!(Order::File.epoch(3, 4), [0, 1, 2, 3]);
        assert_eq!(Order::Shuffled { seed: 1 }.epoch(3, 9), permutation(1, 3, 9));
    }
}
