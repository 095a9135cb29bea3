//! Each kernel on a GPU against the kernel on the CPU: `make test-gpu`.
#![allow(clippy::unwrap_used)]

use tch::{Device, Kind, Tensor};
use tunesmith_torch_ext::gpu::prepare_kernels;
use tunesmith_torch_ext::kernels::{
    Activation, AdamWStep, AttentionShape, DropoutMask, RotaryTable, RowGroups, adamw, attend,
    attend_backward, cross_entropy, dropout, dropout_add, gate, gate_backward, grouped_mm, linear, rms_norm,
    rms_norm_backward, rms_norm_backward_add, rotate,
};

const GPU: Device = Device::Cuda(0);
/// Tolerances relative to the largest value.
const KINDS: [(Kind, f64); 2] = [(Kind::Float, 1e-5), (Kind::BFloat16, 1.6e-2)];

fn set_up() {
    let _ = tunesmith_torch_ext::load_cuda();
    prepare_kernels(GPU).unwrap();
}

fn random(seed: i64, size: &[i64], kind: Kind) -> Tensor {
    tch::manual_seed(seed);
    Tensor::randn(size, (Kind::Float, Device::Cpu)).to_kind(kind)
}

#[track_caller]
fn assert_close(found: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(found.device(), GPU);
    assert_eq!((found.size(), found.kind()), (expected.size(), expected.kind()));
    let (found, expected) = (
        found.to_device(Device::Cpu).to_kind(Kind::Double),
        expected.to_kind(Kind::Double),
    );
    let largest = expected.abs().max().double_value(&[]).max(1e-9);
    let difference = (found - expected).abs().max().double_value(&[]) / largest;
    assert!(difference < tolerance, "{difference}");
}

#[test]
#[ignore = "needs a GPU"]
fn norms() {
    set_up();
    for (kind, tolerance) in KINDS {
        for (heads, columns) in [(1, 70), (1, 4096), (3, 128), (5, 16)] {
            let size = [9, heads * columns];
            let (x, dy, sum) = (
                random(1, &size, kind),
                random(2, &size, kind),
                random(3, &size, kind),
            );
            let weight = random(4, &[columns], Kind::Float);
            let (gx, gw) = (x.to_device(GPU), weight.to_device(GPU));
            let expected = rms_norm(&x, &weight, 1e-6, heads).unwrap();
            assert_close(&rms_norm(&gx, &gw, 1e-6, heads).unwrap(), &expected, tolerance);
            let (gdy, gsum) = (dy.to_device(GPU), sum.to_device(GPU));
            if heads == 1 {
                rms_norm_backward_add(&gx, &gw, 1e-6, &gdy, &gsum).unwrap();
                rms_norm_backward_add(&x, &weight, 1e-6, &dy, &sum).unwrap();
                assert_close(&gsum, &sum, tolerance);
            }
            rms_norm_backward(&gx, &gw, 1e-6, heads, &gdy).unwrap();
            rms_norm_backward(&x, &weight, 1e-6, heads, &dy).unwrap();
            assert_close(&gdy, &dy, tolerance);
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn rotations() {
    set_up();
    let angles = random(1, &[20, 4], Kind::Float);
    let table = RotaryTable::new(angles.cos(), angles.sin()).unwrap();
    let on_gpu = RotaryTable::new(angles.cos().to_device(GPU), angles.sin().to_device(GPU)).unwrap();
    let positions = Tensor::from_slice(&[0i64, 1, 2, 19, 3]);
    for (kind, tolerance) in KINDS {
        for back in [false, true] {
            let x = random(2, &[5, 3 * 12 + 5], kind);
            let gx = x.to_device(GPU);
            rotate(&gx, 3, 12, &on_gpu, &positions.to_device(GPU), 19, back).unwrap();
            rotate(&x, 3, 12, &table, &positions, 19, back).unwrap();
            assert_close(&gx, &x, tolerance);
        }
    }
    assert!(
        rotate(
            &random(2, &[5, 36], Kind::Float).to_device(GPU),
            3,
            12,
            &table,
            &positions.to_device(GPU),
            19,
            false
        )
        .is_err()
    );
}

#[test]
#[ignore = "needs a GPU"]
fn gates() {
    set_up();
    for (kind, tolerance) in KINDS {
        for activation in [Activation::Silu, Activation::GeluTanh] {
            for inner in [33, 4096] {
                let (x, product) = (random(1, &[7, 2 * inner], kind), random(2, &[7, inner], kind));
                let (gx, gproduct) = (x.to_device(GPU), product.to_device(GPU));
                let expected = gate(&x, activation).unwrap();
                assert_close(&gate(&gx, activation).unwrap(), &expected, tolerance);
                gate_backward(&gx, &gproduct, activation).unwrap();
                gate_backward(&x, &product, activation).unwrap();
                assert_close(&gx, &x, tolerance);
                assert_close(&gproduct, &product, tolerance);
            }
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn losses() {
    set_up();
    let targets = Tensor::from_slice(&[0i64, 100, 32, 7]);
    let weights = Tensor::from_slice(&[1f32, 0.5, 0.25, 1.0]);
    let (gpu_targets, gpu_weights) = (targets.to_device(GPU), weights.to_device(GPU));
    for (kind, tolerance) in KINDS {
        for (cap, vocabulary) in [(None, 101), (None, 32_000), (Some(5.0), 101)] {
            let x = random(1, &[4, vocabulary], kind) * 4.0;
            let _ = x.get(0).get(0).fill_(30.0);
            let gx = x.to_device(GPU);
            let found = cross_entropy(&gx, &gpu_targets, &gpu_weights, Some(0.125), cap).unwrap();
            let expected = cross_entropy(&x, &targets, &weights, Some(0.125), cap).unwrap();
            assert_close(&found.losses, &expected.losses, 1e-5);
            assert!(found.hits.to_device(Device::Cpu).equal(&expected.hits));
            assert_close(&gx, &x, tolerance);
        }
    }
    for bad in [f32::NAN, f32::INFINITY] {
        let scores = Tensor::from_slice(&[0f32, 1.0, bad, 2.0])
            .reshape([1, 4])
            .to_device(GPU);
        let found = cross_entropy(
            &scores,
            &gpu_targets.narrow(0, 0, 1),
            &gpu_weights.narrow(0, 0, 1),
            None,
            None,
        );
        assert!(!found.unwrap().losses.double_value(&[0]).is_finite(), "{bad}");
    }
}

#[test]
#[ignore = "needs a GPU"]
fn masks_bit_for_bit() {
    set_up();
    for stream in [7, u64::MAX] {
        let mask = DropoutMask {
            stream,
            probability: 0.3,
        };
        let x = random(1, &[37, 1701], Kind::Float);
        let gx = x.to_device(GPU);
        let found = dropout(&gx, mask).unwrap().to_device(Device::Cpu);
        assert!(found.equal(&dropout(&x, mask).unwrap()));
        dropout_add(&gx, &gx, mask).unwrap();
        dropout_add(&x, &x, mask).unwrap();
        assert_close(&gx, &x, 1e-6);
    }
}

#[test]
#[ignore = "needs a GPU"]
fn updates() {
    set_up();
    let update = AdamWStep {
        gradient_scale: 0.5,
        learning_rate: 1e-2,
        weight_decay: 0.1,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        step: 3,
    };
    let host = [1, 2, 3, 4].map(|seed| random(seed, &[5001], Kind::Float).abs());
    let device = host.each_ref().map(|tensor| tensor.to_device(GPU));
    for [parameters, gradients, first, second] in [&host, &device] {
        adamw(parameters, gradients, first, second, update).unwrap();
    }
    for (found, expected) in device.iter().zip(&host) {
        assert_close(found, expected, 1e-5);
    }
}

#[test]
#[ignore = "needs a GPU"]
fn attention_by_flash_and_by_plain_operations() {
    set_up();
    let ends = [1i64, 3, 60, 493];
    let plain = AttentionShape {
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        scale: 0.125,
        window: None,
        softcap: None,
    };
    let shapes = [
        plain,
        AttentionShape {
            kv_heads: 1,
            window: Some(17),
            ..plain
        },
        AttentionShape {
            head_dim: 256,
            kv_heads: 4,
            ..plain
        },
        AttentionShape {
            head_dim: 10,
            ..plain
        },
        AttentionShape {
            softcap: Some(2.0),
            ..plain
        },
    ];
    for shape in shapes {
        for (kind, tolerance) in KINDS {
            let columns = (shape.heads + 2 * shape.kv_heads) * shape.head_dim;
            let qkv = random(1, &[493, columns], kind);
            let gradient = random(2, &[493, shape.heads * shape.head_dim], kind);
            let (gpu_qkv, gpu_gradient) = (qkv.to_device(GPU), gradient.to_device(GPU));
            let expected = attend(&qkv, &ends, shape).unwrap();
            let found = attend(&gpu_qkv, &ends, shape).unwrap();
            assert_close(&found.out, &expected.out, tolerance);
            let slope = attend_backward(&qkv, &ends, shape, &expected, &gradient).unwrap();
            let found = attend_backward(&gpu_qkv, &ends, shape, &found, &gpu_gradient).unwrap();
            assert_close(&found, &slope, 2.0 * tolerance);
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn products() {
    set_up();
    for (kind, tolerance) in KINDS {
        let (x, weight) = (random(1, &[40, 64], kind), random(2, &[96, 64], kind));
        let found = linear(&x.to_device(GPU), &weight.to_device(GPU)).unwrap();
        assert_close(&found, &linear(&x, &weight).unwrap(), tolerance);
        let [here, there] = [Device::Cpu, GPU].map(|device| RowGroups::new(vec![5, 6, 40], device).unwrap());
        let weights = [
            random(3, &[3, 64, 16], kind),
            random(4, &[3, 16, 64], kind).transpose(1, 2),
        ];
        let wide = random(5, &[40, 96], kind);
        let (x, gpu_x) = (wide.narrow(1, 8, 64), wide.to_device(GPU).narrow(1, 8, 64));
        for weights in &weights {
            let found = grouped_mm(&gpu_x, &weights.to_device(GPU), &there).unwrap();
            assert_close(&found, &grouped_mm(&x, weights, &here).unwrap(), tolerance);
        }
    }
}
