//! What adapters add to the linear layers in one forward pass.

use crate::modules::LinearLayer;
use tch::Tensor;

use crate::adapter::{Adapter, LoraPair};
use crate::dropout::DropoutKey;
use crate::error::ModelError;

/// Which adapter acts on which rows.
#[derive(Debug)]
pub(crate) struct LoraPass<'a> {
    segments: Vec<Segment<'a>>,
    rows: i64,
    dropout: Option<DropoutKey>,
}

#[derive(Debug)]
struct Segment<'a> {
    start: i64,
    rows: i64,
    adapter: &'a Adapter,
}

impl<'a> LoraPass<'a> {
    /// One adapter, or none, on all `rows`; with `dropout` where the adapter has a dropout probability.
    pub(crate) fn uniform(adapter: Option<&'a Adapter>, rows: i64, dropout: Option<DropoutKey>) -> Self {
        let segments = adapter
            .map(|adapter| Segment {
                start: 0,
                rows,
                adapter,
            })
            .into_iter()
            .collect();
        Self {
            segments,
            rows,
            dropout,
        }
    }

    /// Each run of rows with its own adapter, or none. Neighbours with the same adapter are joined.
    pub(crate) fn by_rows(parts: impl Iterator<Item = (i64, Option<&'a Adapter>)>) -> Self {
        let mut segments: Vec<Segment<'a>> = Vec::new();
        let mut start = 0;
        for (rows, adapter) in parts {
            if let Some(adapter) = adapter {
                match segments.last_mut() {
                    Some(last) if std::ptr::eq(last.adapter, adapter) && last.start + last.rows == start => {
                        last.rows += rows;
                    }
                    _ => segments.push(Segment { start, rows, adapter }),
                }
            }
            start += rows;
        }
        Self {
            segments,
            rows: start,
            dropout: None,
        }
    }

    /// `y + s · B (A x)` on the rows that have an adapter for this layer.
    pub(crate) fn add_to(
        &self,
        y: Tensor,
        x: &Tensor,
        layer: usize,
        linear: LinearLayer,
    ) -> Result<Tensor, ModelError> {
        let mut y = y;
        for segment in &self.segments {
            let Some(pair) = segment.adapter.pair(layer, linear) else {
                continue;
            };
            let scale = segment.adapter.settings().scale();
            if segment.rows == self.rows {
                let delta = self.delta(pair, scale, x, segment, layer, linear)?;
                y = y.f_add(&delta)?;
            } else {
                // Only inference mixes adapters, so writing in place disturbs no gradient.
                let part = x.f_narrow(0, segment.start, segment.rows)?;
                let delta = self.delta(pair, scale, &part, segment, layer, linear)?;
                let _ = y.f_narrow(0, segment.start, segment.rows)?.f_add_(&delta)?;
            }
        }
        Ok(y)
    }

    /// In the kind of `x`: float32 adapters on a bfloat16 base are rounded for the product, and their gradients arrive
    /// in float32. The scale goes to the narrow factor.
    fn delta(
        &self,
        pair: &LoraPair,
        scale: f64,
        x: &Tensor,
        segment: &Segment<'_>,
        layer: usize,
        linear: LinearLayer,
    ) -> Result<Tensor, ModelError> {
        let kind = x.f_kind()?;
        let (a, b) = (pair.a.f_to_kind(kind)?, pair.b.f_to_kind(kind)?);
        let probability = segment.adapter.settings().dropout;
        let narrow = match self.dropout {
            Some(key) if probability > 0.0 => {
                let mask = key.mask(probability, &x.size(), layer, linear, x.device(), kind)?;
                x.f_mul(&mask)?.f_linear(&a, None::<&Tensor>)?
            }
            _ => x.f_linear(&a, None::<&Tensor>)?,
        };
        Ok(narrow.f_multiply_scalar(scale)?.f_linear(&b, None::<&Tensor>)?)
    }
}
