//! Products with frozen weights, as inference makes them for every token, and what adapters add to them.

use std::ffi::c_void;
use std::ptr;

use tch::{Device, Tensor};

use super::checks::{KernelError, Matrix, contiguous, equal};
use super::linear::linear;
use super::table::{RawLoraRows, table};

/// `x · weightᵀ + bias` for `x: [rows, inner]`, `weight: [outputs, inner]` and `bias: [outputs]`, all packed and of one
/// type. Sums are float32.
///
/// On the CPU by a kernel that reads the weight at the speed of the memory where rows are few, and makes the sums of a
/// row in the same order whatever other rows there are; elsewhere as [`linear`].
///
/// # Errors
/// The sizes, types or devices do not fit, or there is no memory for the result.
pub fn serving_linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, KernelError> {
    const NAME: &str = "serving_linear";
    if x.device() != Device::Cpu {
        let mut y = linear(x, weight)?;
        if let Some(bias) = bias {
            let _ = y.f_add_(bias)?;
        }
        return Ok(y);
    }
    let input = Matrix::packed(NAME, "x", x)?;
    let matrix = Matrix::packed(NAME, "weight", weight)?;
    equal(NAME, "columns of weight", matrix.columns, input.columns)?;
    equal(
        NAME,
        "element of weight",
        matrix.element as i64,
        input.element as i64,
    )?;
    equal(
        NAME,
        "weight is on the CPU",
        i64::from(matrix.device == Device::Cpu),
        1,
    )?;
    let kind = x.f_kind()?;
    let added: *const c_void = match bias {
        Some(bias) => contiguous(NAME, "bias", bias, (kind, Device::Cpu), matrix.rows)?,
        None => ptr::null(),
    };
    let y = Tensor::f_empty([input.rows, matrix.rows], (kind, Device::Cpu))?;
    // SAFETY: x, weight and y are live packed tensors of one element type with the sizes given, bias is none or a
    // contiguous one of as many elements as weight has rows.
    unsafe {
        (table().serve_linear)(
            input.element,
            input.rows,
            input.columns,
            matrix.rows,
            input.place,
            matrix.place,
            added,
            y.data_ptr(),
        );
    }
    Ok(y)
}

/// One adapter's pair in one module, as [`lora_add`] takes it.
#[derive(Debug)]
pub struct LoraPart<'a> {
    /// `[rank, inner]`, packed.
    pub a: &'a Tensor,
    /// `[columns, rank]`, a view of a packed `[rank, columns]`.
    pub b: &'a Tensor,
    /// `s`.
    pub scale: f64,
    /// The rows of `x` and `y` that the adapter acts on: the first of them,
    pub first_row: i64,
    /// and how many.
    pub rows: i64,
    /// Where the module's columns begin in `y`.
    pub first_column: i64,
}

/// Whether [`lora_add`] can take a pair of these tensors.
#[must_use]
pub fn is_lora_part(a: &Tensor, b: &Tensor) -> bool {
    let (a_size, b_size) = (a.size(), b.size());
    let is_pair = a_size.len() == 2 && b_size.len() == 2 && a_size[0] == b_size[1];
    is_pair
        && a.device() == Device::Cpu
        && b.device() == Device::Cpu
        && a.is_contiguous()
        && (b.stride() == [1, b_size[0]] || b_size[1] == 1 && b.is_contiguous())
}

/// `y[rows, columns] += s · (x Aᵀ) Bᵀ` for every part, in one call for all adapters and modules of a product, on the CPU.
///
/// `x: [rows, inner]` packed, `y: [rows, ≥ columns]`, both of the parts' type. Sums are float32.
///
/// # Errors
/// The sizes, types or devices do not fit.
pub fn lora_add(y: &Tensor, x: &Tensor, parts: &[LoraPart<'_>]) -> Result<(), KernelError> {
    const NAME: &str = "lora_add";
    let input = Matrix::packed(NAME, "x", x)?;
    let output = Matrix::of(NAME, "y", y)?;
    equal(NAME, "rows of y", output.rows, input.rows)?;
    equal(NAME, "element of y", output.element as i64, input.element as i64)?;
    equal(
        NAME,
        "x and y are on the CPU",
        i64::from(input.device == Device::Cpu && output.device == Device::Cpu),
        1,
    )?;
    let raw = parts
        .iter()
        .map(|part| part.raw(input, output))
        .collect::<Result<Vec<_>, _>>()?;
    // SAFETY: every address is of a live tensor whose sizes, strides and element type were checked, and each part's rows
    // and columns lie within x and y.
    unsafe {
        (table().lora_rows)(
            input.element,
            raw.len() as i64,
            raw.as_ptr(),
            input.rows,
            input.columns,
            input.place,
            output.place,
            output.stride,
        );
    }
    Ok(())
}

impl LoraPart<'_> {
    fn raw(&self, input: Matrix, output: Matrix) -> Result<RawLoraRows, KernelError> {
        const NAME: &str = "lora_add";
        let a = Matrix::packed(NAME, "A", self.a)?;
        equal(NAME, "columns of A", a.columns, input.columns)?;
        equal(NAME, "element of A", a.element as i64, input.element as i64)?;
        let fits = is_lora_part(self.a, self.b) && self.a.f_kind()? == self.b.f_kind()?;
        equal(NAME, "A and B are a pair for serving", i64::from(fits), 1)?;
        let columns = self.b.size()[0];
        let inside = self.first_row >= 0
            && self.rows >= 0
            && self.first_row + self.rows <= input.rows
            && self.first_column >= 0
            && self.first_column + columns <= output.columns;
        equal(NAME, "the part lies within y", i64::from(inside), 1)?;
        Ok(RawLoraRows {
            first_row: self.first_row,
            rows: self.rows,
            rank: a.rows,
            first_column: self.first_column,
            columns,
            a: a.place,
            b: self.b.data_ptr(),
            scale: self.scale as f32,
        })
    }
}
