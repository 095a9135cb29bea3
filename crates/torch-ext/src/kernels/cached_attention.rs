//! Attention of new tokens over their sequences' caches.

use tch::{Device, Tensor};

use super::attention::AttentionShape;
use super::checks::{KernelError, Matrix, equal};
use super::table::{RawCachedRows, table};

/// One layer of a sequence's cache, and the sequence's rows in the step.
#[derive(Debug)]
pub struct CachedRows<'a> {
    /// `[kv_heads, capacity, head_dim]`, packed.
    pub keys: &'a Tensor,
    /// The same for values.
    pub values: &'a Tensor,
    /// Tokens in the cache before the new ones; there is room for all.
    pub seen: i64,
    /// The first new token's row,
    pub first_row: i64,
    /// and how many there are.
    pub rows: i64,
}

/// Stores each new token's key and value in its sequence's cache, then writes `softmax(scale · q kᵀ) v` over the cache up
/// to that token to the same row of `out`: for all sequences in one call, on the CPU. Sums are float32, and a row's are
/// made in the same order in whatever pieces a sequence comes.
///
/// `qkv: [rows, (heads + 2 kv_heads) · head_dim]`, rotated; `out: [rows, heads · head_dim]`. No two sequences share a
/// cache.
///
/// # Errors
/// The sizes, types or devices do not fit.
pub fn attend_cached(
    qkv: &Tensor,
    cached: &[CachedRows<'_>],
    shape: AttentionShape,
    out: &Tensor,
) -> Result<(), KernelError> {
    const NAME: &str = "attend_cached";
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
        .map(|rows| rows.raw(qkv, input, shape))
        .collect::<Result<Vec<_>, _>>()?;
    let raw_shape = shape.raw();
    // SAFETY: qkv and out are live tensors with the columns that the shape asks for; each cache has room for its
    // rows behind `seen` tokens, and they are rows of qkv. The kernel writes to caches that the caller says are not shared.
    unsafe {
        (table().attend_cached)(
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

impl CachedRows<'_> {
    fn raw(&self, qkv: &Tensor, input: Matrix, shape: AttentionShape) -> Result<RawCachedRows, KernelError> {
        const NAME: &str = "attend_cached";
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
        let has_room = 0 <= self.seen && 0 < self.rows && self.rows <= capacity.saturating_sub(self.seen);
        equal(NAME, "the cache has room", i64::from(has_room), 1)?;
        let are_rows = 0 <= self.first_row && self.first_row <= input.rows.saturating_sub(self.rows);
        equal(NAME, "the rows are of qkv", i64::from(are_rows), 1)?;
        Ok(RawCachedRows {
            keys: self.keys.data_ptr(),
            values: self.values.data_ptr(),
            capacity,
            seen: self.seen,
            first_row: self.first_row,
            rows: self.rows,
        })
    }
}
