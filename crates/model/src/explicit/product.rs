//! What the adapters of a pass add to one product of a block: job by job, or for all jobs at once where that pays.

use std::rc::Rc;

use tch::Tensor;

use super::grouped::{Grouped, JobRows};
use super::patch::{Narrow, Patch};
use crate::error::ModelError;

/// The patches of one product.
#[derive(Debug, Default)]
pub(super) struct ProductPatches {
    each: Vec<Patch>,
    grouped: Option<Grouped>,
}

impl ProductPatches {
    pub(super) fn push(&mut self, patches: Vec<Patch>) {
        self.each.extend(patches);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.each.is_empty()
    }

    /// From now on all jobs together, where their patches allow it. `rows`: those of the product's input.
    pub(super) fn group(&mut self, rows: &Rc<JobRows>) -> Result<(), ModelError> {
        self.grouped = Grouped::new(&self.each, rows)?;
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn is_grouped(&self) -> bool {
        self.grouped.is_some()
    }

    /// Columns of S that all jobs share.
    #[cfg(test)]
    pub(super) fn columns(&self) -> i64 {
        self.grouped.as_ref().map_or(0, Grouped::columns)
    }

    /// Adds to `y: [rows, out]` in place; `x: [rows, in]`. What the backward pass needs: S of each job, or one of all.
    pub(super) fn forward(&self, x: &Tensor, y: &Tensor) -> Result<Vec<Narrow>, ModelError> {
        let Some(grouped) = &self.grouped else {
            return self.each.iter().map(|patch| patch.forward(x, y)).collect();
        };
        let narrow = grouped.narrow(x)?;
        grouped.widen(&narrow, y)?;
        Ok(vec![narrow])
    }

    /// What [`Self::forward`] gives, without adding anything.
    pub(super) fn narrow(&self, x: &Tensor) -> Result<Vec<Narrow>, ModelError> {
        match &self.grouped {
            Some(grouped) => Ok(vec![grouped.narrow(x)?]),
            None => self.each.iter().map(|patch| patch.narrow(x)).collect(),
        }
    }

    /// Adds to the gradients of A and B, and to `dx: [rows, in]` where it is wanted.
    pub(super) fn backward(
        &self,
        x: &Tensor,
        narrow: &[Narrow],
        dy: &Tensor,
        dx: Option<&Tensor>,
    ) -> Result<(), ModelError> {
        let slopes = self.slopes(narrow, dy)?;
        self.learn(x, &slopes)?;
        dx.map_or(Ok(()), |dx| self.pass_down(&slopes, dx))
    }

    /// Adds to the gradients of B; returns the gradients of `X Aᵀ`, in the form of [`Self::forward`]'s. `dy: [rows, out]`.
    pub(super) fn slopes(&self, narrow: &[Narrow], dy: &Tensor) -> Result<Vec<Tensor>, ModelError> {
        let Some(grouped) = &self.grouped else {
            let pairs = self.each.iter().zip(narrow);
            return pairs.map(|(patch, narrow)| patch.slope(narrow, dy)).collect();
        };
        for (number, patch) in self.each.iter().enumerate() {
            patch.learn_b(&grouped.own(patch, number, &narrow[0])?, &patch.rows.of(dy)?)?;
        }
        Ok(vec![grouped.slope(dy)?])
    }

    /// Adds to the gradients of A. `x: [rows, in]`.
    pub(super) fn learn(&self, x: &Tensor, slopes: &[Tensor]) -> Result<(), ModelError> {
        for (number, patch) in self.each.iter().enumerate() {
            match &self.grouped {
                Some(grouped) => patch.learn(x, &grouped.own(patch, number, &slopes[0])?)?,
                None => patch.learn(x, &slopes[number])?,
            }
        }
        Ok(())
    }

    /// Adds what reaches the input to `dx: [rows, in]`.
    pub(super) fn pass_down(&self, slopes: &[Tensor], dx: &Tensor) -> Result<(), ModelError> {
        match &self.grouped {
            Some(grouped) => grouped.pass_down(&slopes[0], dx),
            None => self
                .each
                .iter()
                .zip(slopes)
                .try_for_each(|(patch, slope)| patch.pass_down(slope, dx)),
        }
    }
}
