//! Causal attention by LibTorch's own operations, one document and one block of queries at a time.

use tch::{Kind, Tensor};

use super::{Result, overwrite, wide};
use crate::kernels::attention::AttentionShape;

/// Scores that a block of queries may have: 256 MiB in float32. Tests have several blocks in small documents.
const LARGEST_BLOCK: i64 = if cfg!(test) { 1 << 12 } else { 1 << 26 };

/// A block of query rows of one document, and the keys that the document has up to it.
struct Block {
    start: i64,
    rows: i64,
    first_key: i64,
    keys: i64,
}

fn blocks(ends: &[i64], heads: i64) -> impl Iterator<Item = Block> + '_ {
    let starts = std::iter::once(0).chain(ends.iter().copied());
    starts.zip(ends).flat_map(move |(first_key, &end)| {
        let rows = (LARGEST_BLOCK / (heads * (end - first_key))).clamp(1, end - first_key);
        (first_key..end).step_by(rows as usize).map(move |start| {
            let rows = rows.min(end - start);
            Block {
                start,
                rows,
                first_key,
                keys: start + rows - first_key,
            }
        })
    })
}

/// Queries, keys and values of a block in float32: `[kv_heads, group · rows, d]` and twice `[kv_heads, keys, d]`.
struct Operands {
    query: Tensor,
    key: Tensor,
    value: Tensor,
}

impl AttentionShape {
    fn group(self) -> i64 {
        self.heads / self.kv_heads
    }

    /// `[rows, heads · d]` to `[kv_heads, group · rows, d]`: query heads that share a key become more rows.
    fn gathered(self, x: &Tensor) -> Result<Tensor> {
        let sizes = [x.size()[0], self.kv_heads, self.group(), self.head_dim];
        let x = wide(x)?.f_reshape(sizes)?.f_permute([1, 2, 0, 3])?;
        Ok(x.f_reshape([self.kv_heads, -1, self.head_dim])?)
    }

    /// The way back.
    fn scattered(self, x: &Tensor, rows: i64) -> Result<Tensor> {
        let x = x.f_reshape([self.kv_heads, self.group(), rows, self.head_dim])?;
        Ok(x.f_permute([2, 0, 1, 3])?
            .f_reshape([rows, self.heads * self.head_dim])?)
    }

    fn columns(self, part: usize) -> (i64, i64) {
        let (queries, keys) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        [(0, queries), (queries, keys), (queries + keys, keys)][part]
    }

    fn operands(self, qkv: &Tensor, block: &Block) -> Result<Operands> {
        let (start, width) = self.columns(0);
        let query = qkv
            .f_narrow(0, block.start, block.rows)?
            .f_narrow(1, start, width)?;
        let keys = qkv.f_narrow(0, block.first_key, block.keys)?;
        let by_head = |part| -> Result<Tensor> {
            let (start, width) = self.columns(part);
            let x = wide(&keys.f_narrow(1, start, width)?)?;
            Ok(x.f_reshape([block.keys, self.kv_heads, self.head_dim])?
                .f_transpose(0, 1)?)
        };
        Ok(Operands {
            query: self.gathered(&query)?,
            key: by_head(1)?,
            value: by_head(2)?,
        })
    }

    /// Scores `[kv_heads, group · rows, keys]`, scaled and capped, and -∞ where a query does not see a key.
    fn scores(self, operands: &Operands, block: &Block) -> Result<(Tensor, Tensor)> {
        let product = operands.query.f_bmm(&operands.key.f_transpose(1, 2)?)?;
        let mut scores = product.f_mul_scalar(self.scale)?;
        if let Some(cap) = self.softcap {
            scores = scores.f_div_scalar(cap)?.f_tanh()?.f_mul_scalar(cap)?;
        }
        let options = (Kind::Bool, scores.device());
        let before = block.start - block.first_key;
        let mut seen = Tensor::f_ones([block.rows, block.keys], options)?.f_tril(before)?;
        if let Some(window) = self.window {
            seen = seen.f_triu(before + 1 - window)?;
        }
        let hidden = seen.f_logical_not()?.f_repeat([self.group(), 1])?;
        Ok((scores.f_masked_fill(&hidden, f64::NEG_INFINITY)?, scores))
    }
}

/// The output, and the logarithms of the denominators, float32 `[tokens, heads]`.
pub(in crate::kernels) fn attend(
    qkv: &Tensor,
    ends: &[i64],
    shape: AttentionShape,
) -> Result<(Tensor, Tensor)> {
    let (kind, device) = (qkv.f_kind()?, qkv.device());
    let tokens = qkv.size()[0];
    let out = Tensor::f_empty([tokens, shape.heads * shape.head_dim], (kind, device))?;
    let lse = Tensor::f_empty([tokens, shape.heads], (Kind::Float, device))?;
    for block in blocks(ends, shape.heads) {
        let operands = shape.operands(qkv, &block)?;
        let (scores, _) = shape.scores(&operands, &block)?;
        let sums = scores.f_logsumexp(-1, true)?;
        let mixed = scores.f_sub(&sums)?.f_exp()?.f_bmm(&operands.value)?;
        let place = |x: &Tensor| x.f_narrow(0, block.start, block.rows);
        overwrite(&place(&out)?, &shape.scattered(&mixed, block.rows)?)?;
        let sums = sums.f_reshape([shape.heads, block.rows])?.f_transpose(0, 1)?;
        overwrite(&place(&lse)?, &sums)?;
    }
    Ok((out, lse))
}

/// The gradient of `qkv`.
pub(in crate::kernels) fn attend_backward(
    qkv: &Tensor,
    ends: &[i64],
    shape: AttentionShape,
    (out, lse): (&Tensor, &Tensor),
    gradient: &Tensor,
) -> Result<Tensor> {
    // Keys and values gather what several blocks of queries give them.
    let result = Tensor::f_zeros(qkv.size(), (Kind::Float, qkv.device()))?;
    for block in blocks(ends, shape.heads) {
        let operands = shape.operands(qkv, &block)?;
        let (scores, capped) = shape.scores(&operands, &block)?;
        let of_block = |x: &Tensor| x.f_narrow(0, block.start, block.rows);
        let sums = of_block(lse)?
            .f_transpose(0, 1)?
            .f_reshape([shape.kv_heads, -1, 1])?;
        let shares = scores.f_sub(&sums)?.f_exp()?;
        let mixed_slope = shape.gathered(&of_block(gradient)?)?;
        let delta = shape
            .gathered(&of_block(out)?)?
            .f_mul(&mixed_slope)?
            .f_sum_dim_intlist(-1, true, Kind::Float)?;
        let share_slope = mixed_slope.f_bmm(&operands.value.f_transpose(1, 2)?)?;
        let mut slope = shares
            .f_mul(&share_slope.f_sub(&delta)?)?
            .f_mul_scalar(shape.scale)?;
        if let Some(cap) = shape.softcap {
            let bend = capped.f_div_scalar(cap)?.f_square()?.f_neg()?.f_add_scalar(1.0)?;
            slope = slope.f_mul(&bend)?;
        }
        let query_slope = shape.scattered(&slope.f_bmm(&operands.key)?, block.rows)?;
        let key_slope = slope.f_transpose(1, 2)?.f_bmm(&operands.query)?;
        let value_slope = shares.f_transpose(1, 2)?.f_bmm(&mixed_slope)?;
        let (start, width) = shape.columns(0);
        overwrite(&of_block(&result)?.f_narrow(1, start, width)?, &query_slope)?;
        let keys = result.f_narrow(0, block.first_key, block.keys)?;
        for (part, slope) in [(1, key_slope), (2, value_slope)] {
            let (start, width) = shape.columns(part);
            let flat = slope.f_transpose(0, 1)?.f_reshape([block.keys, width])?;
            let _ = keys.f_narrow(1, start, width)?.f_add_(&flat)?;
        }
    }
    Ok(result.f_to_kind(qkv.f_kind()?)?)
}
