//! What adapters add to the base model in one forward pass.

use std::ops::Range;

use tch::{Device, Tensor};
use tunesmith_torch_ext::kernels::{LoraPart, lora_add, serving_linear};

use crate::adapter::{Adapter, LoraPair};
use crate::config::ModelConfig;
use crate::dropout::DropoutKey;
use crate::error::ModelError;
use crate::modules::Projection;

/// Which adapter acts on which rows.
#[derive(Debug)]
pub(crate) struct LoraPass<'a> {
    segments: Vec<Segment<'a>>,
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
        Self { segments, dropout }
    }

    /// No adapter.
    pub(crate) fn none() -> Self {
        Self {
            segments: Vec::new(),
            dropout: None,
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
            dropout: None,
        }
    }

    /// `y + s · B (A x)` on the rows that have an adapter, in the columns of each adapted module of the product.
    pub(crate) fn add_to_projection(
        &self,
        mut y: Tensor,
        x: &Tensor,
        config: &ModelConfig,
        layer: usize,
        projection: Projection,
    ) -> Result<Tensor, ModelError> {
        for segment in &self.segments {
            for (module, shape) in config.modules.iter().enumerate() {
                if shape.projection != projection {
                    continue;
                }
                if let Some(pair) = segment.adapter.module(layer, module) {
                    let delta = self.delta(pair, &segment.of(x)?, segment)?;
                    y = segment.add(y, shape.rows.clone(), &delta)?;
                }
            }
        }
        Ok(y)
    }

    /// [`Self::add_to_projection`] for inference: on the CPU one kernel call for all adapters and modules of the product.
    pub(crate) fn serve_projection(
        &self,
        y: Tensor,
        x: &Tensor,
        config: &ModelConfig,
        layer: usize,
        projection: Projection,
    ) -> Result<Tensor, ModelError> {
        if !self.is_for_kernels(x) {
            return self.add_to_projection(y, x, config, layer, projection);
        }
        let mut parts = Vec::new();
        for segment in &self.segments {
            let modules = config.modules.iter().enumerate();
            for (module, shape) in modules.filter(|(_, shape)| shape.projection == projection) {
                if let Some(pair) = segment.adapter.module(layer, module) {
                    parts.extend(segment.parts(pair, shape.rows.start));
                }
            }
        }
        if !parts.is_empty() {
            lora_add(&y, x, &parts)?;
        }
        Ok(y)
    }

    /// [`Self::add_to_head`] for inference.
    pub(crate) fn serve_head(&self, y: Tensor, x: &Tensor) -> Result<Tensor, ModelError> {
        if !self.is_for_kernels(x) {
            return self.add_to_head(y, x);
        }
        let mut parts = Vec::new();
        for segment in &self.segments {
            if let Some(pair) = segment.adapter.head() {
                parts.extend(segment.parts(pair, 0));
            }
        }
        if !parts.is_empty() {
            lora_add(&y, x, &parts)?;
        }
        Ok(y)
    }

    fn is_for_kernels(&self, x: &Tensor) -> bool {
        x.device() == Device::Cpu && self.segments.iter().all(|segment| segment.adapter.is_frozen())
    }

    /// The same for the output head.
    pub(crate) fn add_to_head(&self, mut y: Tensor, x: &Tensor) -> Result<Tensor, ModelError> {
        for segment in &self.segments {
            if let Some(pair) = segment.adapter.head() {
                let delta = self.delta(pair, &segment.of(x)?, segment)?;
                y = segment.add(y, 0..delta.size()[1], &delta)?;
            }
        }
        Ok(y)
    }

    /// The same for the embedding `y: [tokens, hidden]` of `tokens`: `A x` is the column of `A` that a token names.
    /// Like PEFT, without dropout. `scale`: what the base model multiplies its own embeddings with.
    pub(crate) fn add_to_embedding(
        &self,
        mut y: Tensor,
        tokens: &Tensor,
        scale: Option<&Tensor>,
    ) -> Result<Tensor, ModelError> {
        let kind = y.f_kind()?;
        for segment in &self.segments {
            if let Some(pair) = segment.adapter.embedding() {
                let narrow = pair.a.f_index_select(1, &segment.of(tokens)?)?.f_to_kind(kind)?;
                let narrow = narrow.f_transpose(0, 1)?.f_contiguous()?;
                let b = pair.b.f_to_kind(kind)?;
                let wide = if self.is_for_kernels(&narrow) {
                    serving_linear(&narrow, &b.f_contiguous()?, None)?
                } else {
                    narrow.f_linear(&b, None::<&Tensor>)?
                };
                let mut delta = wide.f_multiply_scalar(pair.scale)?;
                if let Some(scale) = scale {
                    delta = delta.f_mul(scale)?;
                }
                y = segment.add(y, 0..delta.size()[1], &delta)?;
            }
        }
        Ok(y)
    }

    /// In the kind of `x`: float32 adapters on a bfloat16 base are rounded for the product, and their gradients arrive
    /// in float32. The scale goes to the narrow factor.
    fn delta(&self, pair: &LoraPair, x: &Tensor, segment: &Segment<'_>) -> Result<Tensor, ModelError> {
        let kind = x.f_kind()?;
        let (a, b) = (pair.a.f_to_kind(kind)?, pair.b.f_to_kind(kind)?);
        let probability = segment.adapter.settings().dropout;
        let narrow = match self.dropout {
            Some(key) if probability > 0.0 => {
                let mask = key.mask(probability, &x.size(), pair.site, x.device(), kind)?;
                x.f_mul(&mask)?.f_linear(&a, None::<&Tensor>)?
            }
            _ => x.f_linear(&a, None::<&Tensor>)?,
        };
        Ok(narrow
            .f_multiply_scalar(pair.scale)?
            .f_linear(&b, None::<&Tensor>)?)
    }
}

/// Rows that one task of the kernels takes.
const ROWS_PER_PART: usize = 32;

impl Segment<'_> {
    /// What `pair` adds to the columns from `first_column` on, cut so that all threads have some.
    fn parts<'p>(&'p self, pair: &'p LoraPair, first_column: i64) -> impl Iterator<Item = LoraPart<'p>> {
        let end = self.start + self.rows;
        (self.start..end)
            .step_by(ROWS_PER_PART)
            .map(move |first_row| LoraPart {
                a: &pair.a,
                b: &pair.b,
                scale: pair.scale,
                first_row,
                rows: (end - first_row).min(ROWS_PER_PART as i64),
                first_column,
            })
    }

    /// The segment's rows.
    fn of(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        Ok(if x.size()[0] == self.rows {
            x.shallow_clone()
        } else {
            x.f_narrow(0, self.start, self.rows)?
        })
    }

    /// Adds to a part of `y`, in place unless it is the whole. `y` comes fresh from a product or an embedding, and no
    /// gradient needs its value.
    fn add(&self, y: Tensor, columns: Range<i64>, delta: &Tensor) -> Result<Tensor, ModelError> {
        if y.size() == delta.size() {
            return Ok(y.f_add(delta)?);
        }
        let _ = y
            .f_narrow(0, self.start, self.rows)?
            .f_narrow(1, columns.start, columns.end - columns.start)?
            .f_add_(delta)?;
        Ok(y)
    }
}
