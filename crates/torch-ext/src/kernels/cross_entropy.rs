//! Cross-entropy of rows of scores, with the gradient in their place.

use tch::{Kind, Tensor};

use super::checks::{KernelError, Matrix, contiguous};
use super::table::table;

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
    let targets = contiguous(NAME, "targets", targets, Kind::Int64, matrix.rows)?;
    let weights = contiguous(NAME, "weights", weights, Kind::Float, matrix.rows)?;
    let losses = Tensor::f_empty([matrix.rows], (Kind::Float, scores.device()))?;
    let hits = Tensor::f_empty([matrix.rows], (Kind::Int64, scores.device()))?;
    // SAFETY: every address is of a live tensor whose size and element type were checked above; targets lie in the
    // vocabulary by the caller's word, as token ids that were checked when the batch was made.
    unsafe {
        (table().score)(
            matrix.element,
            matrix.rows,
            matrix.columns,
            matrix.place,
            targets.cast_const().cast(),
            weights.cast_const().cast(),
            gradient_scale.unwrap_or(0.0) as f32,
            softcap.unwrap_or(0.0) as f32,
            i32::from(gradient_scale.is_some()),
            losses.data_ptr().cast(),
            hits.data_ptr().cast(),
        );
    }
    Ok(RowScores { losses, hits })
}
