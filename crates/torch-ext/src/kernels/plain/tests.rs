//! The plain form of each kernel against the kernel of this processor.

use tch::{Device, Kind, Tensor};

use super::*;
use crate::kernels::{self, AttentionShape, RotaryTable};

const KINDS: [(Kind, f64); 2] = [(Kind::Float, 3e-6), (Kind::BFloat16, 1.6e-2)];

fn random(seed: i64, size: &[i64], kind: Kind) -> Tensor {
    tch::manual_seed(seed);
    Tensor::randn(size, (Kind::Float, Device::Cpu)).to_kind(kind)
}

#[track_caller]
fn assert_close(found: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!((found.size(), found.kind()), (expected.size(), expected.kind()));
    let (found, expected) = (found.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    let largest = expected.abs().max().double_value(&[]).max(1e-9);
    let difference = (found - expected).abs().max().double_value(&[]) / largest;
    assert!(difference < tolerance, "{difference}");
}

#[test]
fn norms() {
    for (kind, tolerance) in KINDS {
        for (heads, columns) in [(1, 72), (3, 16)] {
            let (x, dy) = (
                random(1, &[9, heads * columns], kind),
                random(2, &[9, heads * columns], kind),
            );
            let weight = random(3, &[columns], Kind::Float);
            let expected = kernels::rms_norm(&x, &weight, 1e-6, heads).unwrap();
            assert_close(&rms_norm(&x, &weight, 1e-6, heads).unwrap(), &expected, tolerance);
            let (found, expected) = (dy.copy(), dy.copy());
            rms_norm_backward((&x, &weight, 1e-6, heads), &found, None, &found).unwrap();
            kernels::rms_norm_backward(&x, &weight, 1e-6, heads, &expected).unwrap();
            assert_close(&found, &expected, tolerance);
            if heads == 1 {
                let (found, expected) = (x.copy(), x.copy());
                rms_norm_backward((&x, &weight, 1e-6, 1), &dy, Some(&found), &found).unwrap();
                kernels::rms_norm_backward_add(&x, &weight, 1e-6, &dy, &expected).unwrap();
                assert_close(&found, &expected, tolerance);
            }
        }
    }
}

#[test]
fn rotations() {
    let angles = random(1, &[20, 4], Kind::Float);
    let table = RotaryTable::new(angles.cos(), angles.sin()).unwrap();
    let positions = Tensor::from_slice(&[0i64, 1, 2, 19, 3]);
    for (kind, tolerance) in KINDS {
        for (sign, back) in [(1.0, false), (-1.0, true)] {
            let found = random(2, &[5, 3 * 12 + 5], kind);
            let expected = found.copy();
            rotate(&found, (3, 12), (&angles.cos(), &angles.sin()), &positions, sign).unwrap();
            kernels::rotate(&expected, 3, 12, &table, &positions, 19, back).unwrap();
            assert_close(&found, &expected, tolerance);
        }
    }
}

#[test]
fn gates() {
    for (kind, tolerance) in KINDS {
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let (x, dp) = (random(1, &[7, 66], kind) * 3.0, random(2, &[7, 33], kind));
            let expected = kernels::gate(&x, activation).unwrap();
            assert_close(&gate(&x, activation).unwrap(), &expected, tolerance);
            let (found, product) = (x.copy(), dp.copy());
            gate_backward(&found, &product, activation).unwrap();
            let (expected, expected_product) = (x.copy(), dp.copy());
            kernels::gate_backward(&expected, &expected_product, activation).unwrap();
            assert_close(&found, &expected, tolerance);
            assert_close(&product, &expected_product, tolerance);
        }
    }
}

#[test]
fn losses() {
    let targets = Tensor::from_slice(&[0i64, 100, 32, 7]);
    let weights = Tensor::from_slice(&[1f32, 0.5, 0.25, 1.0]);
    for (kind, tolerance) in KINDS {
        for cap in [None, Some(5.0)] {
            let found = random(1, &[4, 101], kind) * 4.0;
            // The first target has the greatest score.
            let _ = found.get(0).get(0).fill_(30.0);
            let expected = found.copy();
            let rows = cross_entropy(&found, &targets, &weights, Some(0.125), cap).unwrap();
            let expected_rows =
                kernels::cross_entropy(&expected, &targets, &weights, Some(0.125), cap).unwrap();
            assert_close(&found, &expected, tolerance);
            assert_close(&rows.losses, &expected_rows.losses, 3e-6);
            assert!(rows.hits.equal(&expected_rows.hits));
            assert_eq!(rows.hits.int64_value(&[0]), 1);
        }
    }
}

#[test]
fn masks_bit_for_bit() {
    for stream in [7, u64::MAX, 0x9e37_79b9_7f4a_7c15] {
        let mask = DropoutMask {
            stream,
            probability: 0.3,
        };
        let x = random(1, &[37, 101], Kind::Float);
        let found = x.zeros_like();
        dropout(&x, &found, mask, false).unwrap();
        assert!(found.equal(&kernels::dropout(&x, mask).unwrap()));
        let (sum, expected) = (x.copy(), x.copy());
        dropout(&x, &sum, mask, true).unwrap();
        kernels::dropout_add(&x, &expected, mask).unwrap();
        assert_close(&sum, &expected, 1e-6);
    }
}

#[test]
fn updates() {
    let update = AdamWStep {
        gradient_scale: 0.5,
        learning_rate: 1e-2,
        weight_decay: 0.1,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        step: 3,
    };
    let start = [1, 2, 3, 4].map(|seed| random(seed, &[5000], Kind::Float).abs());
    let (found, expected) = (
        start.each_ref().map(Tensor::copy),
        start.each_ref().map(Tensor::copy),
    );
    adamw(found.each_ref(), update).unwrap();
    let [parameters, gradients, first, second] = &expected;
    kernels::adamw(parameters, gradients, first, second, update).unwrap();
    for (found, expected) in found.iter().zip(&expected) {
        assert_close(found, expected, 1e-6);
    }
}

#[test]
fn attention_and_its_gradient() {
    let ends = [1i64, 3, 60, 193];
    let plain = AttentionShape {
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        scale: 0.25,
        window: None,
        softcap: None,
    };
    let windowed = AttentionShape {
        kv_heads: 1,
        window: Some(17),
        ..plain
    };
    let capped = AttentionShape {
        window: Some(100),
        softcap: Some(2.0),
        ..plain
    };
    for shape in [plain, windowed, capped] {
        for (kind, tolerance) in KINDS {
            let qkv = random(1, &[193, (shape.heads + 2 * shape.kv_heads) * 16], kind);
            let gradient = random(2, &[193, 64], kind);
            let expected = kernels::attend(&qkv, &ends, shape).unwrap();
            let (out, lse) = attend(&qkv, &ends, shape).unwrap();
            assert_close(&out, &expected.out, tolerance);
            let found = attend_backward(&qkv, &ends, shape, (&out, &lse), &gradient).unwrap();
            let slope = kernels::attend_backward(&qkv, &ends, shape, &expected, &gradient).unwrap();
            assert_close(&found, &slope, 2.0 * tolerance);
        }
    }
}
