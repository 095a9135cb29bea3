//! Causal attention over documents laid end to end.

use tch::{Device, Kind, Tensor};

use super::checks::{KernelError, Matrix, contiguous, equal};
use super::flash::{self, FlashState};
use super::plain;
use super::table::{RawAttentionShape, table};

/// Heads and rules of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: i64,
    /// Key and value heads; divides `heads`.
    pub kv_heads: i64,
    /// Width of a head.
    pub head_dim: i64,
    /// What `q · k` is multiplied with.
    pub scale: f64,
    /// How many tokens back a query sees, itself included; none is all.
    pub window: Option<i64>,
    /// With c, a scaled score counts as `c · tanh(score / c)`.
    pub softcap: Option<f64>,
}

impl AttentionShape {
    pub(super) fn raw(self) -> RawAttentionShape {
        RawAttentionShape {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_columns: self.head_dim,
            scale: self.scale as f32,
            window: self.window.unwrap_or(0),
            cap: self.softcap.unwrap_or(0.0) as f32,
        }
    }

    fn qkv_columns(self) -> i64 {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    fn check(self, kernel: &'static str, qkv: Matrix, ends: &[i64]) -> Result<(), KernelError> {
        equal(kernel, "columns of qkv", qkv.columns, self.qkv_columns())?;
        equal(
            kernel,
            "heads modulo kv_heads",
            self.heads % self.kv_heads.max(1),
            0,
        )?;
        let rising =
            ends.first().is_some_and(|&first| first > 0) && ends.is_sorted_by(|left, right| left < right);
        equal(kernel, "documents' ends rise", i64::from(rising), 1)?;
        equal(
            kernel,
            "the last document's end",
            ends.last().copied().unwrap_or(0),
            qkv.rows,
        )
    }
}

/// What [`attend`] returns.
#[derive(Debug)]
pub struct Attended {
    /// `[tokens, heads · head_dim]`.
    pub out: Tensor,
    saved: Saved,
}

impl Attended {
    /// Logarithms of the softmax's denominators, float32 `[tokens, heads]`; none where flash attention keeps its own.
    #[must_use]
    pub fn denominators(&self) -> Option<&Tensor> {
        match &self.saved {
            Saved::Denominators(denominators) => Some(denominators),
            Saved::Flash(_) => None,
        }
    }
}

/// What the backward pass needs besides the output.
#[derive(Debug)]
enum Saved {
    /// Logarithms of the softmax's denominators, float32 `[tokens, heads]`.
    Denominators(Tensor),
    Flash(FlashState),
}

/// `softmax(scale · q kᵀ) v` of each document by itself. `ends`: the row behind each document.
///
/// `qkv: [tokens, (heads + 2 kv_heads) · head_dim]` packed, rotated. On CUDA, bfloat16 without a softcap goes to LibTorch's
/// flash attention, everything else to several operations for each document.
///
/// # Errors
/// A tensor is not of this form, the documents do not add up, or there is no memory for the result.
pub fn attend(qkv: &Tensor, ends: &[i64], shape: AttentionShape) -> Result<Attended, KernelError> {
    const NAME: &str = "attend";
    let input = Matrix::packed(NAME, "qkv", qkv)?;
    shape.check(NAME, input, ends)?;
    if input.device != Device::Cpu {
        return attend_elsewhere(qkv, ends, shape);
    }
    let out = Tensor::f_empty(
        [input.rows, shape.heads * shape.head_dim],
        (qkv.f_kind()?, qkv.device()),
    )?;
    let lse = Tensor::f_empty([input.rows, shape.heads], (Kind::Float, qkv.device()))?;
    let raw = shape.raw();
    // SAFETY: qkv, out and lse are live packed tensors with the rows and columns that the shape asks for, and the
    // documents cover exactly the rows.
    unsafe {
        (table().attend)(
            input.element,
            &raw const raw,
            ends.len() as i64,
            ends.as_ptr(),
            input.place,
            out.data_ptr(),
            lse.data_ptr().cast(),
        );
    }
    let saved = Saved::Denominators(lse);
    Ok(Attended { out, saved })
}

fn attend_elsewhere(qkv: &Tensor, ends: &[i64], shape: AttentionShape) -> Result<Attended, KernelError> {
    if flash::takes(qkv.f_kind()?, qkv.device(), shape) {
        let (out, state) = flash::attend(qkv, ends, shape)?;
        let saved = Saved::Flash(state);
        return Ok(Attended { out, saved });
    }
    let (out, lse) = plain::attend(qkv, ends, shape)?;
    let saved = Saved::Denominators(lse);
    Ok(Attended { out, saved })
}

/// The gradient of [`attend`] with respect to `qkv`, of its form.
///
/// The same each time, except where flash attention gave the result: there the order of the sums is not fixed, unless
/// LibTorch is told to be deterministic.
///
/// # Errors
/// As [`attend`].
pub fn attend_backward(
    qkv: &Tensor,
    ends: &[i64],
    shape: AttentionShape,
    attended: &Attended,
    gradient: &Tensor,
) -> Result<Tensor, KernelError> {
    const NAME: &str = "attend_backward";
    let input = Matrix::packed(NAME, "qkv", qkv)?;
    shape.check(NAME, input, ends)?;
    let out = &attended.out;
    let output = Matrix::packed(NAME, "out", out)?;
    let expected = Matrix {
        columns: shape.heads * shape.head_dim,
        ..input
    };
    let output = output.like(NAME, "out", expected)?;
    let slope = Matrix::packed(NAME, "gradient", gradient)?.like(NAME, "gradient", output)?;
    let lse = match &attended.saved {
        Saved::Flash(state) => return flash::attend_backward(qkv, shape, out, state, gradient),
        Saved::Denominators(lse) if input.device != Device::Cpu => {
            return plain::attend_backward(qkv, ends, shape, (out, lse), gradient);
        }
        Saved::Denominators(lse) => {
            let options = (Kind::Float, input.device);
            contiguous(NAME, "lse", lse, options, input.rows * shape.heads)?
        }
    };
    let result = Tensor::f_empty([input.rows, input.columns], (qkv.f_kind()?, qkv.device()))?;
    let raw = shape.raw();
    // SAFETY: as in `attend`; out, gradient and result were checked or made with the form that the kernel takes.
    unsafe {
        (table().attend_backward)(
            input.element,
            &raw const raw,
            ends.len() as i64,
            ends.as_ptr(),
            input.place,
            output.place,
            slope.place,
            lse.cast_const().cast(),
            result.data_ptr(),
        );
    }
    Ok(result)
}
