//! LibTorch's flash attention for CUDA, over documents laid end to end.

use tch::{Device, Kind, Tensor};

use super::attention::AttentionShape;
use super::checks::KernelError;
use crate::gpu;
use crate::shim;

/// What the backward pass needs besides the output.
#[derive(Debug)]
pub(super) struct FlashState {
    lse: Tensor,
    random_state: Tensor,
    unused: Tensor,
    bounds: Tensor,
    longest: i64,
}

/// Whether flash attention takes tensors of this kind and shape on this device, forward and backward.
pub(super) fn takes(kind: Kind, device: Device, shape: AttentionShape) -> bool {
    let is_half = matches!(kind, Kind::BFloat16 | Kind::Half);
    if !is_half || shape.softcap.is_some() || shape.head_dim % 8 != 0 || shape.head_dim > 256 {
        return false;
    }
    let Ok(capability) = gpu::compute_capability(device) else {
        return false;
    };
    // The backward pass of wide heads does not fit into these GPUs' shared memory.
    let is_small = matches!(capability, (8, 6..=9) | (12, _));
    capability.0 >= 8 && (shape.head_dim <= 192 || !is_small)
}

/// `[tokens, heads, head_dim]` of queries, keys and values, as views of `qkv`.
fn split(qkv: &Tensor, shape: AttentionShape) -> Result<[Tensor; 3], KernelError> {
    let heads = qkv.f_unflatten(1, [shape.heads + 2 * shape.kv_heads, shape.head_dim])?;
    Ok([
        heads.f_narrow(1, 0, shape.heads)?,
        heads.f_narrow(1, shape.heads, shape.kv_heads)?,
        heads.f_narrow(1, shape.heads + shape.kv_heads, shape.kv_heads)?,
    ])
}

/// Ends of documents as flash attention wants them, and the longest document.
fn bounds(ends: &[i64]) -> (Vec<i32>, i64) {
    let bounds: Vec<i32> = std::iter::once(0)
        .chain(ends.iter().map(|&end| i32::try_from(end).unwrap_or(i32::MAX)))
        .collect();
    let longest = bounds.windows(2).map(|pair| i64::from(pair[1] - pair[0])).max();
    (bounds, longest.unwrap_or(0))
}

pub(super) fn attend(
    qkv: &Tensor,
    ends: &[i64],
    shape: AttentionShape,
) -> Result<(Tensor, FlashState), KernelError> {
    let [query, key, value] = split(qkv, shape)?;
    let (bounds, longest) = bounds(ends);
    let bounds = gpu::to_device_async(&Tensor::f_from_slice(&bounds)?, qkv.device())?;
    let before = shape.window.map(|window| window - 1);
    let found = shim::flash_attention([&query, &key, &value], &bounds, longest, shape.scale, before)?;
    let state = FlashState {
        lse: found.lse,
        random_state: found.random_state,
        unused: found.unused,
        bounds,
        longest,
    };
    Ok((found.out.f_flatten(1, 2)?, state))
}

pub(super) fn attend_backward(
    qkv: &Tensor,
    shape: AttentionShape,
    out: &Tensor,
    state: &FlashState,
    gradient: &Tensor,
) -> Result<Tensor, KernelError> {
    let [query, key, value] = split(qkv, shape)?;
    let by_head = |x: &Tensor| x.f_unflatten(1, [shape.heads, shape.head_dim]);
    let (left, right) = match shape.window {
        Some(window) => (Some(window - 1), Some(0)),
        None => (None, None),
    };
    let (query, key, value) = Tensor::f_internal_flash_attention_backward(
        &by_head(gradient)?,
        &query,
        &key,
        &value,
        &by_head(out)?,
        &state.lse,
        &state.bounds,
        &state.bounds,
        state.longest,
        state.longest,
        0.0,
        true,
        &state.random_state,
        &state.unused,
        shape.scale,
        left,
        right,
    )?;
    Ok(Tensor::f_cat(&[query, key, value], 1)?.f_flatten(1, 2)?)
}
