//! Attention of one new token per sequence over the sequence's cache.

use tch::{Device, Tensor};

use super::attention::AttentionShape;
use super::checks::{KernelError, Matrix, equal};
use super::table::{RawCachedRow, table};

/// One layer of a sequence's cache, and the sequence's row in the step.
#[derive(Debug)]
pub struct CachedRow<'a> {
    /// `[kv_heads, capacity, head_dim]`, packed.
    pub keys: &'a Tensor,
    /// The same for values.
    pub values: &'a Tensor,
    /// Tokens in the cache before the new one; fewer than the capacity.
    pub seen: i64,
    /// The new token's row.
    pub row: i64,
}

/// Stores each row's key and value in its cache, then writes `softmax(scale · q kᵀ) v` over the cache and the new token
/// to the same row of `out`: for all rows in one call, on the CPU.
///
/// `qkv: [rows, (heads + 2 kv_heads) · head_dim]`, rotated; `out: [rows, heads · head_dim]`. No two rows share a cache.
///
/// # Errors
/// The sizes, types or devices do not fit.
pub fn decode_attend(
    qkv: &Tensor,
    cached: &[CachedRow<'_>],
    shape: AttentionShape,
    out: &Tensor,
) -> Result<(), KernelError> {
    const NAME: &str = "decode_attend";
    let input = Matrix::of(NAME, "qkv", qkv)?;
    let output = Matrix::of(NAME, "out", out)?;
    let heads = shape.heads + 2 * shape.kv_heads;
    equal(NAME, "columns of qkv", input.columns, heads * shape.head_dim)?;
    equal(
        NAME,
        "columns of out",
        output.columns,
        shape.heads * shape.head_dim,
    )?;
    equal(
        NAME,
        "heads modulo kv_heads",
        shape.heads % shape.kv_heads.max(1),
        0,
    )?;
    equal(NAME, "rows of out", output.rows, input.rows)?;
    equal(
        NAME,
        "element of out",
        output.element as i64,
        input.element as i64,
    )?;
    equal(
        NAME,
        "qkv and out are on the CPU",
        i64::from(input.device == Device::Cpu && output.device == Device::Cpu),
        1,
    )?;
    let raw = cached
        .iter()
        .map(|row| row.raw(qkv, input, shape))
        .collect::<Result<Vec<_>, _>>()?;
    let raw_shape = shape.raw();
    // SAFETY: qkv and out are live tensors with the columns that the shape asks for; each cache has room behind `seen`
    // tokens, and its row is one of qkv's. The kernel writes to caches that the caller says are not shared.
    unsafe {
        (table().decode)(
            input.element,
            &raw const raw_shape,
            raw.len() as i64,
            raw.as_ptr(),
            input.place,
            input.stride,
            output.place,
            output.stride,
        );
    }
    Ok(())
}

impl CachedRow<'_> {
    fn raw(&self, qkv: &Tensor, input: Matrix, shape: AttentionShape) -> Result<RawCachedRow, KernelError> {
        const NAME: &str = "decode_attend";
        let size = self.keys.size();
        let capacity = size.get(1).copied().unwrap_or(0);
        let expected = [shape.kv_heads, capacity, shape.head_dim];
        let kind = qkv.f_kind()?;
        let fits = |tensor: &Tensor| -> Result<bool, KernelError> {
            let is_like = tensor.f_kind()? == kind && tensor.device() == Device::Cpu;
            Ok(is_like && tensor.size() == expected && tensor.is_contiguous())
        };
        let both = fits(self.keys)? && fits(self.values)?;
        equal(
            NAME,
            "keys and values are a cache of this form",
            i64::from(both),
            1,
        )?;
        let has_room = 0 <= self.seen && self.seen < capacity;
        equal(NAME, "the cache has room", i64::from(has_room), 1)?;
        let is_row = 0 <= self.row && self.row < input.rows;
        equal(NAME, "the row is one of qkv's", i64::from(is_row), 1)?;
        Ok(RawCachedRow {
            keys: self.keys.data_ptr(),
            values: self.values.data_ptr(),
            capacity,
            seen: self.seen,
            row: self.row,
        })
    }
}
