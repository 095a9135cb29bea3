//! Products by oneDNN against LibTorch's own.
#![allow(clippy::unwrap_used)]

use tch::{Device, Kind, Tensor};
use tunesmith_torch_ext::kernels::linear;

fn random(seed: i64, size: &[i64], kind: Kind) -> Tensor {
    tch::manual_seed(seed);
    Tensor::randn(size, (Kind::Float, Device::Cpu)).to_kind(kind)
}

/// Largest difference from the product in float64, relative to its largest value.
fn error(found: &Tensor, x: &Tensor, weight: &Tensor) -> f64 {
    let expected = x
        .to_kind(Kind::Double)
        .matmul(&weight.to_kind(Kind::Double).transpose(0, 1));
    assert_eq!(found.size(), expected.size());
    let largest = expected.abs().max().double_value(&[]);
    (found.to_kind(Kind::Double) - expected)
        .abs()
        .max()
        .double_value(&[])
        / largest
}

#[test]
fn both_layouts_of_the_weight_and_rows_with_gaps() {
    for (kind, tolerance) in [(Kind::Float, 1e-6), (Kind::BFloat16, 8e-3)] {
        for (rows, inner, columns) in [(1, 1, 1), (1, 40, 7), (5, 64, 96), (130, 48, 33), (64, 7, 256)] {
            let x = random(1, &[rows, inner], kind);
            let weight = random(2, &[columns, inner], kind);
            let transposed = weight.transpose(0, 1).contiguous().transpose(0, 1);
            let wide = random(3, &[rows, inner + 9], kind).narrow(1, 4, inner);
            for (x, weight) in [
                (&x, &weight),
                (&x, &transposed),
                (&wide, &weight),
                (&wide, &transposed),
            ] {
                let found = linear(x, weight).unwrap();
                assert_eq!(found.kind(), kind);
                let error = error(&found, x, weight);
                assert!(
                    error < tolerance,
                    "{kind:?} [{rows}, {inner}] to {columns}: {error}"
                );
                assert!(linear(x, weight).unwrap().equal(&found), "twice the same");
            }
        }
    }
}

#[test]
fn the_number_of_rows_does_not_change_a_row() {
    let (x, weight) = (
        random(1, &[96, 128], Kind::Float),
        random(2, &[160, 128], Kind::Float),
    );
    let all = linear(&x, &weight).unwrap();
    let part = linear(&x.narrow(0, 0, 48), &weight).unwrap();
    let difference = (all.narrow(0, 0, 48) - part).abs().max().double_value(&[]);
    assert!(difference < 1e-4, "{difference}");
}

#[test]
fn empty_and_unfit_matrices() {
    let weight = random(1, &[6, 4], Kind::Float);
    let none = linear(&Tensor::zeros([0, 4], (Kind::Float, Device::Cpu)), &weight).unwrap();
    assert_eq!(none.size(), [0, 6]);
    assert!(linear(&random(2, &[3, 5], Kind::Float), &weight).is_err());
    assert!(linear(&random(2, &[3, 4], Kind::Double), &weight).is_err());
    let double = random(1, &[6, 4], Kind::Double);
    assert_eq!(
        linear(&random(2, &[3, 4], Kind::Double), &double).unwrap().kind(),
        Kind::Double
    );
}

#[test]
fn a_result_carries_no_gradient() {
    let x = random(1, &[3, 4], Kind::Float).set_requires_grad(true);
    assert!(
        !linear(&x, &random(2, &[6, 4], Kind::Float))
            .unwrap()
            .requires_grad()
    );
}
