//! The kernels by LibTorch's own operations, on any device: for a GPU without NVRTC, and what the kernels are tested
//! against. Everything is computed in float32, as the kernels do.

mod attention;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use tch::{Kind, Tensor};

use super::checks::KernelError;
use super::cross_entropy::RowScores;
use super::dropout::DropoutMask;
use super::elementwise::Activation;
use super::optimizer::AdamWStep;

pub(super) use attention::{attend, attend_backward};

type Result<T> = std::result::Result<T, KernelError>;

fn wide(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_to_kind(Kind::Float)?)
}

/// Writes `value` over `place`, in the place's element type.
fn overwrite(place: &Tensor, value: &Tensor) -> Result<()> {
    place.shallow_clone().f_copy_(value)?;
    Ok(())
}

/// `x` in its groups of columns, in float32, and the inverse roots of the groups.
fn grouped(x: &Tensor, epsilon: f64, heads: i64) -> Result<(Tensor, Tensor)> {
    let x = wide(x)?.f_reshape([x.size()[0], heads, -1])?;
    let mean = x.f_square()?.f_mean_dim(-1, true, Kind::Float)?;
    Ok((x, mean.f_add_scalar(epsilon)?.f_rsqrt()?))
}

pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f64, heads: i64) -> Result<Tensor> {
    let (groups, root) = grouped(x, epsilon, heads)?;
    let y = groups.f_mul(&root)?.f_mul(weight)?;
    Ok(y.f_reshape(x.size())?.f_to_kind(x.f_kind()?)?)
}

/// `dx = r (g - x r² mean(g x))` with `g = dy w`, added to `addend` where there is one.
pub(super) fn rms_norm_backward(
    (x, weight, epsilon, heads): (&Tensor, &Tensor, f64, i64),
    dy: &Tensor,
    addend: Option<&Tensor>,
    dx: &Tensor,
) -> Result<()> {
    let (groups, root) = grouped(x, epsilon, heads)?;
    let g = wide(dy)?.f_reshape(groups.size())?.f_mul(weight)?;
    let mean = g.f_mul(&groups)?.f_mean_dim(-1, true, Kind::Float)?;
    let share = groups.f_mul(&root.f_square()?)?.f_mul(&mean)?;
    let slope = g.f_sub(&share)?.f_mul(&root)?.f_reshape(x.size())?;
    match addend {
        Some(addend) => overwrite(dx, &wide(addend)?.f_add(&slope)?),
        None => overwrite(dx, &slope),
    }
}

pub(super) fn rotate(
    x: &Tensor,
    (heads, head_dim): (i64, i64),
    (cosine, sine): (&Tensor, &Tensor),
    positions: &Tensor,
    sign: f32,
) -> Result<()> {
    let half = cosine.size()[1];
    let of_rows = |table: &Tensor| table.f_index_select(0, positions)?.f_unsqueeze(1);
    let (cosine, sine) = (of_rows(cosine)?, of_rows(sine)?.f_mul_scalar(f64::from(sign))?);
    let turned = x
        .f_narrow(1, 0, heads * head_dim)?
        .f_unflatten(1, [heads, head_dim])?;
    let (first, second) = (turned.f_narrow(2, 0, half)?, turned.f_narrow(2, half, half)?);
    let (a, b) = (wide(&first)?, wide(&second)?);
    let (left, right) = (
        a.f_mul(&cosine)?.f_sub(&b.f_mul(&sine)?)?,
        b.f_mul(&cosine)?.f_add(&a.f_mul(&sine)?)?,
    );
    overwrite(&first, &left)?;
    overwrite(&second, &right)
}

/// The activation of `x` and its slope.
fn activated(x: &Tensor, activation: Activation) -> Result<(Tensor, Tensor)> {
    let ones = x.f_ones_like()?;
    Ok(match activation {
        Activation::Silu => (x.f_silu()?, x.f_silu_backward(&ones)?),
        Activation::GeluTanh => (x.f_gelu("tanh")?, x.f_gelu_backward(&ones, "tanh")?),
    })
}

fn halves(gate_up: &Tensor) -> Result<(Tensor, Tensor)> {
    let inner = gate_up.size()[1] / 2;
    Ok((gate_up.f_narrow(1, 0, inner)?, gate_up.f_narrow(1, inner, inner)?))
}

pub(super) fn gate(gate_up: &Tensor, activation: Activation) -> Result<Tensor> {
    let (gate, up) = halves(gate_up)?;
    let (value, _) = activated(&wide(&gate)?, activation)?;
    Ok(value.f_mul(&wide(&up)?)?.f_to_kind(gate_up.f_kind()?)?)
}

pub(super) fn gate_backward(gate_up: &Tensor, product: &Tensor, activation: Activation) -> Result<()> {
    let (gate, up) = halves(gate_up)?;
    let (value, slope) = activated(&wide(&gate)?, activation)?;
    let (u, dp) = (wide(&up)?, wide(product)?);
    // In float32 these are the very places that are overwritten: all results first.
    let (dg, du, p) = (dp.f_mul(&u)?.f_mul(&slope)?, dp.f_mul(&value)?, value.f_mul(&u)?);
    overwrite(&gate, &dg)?;
    overwrite(&up, &du)?;
    overwrite(product, &p)
}

pub(super) fn cross_entropy(
    scores: &Tensor,
    targets: &Tensor,
    weights: &Tensor,
    gradient_scale: Option<f64>,
    softcap: Option<f64>,
) -> Result<RowScores> {
    let mut values = wide(scores)?;
    if let Some(cap) = softcap {
        let capped = values.f_div_scalar(cap)?.f_tanh()?.f_mul_scalar(cap)?;
        // Rounded, as the kernels do.
        values = wide(&capped.f_to_kind(scores.f_kind()?)?)?;
    }
    let chosen = targets.f_unsqueeze(1)?;
    let lse = values.f_logsumexp(-1, true)?;
    let own = values.f_gather(1, &chosen, false)?;
    let losses = lse.f_sub(&own)?.f_squeeze_dim(1)?.f_mul(weights)?;
    let hits = values
        .f_argmax(-1, false)?
        .f_eq_tensor(targets)?
        .f_to_kind(Kind::Int64)?;
    if let Some(scale) = gradient_scale {
        let mut slope = values.f_sub(&lse)?.f_exp()?;
        let _ = slope.f_scatter_add_(1, &chosen, &own.f_ones_like()?.f_neg()?)?;
        let mut slope = slope.f_mul(&weights.f_unsqueeze(1)?)?.f_mul_scalar(scale)?;
        if let Some(cap) = softcap {
            let bend = values.f_div_scalar(cap)?.f_square()?.f_neg()?.f_add_scalar(1.0)?;
            slope = slope.f_mul(&bend)?;
        }
        overwrite(scores, &slope)?;
    }
    Ok(RowScores { losses, hits })
}

/// `x >> bits` without the sign.
fn shifted(x: &Tensor, bits: i64) -> Result<Tensor> {
    let kept = (1i64 << (64 - bits)) - 1;
    Ok(x.f_bitwise_right_shift_tensor_scalar(bits)?.f_bitwise_and(kept)?)
}

/// SplitMix64's finaliser; products and sums of int64 wrap.
fn mixed(x: &Tensor) -> Result<Tensor> {
    let x = x.f_add_scalar(0x9e37_79b9_7f4a_7c15_u64.cast_signed())?;
    let x = x.f_bitwise_xor_tensor(&shifted(&x, 30)?)?;
    let x = x.f_mul_scalar(0xbf58_476d_1ce4_e5b9_u64.cast_signed())?;
    let x = x.f_bitwise_xor_tensor(&shifted(&x, 27)?)?;
    let x = x.f_mul_scalar(0x94d0_49bb_1331_11eb_u64.cast_signed())?;
    Ok(x.f_bitwise_xor_tensor(&shifted(&x, 31)?)?)
}

pub(super) fn dropout(x: &Tensor, y: &Tensor, mask: DropoutMask, accumulate: bool) -> Result<()> {
    let places = Tensor::f_arange(x.numel() as i64, (Kind::Int64, x.device()))?;
    let numbers = shifted(&mixed(&places.f_bitwise_xor(mask.stream.cast_signed())?)?, 33)?;
    let kept = numbers.f_ge(mask.threshold())?.f_reshape(x.size())?;
    let value = wide(x)?
        .f_mul_scalar(f64::from(mask.kept() as f32))?
        .f_mul(&kept.f_to_kind(Kind::Float)?)?;
    if accumulate {
        overwrite(y, &wide(y)?.f_add(&value)?)
    } else {
        overwrite(y, &value)
    }
}

pub(super) fn adamw([parameters, gradients, first, second]: [&Tensor; 4], update: AdamWStep) -> Result<()> {
    let gradient = gradients.f_mul_scalar(update.gradient_scale)?;
    let moment =
        |old: &Tensor, new: &Tensor, beta: f64| old.f_mul_scalar(beta)?.f_add(&new.f_mul_scalar(1.0 - beta)?);
    let m = moment(first, &gradient, update.beta1)?;
    let v = moment(second, &gradient.f_square()?, update.beta2)?;
    let (correction1, correction2) = update.corrections();
    let root = v
        .f_sqrt()?
        .f_div_scalar(correction2)?
        .f_add_scalar(update.epsilon)?;
    let step = m.f_div(&root)?.f_mul_scalar(update.learning_rate / correction1)?;
    let kept = parameters.f_mul_scalar(1.0 - update.learning_rate * update.weight_decay)?;
    overwrite(first, &m)?;
    overwrite(second, &v)?;
    overwrite(parameters, &kept.f_sub(&step)?)
}
