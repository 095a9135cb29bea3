//! Products of groups of rows, each with a matrix of its own.

use tch::{Device, Kind, Tensor};

use super::checks::{KernelError, equal};

/// The rows of a matrix cut into groups, with what the device must know of it.
#[derive(Debug)]
pub struct RowGroups {
    /// The row behind each group.
    ends: Vec<i64>,
    /// int32 `[groups]`: the same on the device.
    on_device: Tensor,
}

impl RowGroups {
    /// Groups that end before the rows `ends`, for matrices on `device`.
    ///
    /// # Errors
    /// There are no groups, one is empty, or there is no memory on the device.
    pub fn new(ends: Vec<i64>, device: Device) -> Result<Self, KernelError> {
        const NAME: &str = "row groups";
        let rises =
            ends.first().is_some_and(|&first| first > 0) && ends.is_sorted_by(|left, right| left < right);
        equal(NAME, "groups' ends rise", i64::from(rises), 1)?;
        let small: Vec<i32> = ends
            .iter()
            .map(|&end| i32::try_from(end).unwrap_or(i32::MAX))
            .collect();
        let on_device = crate::gpu::to_device_async(&Tensor::f_from_slice(&small)?, device)?;
        Ok(Self { ends, on_device })
    }

    /// Rows of all groups.
    #[must_use]
    pub fn rows(&self) -> i64 {
        self.ends.last().copied().unwrap_or(0)
    }
}

/// Whether [`grouped_mm`] is one launch on this device for this kind, where sizes and strides allow it: LibTorch has such
/// a kernel for bfloat16 on Hopper and on Blackwell's data centre parts, and on other devices a loop that waits for each
/// group's end.
#[must_use]
pub fn grouped_mm_is_one_launch(device: Device, kind: Kind) -> bool {
    kind == Kind::BFloat16
        && device.is_cuda()
        && crate::gpu::compute_capability(device)
            .is_ok_and(|capability| matches!(capability, (9, 0) | (10, 0)))
}

/// Row group `g` of `x: [rows, inner]` times `weights[g]` of `[groups, inner, columns]`; the result is `[rows, columns]`.
///
/// By LibTorch's grouped product where [`grouped_mm_is_one_launch`], `inner` and `columns` are multiples of eight and rows
/// begin at multiples of 16 bytes (on a CPU for bfloat16 too, so that tests reach it); elsewhere one product for each group.
///
/// # Errors
/// The sizes do not fit, or there is no memory for the result.
pub fn grouped_mm(x: &Tensor, weights: &Tensor, groups: &RowGroups) -> Result<Tensor, KernelError> {
    const NAME: &str = "grouped_mm";
    let (size, sizes) = (x.size(), weights.size());
    equal(NAME, "dimensions of x", size.len() as i64, 2)?;
    equal(NAME, "dimensions of weights", sizes.len() as i64, 3)?;
    equal(NAME, "inner size of weights", sizes[1], size[1])?;
    equal(NAME, "groups of weights", sizes[0], groups.ends.len() as i64)?;
    equal(NAME, "rows of the groups", groups.rows(), size[0])?;
    if is_for_libtorch(x, &sizes)? {
        return Ok(x.f_internal_grouped_mm(weights, Some(&groups.on_device), None, None)?);
    }
    let result = Tensor::f_empty([size[0], sizes[2]], (x.f_kind()?, x.device()))?;
    let starts = std::iter::once(0).chain(groups.ends.iter().copied());
    for (group, (start, &end)) in starts.zip(&groups.ends).enumerate() {
        let rows = |whole: &Tensor| whole.f_narrow(0, start, end - start);
        let _ = rows(x)?.f_mm_out(&rows(&result)?, &weights.f_select(0, group as i64)?)?;
    }
    Ok(result)
}

fn is_for_libtorch(x: &Tensor, weights: &[i64]) -> Result<bool, KernelError> {
    let kind = x.f_kind()?;
    let stride = x.stride();
    let is_aligned = stride[1] == 1 && stride[0] % 8 == 0 && (x.data_ptr() as usize).is_multiple_of(16);
    let fits = is_aligned && weights[1] % 8 == 0 && weights[2] % 8 == 0;
    let on_cpu = x.device() == Device::Cpu && kind == Kind::BFloat16;
    Ok(fits && (on_cpu || grouped_mm_is_one_launch(x.device(), kind)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn groups(ends: &[i64]) -> Result<RowGroups, KernelError> {
        RowGroups::new(ends.to_vec(), Device::Cpu)
    }

    /// In float32 by a loop, in bfloat16 by LibTorch's function; `x` and the matrices are parts of wider ones.
    #[test]
    fn each_group_has_its_own_matrix() {
        tch::manual_seed(1);
        for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 0.05)] {
            let random = |size: &[i64]| Tensor::randn(size, (Kind::Float, Device::Cpu)).to_kind(kind);
            let (x, weights) = (random(&[9, 48]).narrow(1, 8, 16), random(&[3, 24, 16]));
            for weights in [weights.transpose(1, 2), random(&[3, 16, 40])] {
                assert_eq!(
                    is_for_libtorch(&x, &weights.size()).unwrap(),
                    kind == Kind::BFloat16
                );
                let found = grouped_mm(&x, &weights, &groups(&[2, 3, 9]).unwrap()).unwrap();
                for (group, start, rows) in [(0, 0, 2), (1, 2, 1), (2, 3, 6)] {
                    let expected = x.narrow(0, start, rows).matmul(&weights.get(group));
                    let difference = (found.narrow(0, start, rows) - expected).abs().max();
                    assert!(difference.double_value(&[]) < tolerance, "{kind:?}");
                }
            }
        }
    }

    #[test]
    fn groups_are_not_empty_and_cover_the_rows() {
        let options = (Kind::Float, Device::Cpu);
        let (x, weights) = (Tensor::ones([9, 4], options), Tensor::ones([3, 4, 5], options));
        assert!(groups(&[]).is_err(), "no groups");
        assert!(groups(&[2, 2, 9]).is_err(), "an empty group");
        let refuses = |ends: &[i64]| grouped_mm(&x, &weights, &groups(ends).unwrap()).is_err();
        assert!(refuses(&[2, 3, 8]), "rows without a group");
        assert!(refuses(&[3, 9]), "a group too few");
    }
}
