//! How much memory a training pass takes, known before the first one.

use super::grouped;
use crate::adapter::Adapter;
use crate::causal_lm::CausalLm;
use crate::modules::{Projection, Site};

/// What a training pass keeps until its backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// All that the backward pass needs, once.
    All,
    /// What came into each block; the rest is computed again, block by block. About a third more work.
    Inputs,
}

impl CausalLm {
    /// Bytes that one token of a training pass keeps until its backward pass, plus the largest that one block needs
    /// besides, where a job's ranks add up to `ranks` columns per block ([`Adapter::ranks_per_block`]). What is kept is
    /// exact where every row is learnt, nothing drops out and every block is adapted; else, and where the products of
    /// all jobs are made at once, which pads their ranks, it is an upper bound.
    #[must_use]
    pub fn training_bytes_per_token(&self, ranks: i64, keep: Keep) -> i64 {
        let config = self.config();
        let width = self.precision().compute.elt_size_in_bytes() as i64;
        let (qkv, _) = Projection::Qkv.shape(config);
        let (gate_up, _) = Projection::GateUp.shape(config);
        let attended = config.heads * config.head_dim;
        // The widest moment of a backward pass: the gradient of the stream, a normed copy, gate and up, and the product.
        let passing = width * (3 * config.hidden_size + (qkv + 2 * attended).max(gate_up + gate_up / 2));
        let ranks = if self.groups_jobs() {
            grouped::most_ranks(ranks, config.modules.len() as i64)
        } else {
            ranks
        };
        self.kept_bytes_per_token(ranks, keep) + passing
    }

    /// Where only inputs are kept, with what the one block that is gone back through has made again.
    ///
    /// Per block: what came in, queries, keys and values (twice where they have norms), what was attended, the
    /// denominators of its softmax in float32, the stream between the halves, gate and up, what attention and MLP gave
    /// where norms stand behind them, and the narrow products of the adapters. In the last one, besides, the attended
    /// rows that are learnt.
    pub(super) fn kept_bytes_per_token(&self, ranks: i64, keep: Keep) -> i64 {
        let config = self.config();
        let width = self.precision().compute.elt_size_in_bytes() as i64;
        let (qkv, _) = Projection::Qkv.shape(config);
        let (gate_up, _) = Projection::GateUp.shape(config);
        let hidden = config.hidden_size;
        let attended = config.heads * config.head_dim;
        let norms = if config.sandwich_norms { 2 * hidden } else { 0 };
        let raw_qkv = if config.qk_norm { qkv } else { 0 };
        let input = width * hidden;
        let inside = width * (hidden + qkv + raw_qkv + attended + gate_up + norms + ranks) + 4 * config.heads;
        let blocks = config.layers as i64;
        let whole = match keep {
            Keep::All => blocks,
            Keep::Inputs => 1,
        };
        blocks * input + whole * inside + width * attended
    }
}

impl Adapter {
    /// Ranks of all adapted modules of a block, together; of the block that has most.
    #[must_use]
    pub fn ranks_per_block(&self) -> i64 {
        let mut blocks = std::collections::BTreeMap::new();
        for pair in self.pairs() {
            if let Site::Block { layer, .. } = pair.site {
                *blocks.entry(layer).or_insert(0) += pair.rank;
            }
        }
        blocks.into_values().max().unwrap_or(0)
    }
}
