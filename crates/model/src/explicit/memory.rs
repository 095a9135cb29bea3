//! How much memory a training pass takes, known before the first one.

use crate::causal_lm::CausalLm;
use crate::modules::Projection;

impl CausalLm {
    /// Bytes that one token of a training pass keeps until its backward pass, plus the largest that one block needs
    /// besides, where a job's ranks add up to `ranks` columns per block. Exact for passes without dropout.
    ///
    /// Per block: what came in, queries, keys and values (twice where they have norms), what was attended, the
    /// denominators of its softmax in float32, the stream between the halves, gate and up, what attention and MLP gave
    /// where norms stand behind them, and the narrow products of the adapters.
    #[must_use]
    pub fn training_bytes_per_token(&self, ranks: i64) -> i64 {
        let config = self.config();
        let width = self.precision().compute.elt_size_in_bytes() as i64;
        let (qkv, _) = Projection::Qkv.shape(config);
        let (gate_up, _) = Projection::GateUp.shape(config);
        let hidden = config.hidden_size;
        let attended = config.heads * config.head_dim;
        let norms = if config.sandwich_norms { 2 * hidden } else { 0 };
        let raw_qkv = if config.qk_norm { qkv } else { 0 };
        let kept = 2 * hidden + qkv + raw_qkv + attended + gate_up + norms + ranks;
        let per_block = width * kept + 4 * config.heads;
        // The widest moment of a backward pass: the gradient of the stream, a normed copy, gate and up, and the product.
        let passing = width * (3 * hidden + (qkv + 2 * attended).max(gate_up + gate_up / 2));
        per_block * config.layers as i64 + passing
    }
}
