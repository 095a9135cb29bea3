//! Each kernel of cuda/ against the processor's: by the emulator on every machine, and on a GPU by `make test-gpu`.
#![allow(clippy::unwrap_used)]

mod graphs;
mod rows;
mod side;

use side::{ATTENTION, GPU, KINDS, Side, assert_close, on_both, random};
use tch::{Device, Kind, Tensor};
use tunesmith_torch_ext::kernels::{
    Activation, AdamWStep, AttentionShape, DropoutMask, RotaryTable, RowGroups, adamw, attend,
    attend_backward, cross_entropy, dropout, dropout_add, gate, gate_backward, grouped_mm, linear, rms_norm,
    rms_norm_backward, rms_norm_backward_add, rotate,
};

on_both!(
    norms,
    rotations,
    gates,
    losses,
    losses_that_are_not_finite,
    masks_bit_for_bit,
    updates
);

fn norms(side: Side) {
    for (kind, tolerance) in KINDS {
        for (heads, columns) in [(1, 70), (1, 4096), (3, 128), (5, 16)] {
            let size = [9, heads * columns];
            let [x, dy, sum] = [1, 2, 3].map(|seed| random(seed, &size, kind));
            let [gx, gdy, gsum] = [&x, &dy, &sum].map(|tensor| side.copy(tensor));
            let weight = random(4, &[columns], Kind::Float);
            let gw = side.copy(&weight);
            let found = side.run(|| rms_norm(&gx, &gw, 1e-6, heads)).unwrap();
            assert_close(&found, &rms_norm(&x, &weight, 1e-6, heads).unwrap(), tolerance);
            if heads == 1 {
                side.run(|| rms_norm_backward_add(&gx, &gw, 1e-6, &gdy, &gsum))
                    .unwrap();
                rms_norm_backward_add(&x, &weight, 1e-6, &dy, &sum).unwrap();
                assert_close(&gsum, &sum, tolerance);
            }
            side.run(|| rms_norm_backward(&gx, &gw, 1e-6, heads, &gdy))
                .unwrap();
            rms_norm_backward(&x, &weight, 1e-6, heads, &dy).unwrap();
            assert_close(&gdy, &dy, tolerance);
        }
    }
}

fn rotations(side: Side) {
    let angles = random(1, &[20, 4], Kind::Float);
    let table = RotaryTable::new(angles.cos(), angles.sin()).unwrap();
    let theirs = RotaryTable::new(side.copy(&angles.cos()), side.copy(&angles.sin())).unwrap();
    let positions = Tensor::from_slice(&[0i64, 1, 2, 19, 3]);
    let their_positions = side.copy(&positions);
    for (kind, tolerance) in KINDS {
        for back in [false, true] {
            let x = random(2, &[5, 3 * 12 + 5], kind);
            let gx = side.copy(&x);
            side.run(|| rotate(&gx, 3, 12, &theirs, &their_positions, 19, back))
                .unwrap();
            rotate(&x, 3, 12, &table, &positions, 19, back).unwrap();
            assert_close(&gx, &x, tolerance);
        }
    }
    let x = random(2, &[5, 36], Kind::Float).to_device(side.device());
    let on_two_devices = rotate(&x, 3, 12, &table, &their_positions, 19, false);
    assert_eq!(on_two_devices.is_err(), side.device() == GPU);
}

fn gates(side: Side) {
    for (kind, tolerance) in KINDS {
        for activation in [Activation::Silu, Activation::GeluTanh] {
            for inner in [33, 4096] {
                let (x, product) = (random(1, &[7, 2 * inner], kind), random(2, &[7, inner], kind));
                let (gx, gproduct) = (side.copy(&x), side.copy(&product));
                let found = side.run(|| gate(&gx, activation)).unwrap();
                assert_close(&found, &gate(&x, activation).unwrap(), tolerance);
                side.run(|| gate_backward(&gx, &gproduct, activation)).unwrap();
                gate_backward(&x, &product, activation).unwrap();
                assert_close(&gx, &x, tolerance);
                assert_close(&gproduct, &product, tolerance);
            }
        }
    }
}

fn losses(side: Side) {
    let targets = Tensor::from_slice(&[0i64, 100, 32, 7]);
    let weights = Tensor::from_slice(&[1f32, 0.5, 0.25, 1.0]);
    let (their_targets, their_weights) = (side.copy(&targets), side.copy(&weights));
    for (kind, tolerance) in KINDS {
        for (cap, vocabulary) in [(None, 101), (None, 32_000), (Some(5.0), 101)] {
            let x = random(1, &[4, vocabulary], kind) * 4.0;
            let _ = x.get(0).get(0).fill_(30.0);
            let gx = side.copy(&x);
            let found = side.run(|| cross_entropy(&gx, &their_targets, &their_weights, Some(0.125), cap));
            let found = found.unwrap();
            let expected = cross_entropy(&x, &targets, &weights, Some(0.125), cap).unwrap();
            assert_close(&found.losses, &expected.losses, 1e-5);
            assert!(found.hits.to_device(Device::Cpu).equal(&expected.hits));
            assert_close(&gx, &x, tolerance);
        }
    }
}

fn losses_that_are_not_finite(side: Side) {
    let targets = side.copy(&Tensor::from_slice(&[0i64]));
    let weights = side.copy(&Tensor::from_slice(&[1f32]));
    for bad in [f32::NAN, f32::INFINITY] {
        let scores = side.copy(&Tensor::from_slice(&[0f32, 1.0, bad, 2.0]).reshape([1, 4]));
        let found = side.run(|| cross_entropy(&scores, &targets, &weights, None, None));
        assert!(!found.unwrap().losses.double_value(&[0]).is_finite(), "{bad}");
    }
}

fn masks_bit_for_bit(side: Side) {
    for stream in [7, u64::MAX] {
        let mask = DropoutMask {
            stream,
            probability: 0.3,
        };
        let x = random(1, &[37, 1701], Kind::Float);
        let gx = side.copy(&x);
        let found = side.run(|| dropout(&gx, mask)).unwrap().to_device(Device::Cpu);
        assert!(found.equal(&dropout(&x, mask).unwrap()));
        side.run(|| dropout_add(&gx, &gx, mask)).unwrap();
        dropout_add(&x, &x, mask).unwrap();
        assert_close(&gx, &x, 1e-6);
    }
}

fn updates(side: Side) {
    let update = AdamWStep {
        gradient_scale: 0.5,
        learning_rate: 1e-2,
        weight_decay: 0.1,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        step: 3,
    };
    let ours = [1, 2, 3, 4].map(|seed| random(seed, &[5001], Kind::Float).abs());
    let theirs = ours.each_ref().map(|tensor| side.copy(tensor));
    let step = |[parameters, gradients, first, second]: &[Tensor; 4]| {
        adamw(parameters, gradients, first, second, update).unwrap();
    };
    step(&ours);
    side.run(|| step(&theirs));
    for (found, expected) in theirs.iter().zip(&ours) {
        assert_close(found, expected, 1e-5);
    }
}

#[test]
#[ignore = "needs a GPU"]
fn attention_by_flash_and_by_plain_operations() {
    side::set_up();
    let ends = [1i64, 3, 60, 493];
    let plain = ATTENTION;
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
    side::set_up();
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
