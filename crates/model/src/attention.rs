//! Causal scaled dot-product attention.

use tch::{Kind, Tensor};

use crate::batch::window_mask;
use crate::error::ModelError;

/// How one block attends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttentionShape {
    /// How many tokens back a token sees, itself included; `None` is all.
    pub(crate) window: Option<i64>,
    /// What scores are multiplied with.
    pub(crate) scale: f64,
    /// Scores become `cap · tanh(score / cap)`.
    pub(crate) softcap: Option<f64>,
}

/// Who may look at whom in one forward pass, and where older keys and values come from.
pub(crate) trait Attend {
    /// `q: [tokens, heads, head_dim]`, `k` and `v: [tokens, kv_heads, head_dim]`, already rotated, to
    /// `[tokens, heads * head_dim]`.
    fn attend(
        &mut self,
        layer: usize,
        shape: AttentionShape,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<Tensor, ModelError>;
}

/// `softmax(scale · q kᵀ) v` where each query sees the keys up to its own; the last query's own key is the last.
///
/// `q: [batch, heads, queries, head_dim]`, `k` and `v: [batch, kv_heads, keys, head_dim]` with `keys >= queries`.
/// A `[queries, keys]` mask is made only where a window is shorter than the keys, or where several queries follow
/// older keys.
pub(crate) fn causal_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    shape: AttentionShape,
) -> Result<Tensor, ModelError> {
    let (q_size, k_size) = (q.size(), k.size());
    let (queries, keys) = (q_size[2], k_size[2]);
    let window = shape.window.filter(|&window| window < keys);
    if let Some(cap) = shape.softcap {
        let mask = window_mask(queries, keys, window, q.device())?;
        return capped_attention(q, k, v, &mask, shape.scale, cap);
    }
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
        Some(shape.scale),
        grouped,
    )?)
}

/// The same with capped scores, which LibTorch's kernels do not know. `mask`: `[queries, keys]`, true where a query may
/// look.
fn capped_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: &Tensor,
    scale: f64,
    cap: f64,
) -> Result<Tensor, ModelError> {
    let group = q.size()[1] / k.size()[1];
    let (k, v) = (
        k.f_repeat_interleave_self_int(group, 1, None)?,
        v.f_repeat_interleave_self_int(group, 1, None)?,
    );
    let scores = q.f_matmul(&k.f_transpose(2, 3)?)?.f_multiply_scalar(scale)?;
    let capped = scores.f_divide_scalar(cap)?.f_tanh()?.f_multiply_scalar(cap)?;
    let seen = capped.f_masked_fill(&mask.f_logical_not()?, f64::NEG_INFINITY)?;
    let shares = seen.f_softmax(-1, Kind::Float)?.f_to_kind(q.f_kind()?)?;
    Ok(shares.f_matmul(&v)?)
}
