//! Cross-entropy of rows of scores, with the gradient in their place.

use tch::{Kind, Tensor};

use super::checks::{Engine, KernelError, Matrix, contiguous};
use super::plain;
use super::table::table;
use crate::gpu::kernels;

/// What [`cross_entropy`] found, per row.
#[derive(Debug)]
pub struct RowScores {
    /// float32 `[rows]`: weight · cross-entropy.
    pub losses: Tensor,
    /// int64 `[rows]`: 1 where the target has the greatest score (the first of equals).
    pub hits: Tensor,
}

/// `weight · -log softmax(scores)[target]` of each row; where `gradient_scale` is given, `scores` become the gradient of
/// the summed losses times it. With a `softcap` c the scores count as `c · tanh(score / c)`.
///
/// `scores: [rows, vocabulary]` packed, `targets`: int64 `[rows]`, each below the vocabulary, `weights`: float32 `[rows]`.
///
/// # Errors
/// A tensor is not of this form, or there is no memory for the result.
pub fn cross_entropy(
    scores: &Tensor,
    targets: &Tensor,
    weights: &Tensor,
    gradient_scale: Option<f64>,
    softcap: Option<f64>,
) -> Result<RowScores, KernelError> {
    const NAME: &str = "cross_entropy";
    let matrix = Matrix::packed(NAME, "scores", scores)?;
    let target_place = contiguous(
        NAME,
        "targets",
        targets,
        (Kind::Int64, matrix.device),
        matrix.rows,
    )?;
    let weight_place = contiguous(
        NAME,
        "weights",
        weights,
        (Kind::Float, matrix.device),
        matrix.rows,
    )?;
    let losses = Tensor::f_empty([matrix.rows], (Kind::Float, scores.device()))?;
    let hits = Tensor::f_empty([matrix.rows], (Kind::Int64, scores.device()))?;
    let (scale, cap) = (
        gradient_scale.unwrap_or(0.0) as f32,
        softcap.unwrap_or(0.0) as f32,
    );
    match Engine::of(matrix.device) {
        // SAFETY: every address is of a live tensor whose size and element type were checked above; targets lie in the
        // vocabulary by the caller's word, as token ids that were checked when the batch was made.
        Engine::Cpu => unsafe {
            (table().score)(
                matrix.element,
                matrix.rows,
                matrix.columns,
                matrix.place,
                target_place.cast_const().cast(),
                weight_place.cast_const().cast(),
                scale,
                cap,
                i32::from(gradient_scale.is_some()),
                losses.data_ptr().cast(),
                hits.data_ptr().cast(),
            );
        },
        // SAFETY: as above, on one device.
        Engine::Gpu(kernels) => unsafe {
            kernels.launch(
                matrix.pick(kernels::CROSS_ENTROPY_FLOAT32, kernels::CROSS_ENTROPY_BFLOAT16),
                [matrix.rows, 1],
                512,
                &[
                    matrix.columns.into(),
                    matrix.place.into(),
                    target_place.into(),
                    weight_place.into(),
                    scale.into(),
                    cap.into(),
                    gradient_scale.is_some().into(),
                    losses.data_ptr().into(),
                    hits.data_ptr().into(),
                ],
            )?;
        },
        Engine::Plain => return plain::cross_entropy(scores, targets, weights, gradient_scale, softcap),
    }
    Ok(RowScores { losses, hits })
}
