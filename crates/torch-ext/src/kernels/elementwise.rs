//! RMSNorm, rotary embedding and gated activations.

use std::ptr;

use tch::{Kind, Tensor};

use super::checks::{Engine, KernelError, Matrix, contiguous, equal};
use super::plain;
use super::table::table;
use crate::gpu::kernels;

/// Threads of a GPU's block for a group of columns: whole warps, and a few packs of elements for each thread.
fn threads(columns: i64) -> i64 {
    ((columns / 8).clamp(32, 512) + 31) / 32 * 32
}

/// `x / sqrt(mean(x²) + epsilon) · weight` over each of `heads` equal groups of columns.
///
/// `x: [rows, heads · n]`, `weight`: float32 `[n]`; the result is packed.
///
/// # Errors
/// A tensor is not of this form, or there is no memory for the result.
pub fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f64, heads: i64) -> Result<Tensor, KernelError> {
    const NAME: &str = "rms_norm";
    let input = Matrix::of(NAME, "x", x)?;
    let columns = input.columns / heads.max(1);
    equal(NAME, "columns of x", input.columns, heads * columns)?;
    let scale = contiguous(NAME, "weight", weight, (Kind::Float, input.device), columns)?;
    let y = Tensor::f_empty([input.rows, input.columns], (x.f_kind()?, x.device()))?;
    let output = Matrix::packed(NAME, "y", &y)?;
    match Engine::of(input.device) {
        // SAFETY: every address is of a live tensor whose sizes, strides and element type were checked above.
        Engine::Cpu => unsafe {
            (table().rms_norm)(
                input.element,
                input.rows,
                heads,
                columns,
                input.place,
                input.stride,
                scale.cast(),
                epsilon as f32,
                output.place,
                output.stride,
            );
        },
        // SAFETY: as above, on one device.
        Engine::Gpu(kernels) => unsafe {
            kernels.launch(
                input.pick(kernels::RMS_NORM_FLOAT32, kernels::RMS_NORM_BFLOAT16),
                [input.rows * heads, 1],
                threads(columns),
                &[
                    heads.into(),
                    columns.into(),
                    input.place.into(),
                    input.stride.into(),
                    scale.into(),
                    (epsilon as f32).into(),
                    output.place.into(),
                    output.stride.into(),
                ],
            )?;
        },
        Engine::Plain => return plain::rms_norm(x, weight, epsilon, heads),
    }
    Ok(y)
}

/// The gradient of [`rms_norm`] with respect to `x`, written over `dy`.
///
/// # Errors
/// As [`rms_norm`].
pub fn rms_norm_backward(
    x: &Tensor,
    weight: &Tensor,
    epsilon: f64,
    heads: i64,
    dy: &Tensor,
) -> Result<(), KernelError> {
    norm_backward(x, weight, epsilon, heads, dy, None, dy)
}

/// `addend` plus the gradient of [`rms_norm`] with respect to `x`, written over `addend`.
///
/// # Errors
/// As [`rms_norm`].
pub fn rms_norm_backward_add(
    x: &Tensor,
    weight: &Tensor,
    epsilon: f64,
    dy: &Tensor,
    addend: &Tensor,
) -> Result<(), KernelError> {
    norm_backward(x, weight, epsilon, 1, dy, Some(addend), addend)
}

fn norm_backward(
    x: &Tensor,
    weight: &Tensor,
    epsilon: f64,
    heads: i64,
    dy: &Tensor,
    addend: Option<&Tensor>,
    dx: &Tensor,
) -> Result<(), KernelError> {
    const NAME: &str = "rms_norm_backward";
    let input = Matrix::of(NAME, "x", x)?;
    let columns = input.columns / heads.max(1);
    equal(NAME, "columns of x", input.columns, heads * columns)?;
    let scale = contiguous(NAME, "weight", weight, (Kind::Float, input.device), columns)?;
    let gradient = Matrix::of(NAME, "dy", dy)?.like(NAME, "dy", input)?;
    let result = Matrix::of(NAME, "dx", dx)?.like(NAME, "dx", input)?;
    let (added, added_stride) = match addend {
        Some(tensor) => {
            let matrix = Matrix::of(NAME, "addend", tensor)?.like(NAME, "addend", input)?;
            (matrix.place.cast_const(), matrix.stride)
        }
        None => (ptr::null(), 0),
    };
    match Engine::of(input.device) {
        // SAFETY: every address is of a live tensor whose sizes, strides and element type were checked above; the kernel
        // reads each element of dy and addend before it writes the same place of dx.
        Engine::Cpu => unsafe {
            (table().rms_norm_backward)(
                input.element,
                input.rows,
                heads,
                columns,
                input.place,
                input.stride,
                scale.cast(),
                epsilon as f32,
                gradient.place,
                gradient.stride,
                added,
                added_stride,
                result.place,
                result.stride,
            );
        },
        // SAFETY: as above, on one device.
        Engine::Gpu(kernels) => unsafe {
            kernels.launch(
                input.pick(
                    kernels::RMS_NORM_BACKWARD_FLOAT32,
                    kernels::RMS_NORM_BACKWARD_BFLOAT16,
                ),
                [input.rows * heads, 1],
                threads(columns),
                &[
                    heads.into(),
                    columns.into(),
                    input.place.into(),
                    input.stride.into(),
                    scale.into(),
                    (epsilon as f32).into(),
                    gradient.place.into(),
                    gradient.stride.into(),
                    added.cast_mut().into(),
                    added_stride.into(),
                    result.place.into(),
                    result.stride.into(),
                ],
            )?;
        },
        Engine::Plain => plain::rms_norm_backward((x, weight, epsilon, heads), dy, addend, dx)?,
    }
    Ok(())
}

/// Cosines and sines by position, float32 `[positions, rotary_dim / 2]`.
#[derive(Debug)]
pub struct RotaryTable {
    cosine: Tensor,
    sine: Tensor,
    positions: i64,
    half: i64,
}

impl RotaryTable {
    /// # Errors
    /// The two differ in form, or are not float32 matrices.
    pub fn new(cosine: Tensor, sine: Tensor) -> Result<Self, KernelError> {
        const NAME: &str = "rotary table";
        let shape = Matrix::packed(NAME, "cosine", &cosine)?;
        let _ = Matrix::packed(NAME, "sine", &sine)?.like(NAME, "sine", shape)?;
        let _ = contiguous(
            NAME,
            "cosine",
            &cosine,
            (Kind::Float, shape.device),
            shape.rows * shape.columns,
        )?;
        Ok(Self {
            cosine,
            sine,
            positions: shape.rows,
            half: shape.columns,
        })
    }

    /// Positions that the table covers.
    #[must_use]
    pub fn positions(&self) -> i64 {
        self.positions
    }
}

/// Turns the first `heads` heads of each row in place: the pair `(x[i], x[i + half])` of a head by the angle of the
/// row's position, or back where `back` is set, which is the gradient.
///
/// `x: [rows, ≥ heads · head_dim]`, `positions`: int64 `[rows]`, each below [`RotaryTable::positions`].
///
/// # Errors
/// A tensor is not of this form, or `largest_position` is outside the table.
pub fn rotate(
    x: &Tensor,
    heads: i64,
    head_dim: i64,
    rotary: &RotaryTable,
    positions: &Tensor,
    largest_position: i64,
    back: bool,
) -> Result<(), KernelError> {
    const NAME: &str = "rotate";
    let input = Matrix::of(NAME, "x", x)?;
    let places = contiguous(
        NAME,
        "positions",
        positions,
        (Kind::Int64, input.device),
        input.rows,
    )?;
    equal(
        NAME,
        "x is wide enough",
        i64::from(input.columns >= heads * head_dim),
        1,
    )?;
    equal(
        NAME,
        "heads are wide enough",
        i64::from(head_dim >= 2 * rotary.half),
        1,
    )?;
    equal(
        NAME,
        "the table is long enough",
        i64::from(largest_position < rotary.positions),
        1,
    )?;
    equal(
        NAME,
        "the table is on the device of x",
        i64::from(rotary.cosine.device() == input.device),
        1,
    )?;
    let sign: f32 = if back { -1.0 } else { 1.0 };
    match Engine::of(input.device) {
        // SAFETY: every address is of a live tensor whose sizes, strides and element type were checked above; the caller
        // states the largest position, which lies inside the table.
        Engine::Cpu => unsafe {
            (table().rotate)(
                input.element,
                input.rows,
                heads,
                head_dim,
                2 * rotary.half,
                input.place,
                input.stride,
                rotary.cosine.data_ptr().cast(),
                rotary.sine.data_ptr().cast(),
                places.cast_const().cast(),
                sign,
            );
        },
        // SAFETY: as above, on one device.
        Engine::Gpu(kernels) => unsafe {
            kernels.launch(
                input.pick(kernels::ROTATE_FLOAT32, kernels::ROTATE_BFLOAT16),
                [input.rows, 1],
                256,
                &[
                    heads.into(),
                    head_dim.into(),
                    rotary.half.into(),
                    input.place.into(),
                    input.stride.into(),
                    rotary.cosine.data_ptr().into(),
                    rotary.sine.data_ptr().into(),
                    places.into(),
                    sign.into(),
                ],
            )?;
        },
        Engine::Plain => plain::rotate(
            x,
            (heads, head_dim),
            (&rotary.cosine, &rotary.sine),
            positions,
            sign,
        )?,
    }
    Ok(())
}

/// Activation of a gated linear unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// The tanh form of GELU.
    GeluTanh,
}

/// `act(g) · u` for `gate_up: [rows, 2 n]` with rows `[g | u]`; the result is `[rows, n]`.
///
/// # Errors
/// The tensor is not of this form, or there is no memory for the result.
pub fn gate(gate_up: &Tensor, activation: Activation) -> Result<Tensor, KernelError> {
    const NAME: &str = "gate";
    let input = Matrix::packed(NAME, "gate_up", gate_up)?;
    let inner = input.columns / 2;
    let product = Tensor::f_empty([input.rows, inner], (gate_up.f_kind()?, gate_up.device()))?;
    match Engine::of(input.device) {
        // SAFETY: both are live packed tensors of one element type with `rows` rows of 2 n and n elements.
        Engine::Cpu => unsafe {
            (table().gate)(
                input.element,
                i32::from(activation == Activation::GeluTanh),
                input.rows,
                inner,
                input.place,
                product.data_ptr(),
            );
        },
        // SAFETY: as above, on one device.
        Engine::Gpu(kernels) => unsafe {
            kernels.launch(
                input.pick(kernels::GATE_FLOAT32, kernels::GATE_BFLOAT16),
                [input.rows, inner.div_euclid(2048) + 1],
                256,
                &[
                    (activation == Activation::GeluTanh).into(),
                    inner.into(),
                    input.place.into(),
                    product.data_ptr().into(),
                ],
            )?;
        },
        Engine::Plain => return plain::gate(gate_up, activation),
    }
    Ok(product)
}

/// The gradient of [`gate`]: `gate_up` becomes `[dg | du]`, and `product`, which holds the gradient of the product,
/// becomes the product itself.
///
/// # Errors
/// A tensor is not of this form.
pub fn gate_backward(gate_up: &Tensor, product: &Tensor, activation: Activation) -> Result<(), KernelError> {
    const NAME: &str = "gate_backward";
    let input = Matrix::packed(NAME, "gate_up", gate_up)?;
    let gradient = Matrix::packed(NAME, "product", product)?;
    equal(NAME, "columns of product", 2 * gradient.columns, input.columns)?;
    equal(NAME, "rows of product", gradient.rows, input.rows)?;
    equal(
        NAME,
        "product is on the device of gate_up",
        i64::from(gradient.device == input.device),
        1,
    )?;
    equal(
        NAME,
        "element of product",
        gradient.element as i64,
        input.element as i64,
    )?;
    match Engine::of(input.device) {
        // SAFETY: as in `gate`.
        Engine::Cpu => unsafe {
            (table().gate_backward)(
                input.element,
                i32::from(activation == Activation::GeluTanh),
                input.rows,
                gradient.columns,
                input.place,
                gradient.place,
            );
        },
        // SAFETY: as above, on one device.
        Engine::Gpu(kernels) => unsafe {
            kernels.launch(
                input.pick(kernels::GATE_BACKWARD_FLOAT32, kernels::GATE_BACKWARD_BFLOAT16),
                [input.rows, gradient.columns.div_euclid(2048) + 1],
                256,
                &[
                    (activation == Activation::GeluTanh).into(),
                    gradient.columns.into(),
                    input.place.into(),
                    gradient.place.into(),
                ],
            )?;
        },
        Engine::Plain => plain::gate_backward(gate_up, product, activation)?,
    }
    Ok(())
}
