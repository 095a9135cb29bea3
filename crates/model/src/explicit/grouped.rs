//! The LoRA of all jobs on one product, each step of it one grouped product instead of a small one for every job.
//!
//! Every job has the same columns of `S: [rows, ranks]`, as many for a module as its largest rank there asks for, rounded up
//! to eight. Ranks that a job lacks are zeros, and so are all of a job that does not adapt the product. The gradients of A
//! and B stay products of each job: they are summed in float32, and a grouped product rounds to the format of its input.

use std::rc::Rc;

use tch::{Device, Kind, Tensor};
use tunesmith_torch_ext::kernels::{RowGroups, grouped_mm};
use tunesmith_torch_ext::to_device_async;

use super::layout::Rows;
use super::patch::{Narrow, Part, Patch};
use crate::error::ModelError;

#[cfg(test)]
mod tests;

/// Ranks and widths must be multiples of this.
const ALIGNMENT: i64 = 8;
/// How many times the rows × ranks that the jobs have themselves, rounded up, they may have together.
const MOST_PADDING: i64 = 2;

/// The most columns of S that a job of so many ranks on so many modules of a block is charged with.
pub(super) const fn most_ranks(ranks: i64, modules: i64) -> i64 {
    MOST_PADDING * (ranks + (ALIGNMENT - 1) * modules)
}

/// The jobs that have rows in a pass; their groups cover all rows.
#[derive(Debug)]
pub(super) struct JobRows {
    jobs: Vec<Rows>,
    groups: RowGroups,
    /// int64 `[rows]`: the job of each.
    job_of_row: Tensor,
}

impl JobRows {
    /// None where fewer than two jobs have rows. `rows`: those of each segment, end to end.
    pub(super) fn new(rows: &[Rows], device: Device) -> Result<Option<Rc<Self>>, ModelError> {
        let jobs: Vec<Rows> = rows.iter().copied().filter(|rows| rows.count > 0).collect();
        if jobs.len() < 2 {
            return Ok(None);
        }
        let ends = jobs.iter().map(|rows| rows.start + rows.count).collect();
        let job_of_row: Vec<i64> = jobs
            .iter()
            .zip(0..)
            .flat_map(|(rows, job)| std::iter::repeat_n(job, rows.count as usize))
            .collect();
        Ok(Some(Rc::new(Self {
            groups: RowGroups::new(ends, device)?,
            job_of_row: to_device_async(&Tensor::f_from_slice(&job_of_row)?, device)?,
            jobs,
        })))
    }
}

/// A module's place in the product, for all jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    /// Its columns of the product's output.
    column: i64,
    width: i64,
    /// Its columns of S.
    first: i64,
    rank: i64,
}

/// What S, and its gradient, are multiplied with.
#[derive(Debug)]
enum Scale {
    Same(f64),
    /// float32 `[jobs, ranks]`.
    Each(Tensor),
}

/// The patches of all jobs on one product.
#[derive(Debug)]
pub(super) struct Grouped {
    rows: Rc<JobRows>,
    /// `[jobs, ranks, in]`.
    a: Tensor,
    /// With B of each, `[jobs, width, rank]`.
    slots: Vec<(Slot, Tensor)>,
    /// Per patch and part: its first column of S.
    places: Vec<Vec<i64>>,
    scale: Scale,
}

impl Grouped {
    /// None where the patches are better left alone: fewer than two, with dropout, with sizes that are no multiples of
    /// eight, or with ranks so different that padding would be most of the work.
    pub(super) fn new(patches: &[Patch], rows: &Rc<JobRows>) -> Result<Option<Self>, ModelError> {
        if patches.len() < 2 || patches.iter().any(|patch| patch.mask.is_some()) {
            return Ok(None);
        }
        let slots = slots_of(patches);
        if !is_worthwhile(patches, &slots, rows) {
            return Ok(None);
        }
        let owner = |job: &Rows| patches.iter().find(|patch| patch.rows == *job);
        let owners: Vec<Option<&Patch>> = rows.jobs.iter().map(owner).collect();
        let places = patches.iter().map(|patch| places_of(patch, &slots)).collect();
        let a = stacked_a(&owners, &slots, &patches[0].a)?;
        let scale = scale_of(&owners, &slots, a.device())?;
        let slots = slots
            .into_iter()
            .map(|slot| Ok((slot, stacked_b(&owners, slot, &a)?)))
            .collect::<Result<_, ModelError>>()?;
        Ok(Some(Self {
            rows: Rc::clone(rows),
            a,
            slots,
            places,
            scale,
        }))
    }

    #[cfg(test)]
    pub(super) fn columns(&self) -> i64 {
        self.a.size()[1]
    }

    /// `S = s · X Aᵀ`, `x: [rows, in]`.
    pub(super) fn narrow(&self, x: &Tensor) -> Result<Narrow, ModelError> {
        let narrow = grouped_mm(x, &self.a.f_transpose(1, 2)?, &self.rows.groups)?;
        self.scaled(narrow)
    }

    /// `y += S Bᵀ`, each module in its columns. `y: [rows, out]`.
    pub(super) fn widen(&self, narrow: &Narrow, y: &Tensor) -> Result<(), ModelError> {
        for (slot, b) in &self.slots {
            let own = narrow.f_narrow(1, slot.first, slot.rank)?;
            let wide = grouped_mm(&own, &b.f_transpose(1, 2)?, &self.rows.groups)?;
            let _ = y.f_narrow(1, slot.column, slot.width)?.f_add_(&wide)?;
        }
        Ok(())
    }

    /// The gradient of `X Aᵀ`, `[rows, ranks]`; `dy: [rows, out]`.
    pub(super) fn slope(&self, dy: &Tensor) -> Result<Tensor, ModelError> {
        let slopes = self.slots.iter().map(|(slot, b)| {
            let own = dy.f_narrow(1, slot.column, slot.width)?;
            Ok(grouped_mm(&own, b, &self.rows.groups)?)
        });
        let mut slopes = slopes.collect::<Result<Vec<_>, ModelError>>()?;
        let whole = if slopes.len() == 1 {
            slopes.remove(0)
        } else {
            Tensor::f_cat(&slopes, 1)?
        };
        self.scaled(whole)
    }

    /// Adds `slope A` to `dx: [rows, in]`.
    pub(super) fn pass_down(&self, slope: &Tensor, dx: &Tensor) -> Result<(), ModelError> {
        let _ = dx
            .shallow_clone()
            .f_add_(&grouped_mm(slope, &self.a, &self.rows.groups)?)?;
        Ok(())
    }

    /// Of `whole: [rows, ranks]` what the patch of that number has itself: `[its rows, its ranks]`.
    pub(super) fn own(&self, patch: &Patch, number: usize, whole: &Tensor) -> Result<Tensor, ModelError> {
        let rows = patch.rows.of(whole)?;
        let places = &self.places[number];
        let mut parts = patch.parts.iter().zip(places);
        if parts.all(|(part, place)| place - places[0] == part.first) {
            return Ok(rows.f_narrow(1, places[0], patch.rank())?);
        }
        let parts = patch.parts.iter().zip(places);
        let columns = parts.map(|(part, &place)| rows.f_narrow(1, place, part.rank));
        Ok(Tensor::f_cat(&columns.collect::<Result<Vec<_>, _>>()?, 1)?)
    }

    fn scaled(&self, mut narrow: Tensor) -> Result<Tensor, ModelError> {
        match &self.scale {
            Scale::Same(1.0) => {}
            Scale::Same(scale) => drop(narrow.f_mul_scalar_(*scale)?),
            Scale::Each(scales) => {
                drop(narrow.f_mul_(&scales.f_index_select(0, &self.rows.job_of_row)?)?);
            }
        }
        Ok(narrow)
    }
}

/// One for each module that any job adapts, in the order of their columns.
fn slots_of(patches: &[Patch]) -> Vec<Slot> {
    let mut parts: Vec<&Part> = patches.iter().flat_map(|patch| &patch.parts).collect();
    parts.sort_by_key(|part| part.column);
    let mut first = 0;
    parts
        .chunk_by(|left, right| left.column == right.column)
        .map(|parts| {
            let rank = parts.iter().map(|part| padded(part.rank)).max().unwrap_or(0);
            let slot = Slot {
                column: parts[0].column,
                width: parts[0].width,
                first,
                rank,
            };
            first += rank;
            slot
        })
        .collect()
}

/// Of each of a patch's parts the first column of S.
fn places_of(patch: &Patch, slots: &[Slot]) -> Vec<i64> {
    let place = |part: &Part| {
        let slot = slots.iter().find(|slot| slot.column == part.column);
        slot.expect("invariant: every part has a slot").first
    };
    patch.parts.iter().map(place).collect()
}

fn padded(rank: i64) -> i64 {
    (rank + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT
}

fn is_worthwhile(patches: &[Patch], slots: &[Slot], rows: &JobRows) -> bool {
    let is_aligned = |slot: &Slot| slot.column % ALIGNMENT == 0 && slot.width % ALIGNMENT == 0;
    let together = rows.groups.rows() * slots.iter().map(|slot| slot.rank).sum::<i64>();
    let alone: i64 = patches
        .iter()
        .map(|patch| patch.rows.count * patch.parts.iter().map(|part| padded(part.rank)).sum::<i64>())
        .sum();
    let inputs = patches[0].a.size()[1];
    inputs % ALIGNMENT == 0 && slots.iter().all(is_aligned) && together <= MOST_PADDING * alone
}

/// A job's part in a module.
fn part_in(owner: Option<&Patch>, slot: Slot) -> Option<(&Patch, &Part)> {
    let patch = owner?;
    let part = patch.parts.iter().find(|part| part.column == slot.column)?;
    Some((patch, part))
}

/// `[jobs, ranks, in]`; `like: [_, in]`.
fn stacked_a(owners: &[Option<&Patch>], slots: &[Slot], like: &Tensor) -> Result<Tensor, ModelError> {
    let inputs = like.size()[1];
    let ranks: i64 = slots.iter().map(|slot| slot.rank).sum();
    let zeros = Tensor::f_zeros([ranks, inputs], (like.f_kind()?, like.device()))?;
    let mut pieces = Vec::new();
    for &owner in owners {
        for &slot in slots {
            let part = part_in(owner, slot);
            if let Some((patch, part)) = part {
                pieces.push(patch.a.f_narrow(0, part.first, part.rank)?);
            }
            pieces.push(zeros.f_narrow(0, 0, slot.rank - part.map_or(0, |(_, part)| part.rank))?);
        }
    }
    Ok(Tensor::f_cat(&pieces, 0)?.f_view([owners.len() as i64, ranks, inputs])?)
}

/// `[jobs, width, rank]`.
fn stacked_b(owners: &[Option<&Patch>], slot: Slot, like: &Tensor) -> Result<Tensor, ModelError> {
    let zeros = Tensor::f_zeros([slot.width, slot.rank], (like.f_kind()?, like.device()))?;
    let mut pieces = Vec::new();
    for &owner in owners {
        let part = part_in(owner, slot);
        if let Some((_, part)) = part {
            pieces.push(part.b.shallow_clone());
        }
        pieces.push(zeros.f_narrow(1, 0, slot.rank - part.map_or(0, |(_, part)| part.rank))?);
    }
    let side_by_side = Tensor::f_cat(&pieces, 1)?.f_view([slot.width, owners.len() as i64, slot.rank])?;
    Ok(side_by_side.f_transpose(0, 1)?.f_contiguous()?)
}

fn scale_of(owners: &[Option<&Patch>], slots: &[Slot], device: Device) -> Result<Scale, ModelError> {
    let parts = owners.iter().flatten().flat_map(|patch| &patch.parts);
    let mut scales = parts.map(|part| part.scale);
    let first = scales.next().unwrap_or(1.0);
    if scales.all(|scale| scale == first) {
        return Ok(Scale::Same(first));
    }
    let columns = owners.iter().flat_map(|&owner| {
        slots.iter().flat_map(move |&slot| {
            let scale = part_in(owner, slot).map_or(1.0, |(_, part)| part.scale);
            std::iter::repeat_n(scale as f32, slot.rank as usize)
        })
    });
    let all = Tensor::f_from_slice(&columns.collect::<Vec<f32>>())?;
    let by_job = all.f_view([owners.len() as i64, -1])?.f_to_kind(Kind::Float)?;
    Ok(Scale::Each(to_device_async(&by_job, device)?))
}
