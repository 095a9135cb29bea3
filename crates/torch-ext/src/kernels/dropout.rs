//! Dropout by a counter.

use tch::Tensor;

use super::checks::{Engine, KernelError, Matrix};
use super::plain;
use super::table::table;
use crate::gpu::kernels;

/// A mask over the elements of a matrix: element `i` (row-major) is dropped where the upper 31 bits of the mixed
/// `i ^ stream` lie below `probability · 2³¹`, and divided by `1 - probability` elsewhere.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DropoutMask {
    /// Key of the mask.
    pub stream: u64,
    /// Share of dropped elements.
    pub probability: f64,
}

impl DropoutMask {
    /// Elements whose number is below this are dropped.
    #[must_use]
    pub fn threshold(self) -> i64 {
        (self.probability * f64::from(1u32 << 31)) as i64
    }

    /// What kept elements are multiplied with.
    #[must_use]
    pub fn kept(self) -> f64 {
        1.0 / (1.0 - self.probability)
    }
}

/// `x · mask` for `x: [rows, n]`; the result is packed.
///
/// # Errors
/// `x` is not a matrix with contiguous rows, or there is no memory for the result.
pub fn dropout(x: &Tensor, mask: DropoutMask) -> Result<Tensor, KernelError> {
    let y = Tensor::f_empty(x.size(), (x.f_kind()?, x.device()))?;
    apply(x, &y, mask, false)?;
    Ok(y)
}

/// `y += x · mask`.
///
/// # Errors
/// As [`dropout`], or the two differ in form.
pub fn dropout_add(x: &Tensor, y: &Tensor, mask: DropoutMask) -> Result<(), KernelError> {
    apply(x, y, mask, true)
}

fn apply(x: &Tensor, y: &Tensor, mask: DropoutMask, accumulate: bool) -> Result<(), KernelError> {
    const NAME: &str = "dropout";
    let input = Matrix::of(NAME, "x", x)?;
    let output = Matrix::of(NAME, "y", y)?.like(NAME, "y", input)?;
    let (stream, threshold, kept) = (mask.stream, mask.threshold(), mask.kept() as f32);
    match Engine::of(input.device) {
        // SAFETY: both are live matrices of one form with contiguous rows, checked above.
        Engine::Cpu => unsafe {
            (table().drop)(
                input.element,
                input.rows,
                input.columns,
                input.place,
                input.stride,
                output.place,
                output.stride,
                stream,
                threshold,
                kept,
                i32::from(accumulate),
            );
        },
        // SAFETY: as above, on one device.
        Engine::Gpu(kernels) => unsafe {
            kernels.launch(
                input.pick(kernels::DROPOUT_FLOAT32, kernels::DROPOUT_BFLOAT16),
                [input.rows, input.columns.div_euclid(1024) + 1],
                256,
                &[
                    input.columns.into(),
                    input.place.into(),
                    input.stride.into(),
                    output.place.into(),
                    output.stride.into(),
                    stream.into(),
                    threshold.into(),
                    kept.into(),
                    accumulate.into(),
                ],
            )?;
        },
        Engine::Plain => plain::dropout(x, y, mask, accumulate)?,
    }
    Ok(())
}
