//! What a process is given to train: a job's specification, and what only a person at the command line may add.

use std::path::PathBuf;

use tch::Kind;
use tunesmith_dataset::order::Order;
use tunesmith_types::hyperparameters::Seed;
use tunesmith_types::trainer::JobSpec;

/// A job.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// As a supervisor gives it too.
    pub spec: JobSpec,
    /// Options of `train` beyond it.
    pub extras: Extras,
}

/// Options of `train` that jobs of a supervisor do not have.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Extras {
    /// Train all weights, and save them in this format.
    pub full: Option<Kind>,
    /// Take the examples in the order of the file.
    pub file_order: bool,
    /// Cut joined text into rows of this many tokens.
    pub pack_text: Option<usize>,
    /// Put examples of similar length into one step.
    pub length_buckets: bool,
}

impl Assignment {
    /// Where its checkpoints go.
    #[must_use]
    pub fn checkpoints(&self) -> PathBuf {
        self.spec
            .checkpoint_dir
            .clone()
            .unwrap_or_else(|| self.spec.out.join("checkpoints"))
    }
}

impl From<JobSpec> for Assignment {
    fn from(spec: JobSpec) -> Self {
        Self {
            spec,
            extras: Extras::default(),
        }
    }
}

impl Extras {
    /// How epochs are ordered.
    #[must_use]
    pub fn order(&self, seed: Seed) -> Order {
        if self.file_order {
            Order::File
        } else {
            Order::Shuffled {
                seed: u64::from(seed.get()),
            }
        }
    }
}
