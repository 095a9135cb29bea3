//! Products of groups of rows, each with a matrix of its own.

use tch::{Kind, Tensor};

use super::checks::{KernelError, equal};

/// Row group `g` of `x: [rows, inner]` times `weights[g]` of `[groups, inner, columns]`; the result is `[rows, columns]`.
/// `ends`: the row behind each group, all groups with at least one row.
///
/// On CUDA with bfloat16 one launch for all groups (the sizes of a row must then be multiples of eight); elsewhere one
/// product for each group.
///
/// # Errors
/// The sizes do not fit, a group is empty, or there is no memory for the result.
pub fn grouped_mm(x: &Tensor, weights: &Tensor, ends: &[i64]) -> Result<Tensor, KernelError> {
    const NAME: &str = "grouped_mm";
    let (size, sizes) = (x.size(), weights.size());
    equal(NAME, "dimensions of x", size.len() as i64, 2)?;
    equal(NAME, "dimensions of weights", sizes.len() as i64, 3)?;
    equal(NAME, "inner size of weights", sizes[1], size[1])?;
    equal(NAME, "groups of weights", sizes[0], ends.len() as i64)?;
    let rising =
        ends.first().is_some_and(|&first| first > 0) && ends.is_sorted_by(|left, right| left < right);
    equal(NAME, "groups' ends rise", i64::from(rising), 1)?;
    equal(
        NAME,
        "the last group's end",
        ends.last().copied().unwrap_or(0),
        size[0],
    )?;
    let fast =
        x.device().is_cuda() && x.f_kind()? == Kind::BFloat16 && sizes[1] % 8 == 0 && sizes[2] % 8 == 0;
    if fast {
        let ends: Vec<i32> = ends
            .iter()
            .map(|&end| i32::try_from(end).unwrap_or(i32::MAX))
            .collect();
        let ends = crate::gpu::to_device_async(&Tensor::f_from_slice(&ends)?, x.device())?;
        return Ok(x.f_internal_grouped_mm(weights, Some(&ends), None, None)?);
    }
    let result = Tensor::f_empty([size[0], sizes[2]], (x.f_kind()?, x.device()))?;
    let starts = std::iter::once(0).chain(ends.iter().copied());
    for (group, (start, &end)) in starts.zip(ends).enumerate() {
        let rows = |whole: &Tensor| whole.f_narrow(0, start, end - start);
        let _ = rows(x)?.f_mm_out(&rows(&result)?, &weights.f_select(0, group as i64)?)?;
    }
    Ok(result)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn each_group_has_its_own_matrix() {
        tch::manual_seed(1);
        let options = (Kind::Float, Device::Cpu);
        let (x, weights) = (Tensor::randn([9, 4], options), Tensor::randn([3, 4, 5], options));
        let found = grouped_mm(&x, &weights, &[2, 3, 9]).unwrap();
        for (group, start, rows) in [(0, 0, 2), (1, 2, 1), (2, 3, 6)] {
            let expected = x.narrow(0, start, rows).matmul(&weights.get(group));
            let difference = (found.narrow(0, start, rows) - expected).abs().max();
            assert!(difference.double_value(&[]) < 1e-6);
        }
        assert!(grouped_mm(&x, &weights, &[2, 2, 9]).is_err(), "an empty group");
        assert!(
            grouped_mm(&x, &weights, &[2, 3, 8]).is_err(),
            "rows without a group"
        );
        assert!(grouped_mm(&x, &weights, &[3, 9]).is_err(), "a group too few");
    }
}
