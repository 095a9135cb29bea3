//! What the adapters of a pass add to the frozen products, and their gradients.
//!
//! A [`Patch`] is one segment's LoRA on one product: modules that share an input (q, k and v; gate and up) share the
//! narrow product `S = s · X Aᵀ` with their A matrices one below the other, and each adds `S Bᵀ` to its own columns.

use tch::{Kind, Tensor};
use tunesmith_torch_ext::kernels::{DropoutMask, dropout, dropout_add, linear};

use super::layout::{Layout, Rows};
use crate::adapter::LoraPair;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::modules::Site;
use crate::training::Segment;

/// One module's part of a patch.
#[derive(Debug)]
pub(super) struct Part {
    /// Its columns of the product's output.
    pub(super) column: i64,
    pub(super) width: i64,
    /// Its columns of S.
    pub(super) first: i64,
    pub(super) rank: i64,
    pub(super) scale: f64,
    /// `[width, rank]` in the compute format.
    pub(super) b: Tensor,
    /// float32 `[width, rank]`.
    gradient_b: Option<Tensor>,
}

/// One segment's LoRA on one product.
#[derive(Debug)]
pub(super) struct Patch {
    pub(super) rows: Rows,
    /// `[ranks, in]` in the compute format.
    pub(super) a: Tensor,
    /// float32 `[ranks, in]`.
    gradient_a: Option<Tensor>,
    pub(super) parts: Vec<Part>,
    pub(super) mask: Option<DropoutMask>,
}

/// What a forward pass keeps of a patch: `S: [rows, ranks]`.
pub(super) type Narrow = Tensor;

impl Patch {
    /// Adds to `y: [tokens, out]` in place; `x: [tokens, in]`.
    pub(super) fn forward(&self, x: &Tensor, y: &Tensor) -> Result<Narrow, ModelError> {
        let narrow = self.narrow(x)?;
        self.widen(&narrow, &self.rows.of(y)?)?;
        Ok(narrow)
    }

    /// Adds to the gradients of B; returns the gradient of `X Aᵀ`, `[rows, ranks]`. `dy: [tokens, out]`.
    pub(super) fn slope(&self, narrow: &Narrow, dy: &Tensor) -> Result<Tensor, ModelError> {
        self.widen_backward(narrow, &self.rows.of(dy)?)
    }

    /// `S = s · X Aᵀ` of the patch's rows of `x: [tokens, in]`.
    pub(super) fn narrow(&self, x: &Tensor) -> Result<Narrow, ModelError> {
        let x = self.rows.of(x)?;
        let narrow = match self.mask {
            Some(mask) => linear(&dropout(&x, mask)?, &self.a)?,
            None => linear(&x, &self.a)?,
        };
        for part in self.parts.iter().filter(|part| part.scale != 1.0) {
            let _ = part.narrow(&narrow)?.f_mul_scalar_(part.scale)?;
        }
        Ok(narrow)
    }

    /// `y += S Bᵀ`, each part in its columns. `narrow: [n, ranks]`, `y: [n, out]`.
    pub(super) fn widen(&self, narrow: &Narrow, y: &Tensor) -> Result<(), ModelError> {
        for part in &self.parts {
            let _ = part
                .columns(y)?
                .f_addmm_(&part.narrow(narrow)?, &part.b.f_transpose(0, 1)?)?;
        }
        Ok(())
    }

    /// Adds to the gradients of B; returns the gradient of `X Aᵀ`, `[n, ranks]`. `dy: [n, out]`.
    pub(super) fn widen_backward(&self, narrow: &Narrow, dy: &Tensor) -> Result<Tensor, ModelError> {
        self.learn_b(narrow, dy)?;
        let mut slopes = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let mut slope = part.columns(dy)?.f_matmul(&part.b)?;
            if part.scale != 1.0 {
                let _ = slope.f_mul_scalar_(part.scale)?;
            }
            slopes.push(slope);
        }
        Ok(if slopes.len() == 1 {
            slopes.remove(0)
        } else {
            Tensor::f_cat(&slopes, 1)?
        })
    }

    /// Adds to the gradients of B. `narrow: [n, ranks]`, `dy: [n, out]`.
    pub(super) fn learn_b(&self, narrow: &Narrow, dy: &Tensor) -> Result<(), ModelError> {
        for part in &self.parts {
            if let Some(gradient) = &part.gradient_b {
                accumulate(gradient, &part.columns(dy)?, &part.narrow(narrow)?)?;
            }
        }
        Ok(())
    }

    /// Adds to the gradients of A. `x: [tokens, in]`, `slope: [rows, ranks]`.
    pub(super) fn learn(&self, x: &Tensor, slope: &Tensor) -> Result<(), ModelError> {
        let Some(gradient) = &self.gradient_a else {
            return Ok(());
        };
        let x = self.rows.of(x)?;
        match self.mask {
            Some(mask) => accumulate(gradient, slope, &dropout(&x, mask)?),
            None => accumulate(gradient, slope, &x),
        }
    }

    /// Adds `slope A` to the patch's rows of `dx: [tokens, in]`.
    pub(super) fn pass_down(&self, slope: &Tensor, dx: &Tensor) -> Result<(), ModelError> {
        let mut dx = self.rows.of(dx)?;
        match self.mask {
            Some(mask) => dropout_add(&slope.f_matmul(&self.a)?, &dx, mask)?,
            None => {
                let _ = dx.f_addmm_(slope, &self.a)?;
            }
        }
        Ok(())
    }

    /// Where rows `start..start + count` of the whole lie in the patch: in those rows, and in the patch.
    pub(super) fn overlap(&self, start: i64, count: i64) -> Option<(Rows, Rows)> {
        let first = self.rows.start.max(start);
        let end = (self.rows.start + self.rows.count).min(start + count);
        let rows = |start: i64| Rows {
            start,
            count: end - first,
        };
        (first < end).then(|| (rows(first - start), rows(first - self.rows.start)))
    }

    pub(super) fn rank(&self) -> i64 {
        self.a.size()[0]
    }

    pub(super) fn row_count(&self) -> i64 {
        self.rows.count
    }
}

impl Part {
    fn columns(&self, y: &Tensor) -> Result<Tensor, ModelError> {
        Ok(y.f_narrow(1, self.column, self.width)?)
    }

    fn narrow(&self, narrow: &Tensor) -> Result<Tensor, ModelError> {
        Ok(narrow.f_narrow(1, self.first, self.rank)?)
    }
}

/// `gradient += leftᵀ right`, in float32 whatever the compute format.
fn accumulate(gradient: &Tensor, left: &Tensor, right: &Tensor) -> Result<(), ModelError> {
    let mut gradient = gradient.shallow_clone();
    let left = left.f_transpose(0, 1)?;
    if left.f_kind()? == Kind::Float {
        let _ = gradient.f_addmm_(&left, right)?;
    } else if left.device().is_cuda() {
        let _ = gradient.f_add_(&left.f_mm_dtype(right, Kind::Float)?)?;
    } else {
        let _ = gradient.f_add_(&left.f_mm(right)?)?;
    }
    Ok(())
}

/// The matrices of one pair, in the compute format, and the places of their gradients.
pub(super) struct Matrices {
    rank: i64,
    scale: f64,
    a: Tensor,
    b: Tensor,
    gradient_a: Option<Tensor>,
    gradient_b: Option<Tensor>,
}

/// An adapted module of a block.
pub(super) struct Adapted {
    /// Index into [`ModelConfig::modules`].
    pub(super) module: usize,
    pub(super) site: Site,
    pub(super) matrices: Matrices,
}

impl Patch {
    pub(super) fn single(
        rows: Rows,
        column: i64,
        width: i64,
        matrices: Matrices,
        mask: Option<DropoutMask>,
    ) -> Self {
        Self {
            rows,
            a: matrices.a,
            gradient_a: matrices.gradient_a,
            parts: vec![Part {
                column,
                width,
                first: 0,
                rank: matrices.rank,
                scale: matrices.scale,
                b: matrices.b,
                gradient_b: matrices.gradient_b,
            }],
            mask,
        }
    }

    /// One patch of all modules of a product, or with dropout, whose masks differ, one of each.
    pub(super) fn of_modules(
        config: &ModelConfig,
        segment: &Segment<'_>,
        rows: Rows,
        mut modules: Vec<Adapted>,
        trains: bool,
    ) -> Result<Vec<Self>, ModelError> {
        modules.sort_by_key(|adapted| adapted.module);
        let singles = modules.into_iter().map(
            |Adapted {
                 module,
                 site,
                 matrices,
             }| {
                let columns = &config.modules[module].rows;
                let width = columns.end - columns.start;
                Self::single(rows, columns.start, width, matrices, segment.mask(site))
            },
        );
        let singles: Vec<Self> = singles.collect();
        if singles.len() == 1 || singles.iter().any(|patch| patch.mask.is_some()) {
            return Ok(singles);
        }
        Self::join(singles, trains).map(|joined| vec![joined])
    }

    /// Puts the A matrices, which lie one behind the other in the adapter's buffer, one below the other.
    fn join(singles: Vec<Self>, trains: bool) -> Result<Self, ModelError> {
        let ranks: i64 = singles.iter().map(|patch| patch.a.size()[0]).sum();
        let inputs = singles[0].a.size()[1];
        let rows = singles[0].rows;
        let stacked = |first: &Tensor| first.f_as_strided([ranks, inputs], [inputs, 1], None);
        let a = stacked(&singles[0].a)?;
        let gradient_a = if trains {
            singles[0].gradient_a.as_ref().map(stacked).transpose()?
        } else {
            None
        };
        let mut first = 0;
        let mut parts = Vec::with_capacity(singles.len());
        for single in singles {
            for part in single.parts {
                parts.push(Part { first, ..part });
                first += single.a.size()[0];
            }
        }
        Ok(Self {
            rows,
            a,
            gradient_a,
            parts,
            mask: None,
        })
    }

    /// On the embedding: adds `s · scale · B A[:, token]` to the patch's rows of `x: [tokens, hidden]`. `scale`: what the
    /// model multiplies its embeddings with.
    pub(super) fn embed(&self, layout: &Layout, x: &Tensor, scale: f64) -> Result<(), ModelError> {
        let part = &self.parts[0];
        let delta = self.token_columns(layout)?.f_matmul(&part.b.f_transpose(0, 1)?)?;
        let _ = self
            .rows
            .of(x)?
            .f_add_(&delta.f_mul_scalar(part.scale * scale)?)?;
        Ok(())
    }

    /// The gradients of [`Self::embed`]; `dx: [tokens, hidden]`.
    pub(super) fn embed_backward(&self, layout: &Layout, dx: &Tensor, scale: f64) -> Result<(), ModelError> {
        let part = &self.parts[0];
        let dy = self.rows.of(dx)?.f_mul_scalar(part.scale * scale)?;
        if let Some(gradient) = &part.gradient_b {
            accumulate(gradient, &dy, &self.token_columns(layout)?)?;
        }
        if let Some(gradient) = &self.gradient_a {
            let slope = dy.f_matmul(&part.b)?.f_transpose(0, 1)?.f_to_kind(Kind::Float)?;
            let tokens = self.rows.of(&layout.token_ids)?;
            let _ = gradient.shallow_clone().f_index_add_(1, &tokens, &slope)?;
        }
        Ok(())
    }

    /// `[rows, rank]`: the columns of A that the rows' tokens name.
    fn token_columns(&self, layout: &Layout) -> Result<Tensor, ModelError> {
        let tokens = self.rows.of(&layout.token_ids)?;
        Ok(self.a.f_index_select(1, &tokens)?.f_transpose(0, 1)?)
    }
}

impl Matrices {
    /// The next pair in the order of the adapter's buffer: all A, then all B.
    pub(super) fn take(
        pair: &LoraPair,
        compute: &Tensor,
        gradient: Option<&Tensor>,
        next_a: &mut i64,
        next_b: &mut i64,
    ) -> Result<Self, ModelError> {
        let view = |buffer: &Tensor, start: i64, like: &Tensor| -> Result<Tensor, ModelError> {
            Ok(buffer
                .f_narrow(0, start, like.numel() as i64)?
                .f_view(&like.size()[..])?)
        };
        let matrices = Self {
            rank: pair.rank,
            scale: pair.scale,
            a: view(compute, *next_a, &pair.a)?,
            b: view(compute, *next_b, &pair.b)?,
            gradient_a: gradient
                .map(|buffer| view(buffer, *next_a, &pair.a))
                .transpose()?,
            gradient_b: gradient
                .map(|buffer| view(buffer, *next_b, &pair.b))
                .transpose()?,
        };
        *next_a += pair.a.numel() as i64;
        *next_b += pair.b.numel() as i64;
        Ok(matrices)
    }
}
