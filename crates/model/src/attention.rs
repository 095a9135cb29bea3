//! Causal scaled dot-product attention.

use tch::Tensor;

use crate::batch::window_mask;
use crate::error::ModelError;

/// Who may look at whom in one forward pass, and where older keys and values come from.
pub(crate) trait Attend {
    /// `q: [tokens, heads, head_dim]`, `k` and `v: [tokens, kv_heads, head_dim]`, already rotated, to
    /// `[tokens, heads * head_dim]`. `window` is how many tokens back a token sees, itself included.
    fn attend(
        &mut self,
        layer: usize,
        window: Option<i64>,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<Tensor, ModelError>;
}

/// `softmax(q kᵀ / sqrt(head_dim)) v` where each query sees the keys up to its own; the last query's own key is the last.
///
/// `q: [batch, heads, queries, head_dim]`, `k` and `v: [batch, kv_heads, keys, head_dim]` with `keys >= queries`.
/// A `[queries, keys]` mask is made only where a window is shorter than the keys, or where several queries follow
/// older keys.
pub(crate) fn causal_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    window: Option<i64>,
) -> Result<Tensor, ModelError> {
    let (q_size, k_size) = (q.size(), k.size());
    let (queries, keys) = (q_size[2], k_size[2]);
    let window = window.filter(|&window| window < keys);
    let square = queries == keys;
    let mask = match window {
        None if square || queries == 1 => None,
        _ => Some(window_mask(queries, keys, window, q.device())?),
    };
    let is_causal = mask.is_none() && square && queries > 1;
    let grouped = q_size[1] != k_size[1];
    Ok(Tensor::f_scaled_dot_product_attention(
        q,
        k,
        v,
        mask.as_ref(),
        0.0,
        is_causal,
        None,
        grouped,
    )?)
}
