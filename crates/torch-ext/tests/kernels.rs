//! Each kernel on the CPU against LibTorch's own operations and autograd.
#![allow(clippy::unwrap_used)]

use tch::{Device, Kind, Reduction, Tensor};
use tunesmith_torch_ext::kernels::{
    Activation, AdamWStep, AttentionShape, DropoutMask, RotaryTable, adamw, attend, attend_backward,
    cross_entropy, dropout, dropout_add, gate, gate_backward, rms_norm, rms_norm_backward,
    rms_norm_backward_add, rotate,
};

const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

fn random(seed: i64, size: &[i64]) -> Tensor {
    tch::manual_seed(seed);
    Tensor::randn(size, FLOAT)
}

/// Largest difference relative to the largest value.
fn difference(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    let (found, expected) = (found.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    let largest = expected.abs().max().double_value(&[]).max(1e-9);
    (found - expected).abs().max().double_value(&[]) / largest
}

fn assert_close(found: &Tensor, expected: &Tensor, tolerance: f64, what: &str) {
    let difference = difference(found, expected);
    assert!(difference < tolerance, "{what}: {difference}");
}

/// The gradient of Σ y·g with respect to `x`, by autograd.
fn gradient_of(x: &Tensor, g: &Tensor, forward: impl Fn(&Tensor) -> Tensor) -> (Tensor, Tensor) {
    let leaf = x.detach().copy().set_requires_grad(true);
    let y = forward(&leaf);
    (&y * g).sum(Kind::Float).backward();
    (y.detach(), leaf.grad())
}

fn plain_norm(x: &Tensor, weight: &Tensor, heads: i64) -> Tensor {
    let size = x.size();
    let grouped = x.reshape([size[0], heads, -1]);
    let root = (grouped.square().mean_dim(-1, true, Kind::Float) + 1e-6).rsqrt();
    (grouped * root * weight).reshape(size)
}

#[test]
fn rms_norm_and_its_gradient() {
    for (heads, columns) in [(1, 70), (5, 16)] {
        let (x, weight) = (random(1, &[9, heads * columns]), random(2, &[columns]));
        let g = random(3, &[9, heads * columns]);
        let (expected, slope) = gradient_of(&x, &g, |x| plain_norm(x, &weight, heads));
        assert_close(
            &rms_norm(&x, &weight, 1e-6, heads).unwrap(),
            &expected,
            1e-6,
            "forward",
        );
        let dx = g.copy();
        rms_norm_backward(&x, &weight, 1e-6, heads, &dx).unwrap();
        assert_close(&dx, &slope, 2e-6, "backward");
        if heads == 1 {
            let sum = random(4, &[9, columns]);
            let expected = &sum + &slope;
            rms_norm_backward_add(&x, &weight, 1e-6, &g, &sum).unwrap();
            assert_close(&sum, &expected, 2e-6, "added");
        }
    }
}

#[test]
fn rotation_turns_and_turns_back() {
    let (rows, heads, head_dim, rotary) = (11, 3, 12, 8);
    let angles = random(1, &[20, rotary / 2]);
    let table = RotaryTable::new(angles.cos(), angles.sin()).unwrap();
    let positions = Tensor::from_slice(&[0i64, 1, 2, 19, 3, 4, 5, 0, 1, 2, 7]);
    let x = random(2, &[rows, heads * head_dim + 5]);
    let expected = {
        let narrow = x.narrow(1, 0, heads * head_dim).reshape([rows, heads, head_dim]);
        let angle = angles.index_select(0, &positions).unsqueeze(1);
        let (a, b) = (
            narrow.narrow(2, 0, rotary / 2),
            narrow.narrow(2, rotary / 2, rotary / 2),
        );
        let (cos, sin) = (angle.cos(), angle.sin());
        let turned = Tensor::cat(
            &[
                &a * &cos - &b * &sin,
                &b * &cos + &a * &sin,
                narrow.narrow(2, rotary, head_dim - rotary),
            ],
            2,
        );
        Tensor::cat(
            &[
                turned.reshape([rows, heads * head_dim]),
                x.narrow(1, heads * head_dim, 5),
            ],
            1,
        )
    };
    let turned = x.copy();
    rotate(&turned, heads, head_dim, &table, &positions, 19, false).unwrap();
    assert_close(&turned, &expected, 1e-6, "turned");
    rotate(&turned, heads, head_dim, &table, &positions, 19, true).unwrap();
    assert_close(&turned, &x, 1e-6, "turned back");
    assert!(rotate(&turned, heads, head_dim, &table, &positions, 20, false).is_err());
}

#[test]
fn gated_units_and_their_gradients() {
    for activation in [Activation::Silu, Activation::GeluTanh] {
        let act = |g: &Tensor| match activation {
            Activation::Silu => g.silu(),
            Activation::GeluTanh => g.gelu("tanh"),
        };
        let (x, g) = (random(1, &[7, 66]) * 3.0, random(2, &[7, 33]));
        let forward = |x: &Tensor| act(&x.narrow(1, 0, 33)) * x.narrow(1, 33, 33);
        let (expected, slope) = gradient_of(&x, &g, forward);
        assert_close(&gate(&x, activation).unwrap(), &expected, 2e-6, "forward");
        let (gate_up, product) = (x.copy(), g.copy());
        gate_backward(&gate_up, &product, activation).unwrap();
        assert_close(&product, &expected, 2e-6, "product");
        assert_close(&gate_up, &slope, 3e-6, "backward");
    }
}

#[test]
fn cross_entropy_and_its_gradient() {
    let targets = Tensor::from_slice(&[0i64, 100, 32, 7]);
    let weights = Tensor::from_slice(&[1f32, 0.5, 0.25, 1.0]);
    for cap in [None, Some(5.0)] {
        let x = random(1, &[4, 101]) * 4.0;
        let losses = |x: &Tensor| {
            let z = cap.map_or_else(|| x.shallow_clone(), |cap| (x / cap).tanh() * cap);
            z.cross_entropy_loss(&targets, None::<&Tensor>, Reduction::None, -100, 0.0) * &weights
        };
        let (expected, slope) = gradient_of(&x, &Tensor::full([4], 0.125, FLOAT), losses);
        let scores = x.copy();
        let found = cross_entropy(&scores, &targets, &weights, Some(0.125), cap).unwrap();
        assert_close(&found.losses, &expected, 1e-6, "losses");
        assert_close(&scores, &slope, 2e-6, "gradient");
        let hits = x.argmax(-1, false).eq_tensor(&targets).to_kind(Kind::Int64);
        assert!(found.hits.equal(&hits));
        let untouched = x.copy();
        let forward = cross_entropy(&untouched, &targets, &weights, None, cap).unwrap();
        assert!(forward.losses.equal(&found.losses));
    }
}

#[test]
fn what_is_not_finite_shows_in_the_loss() {
    let targets = Tensor::from_slice(&[1i64]);
    let weights = Tensor::from_slice(&[1f32]);
    for bad in [f32::NAN, f32::INFINITY] {
        let scores = Tensor::from_slice(&[0f32, 1.0, bad, 2.0]).reshape([1, 4]);
        let found = cross_entropy(&scores, &targets, &weights, Some(1.0), None).unwrap();
        assert!(!found.losses.double_value(&[0]).is_finite(), "{bad}");
    }
}

/// One document by plain operations: `[length, heads · head_dim]`.
fn plain_attention(qkv: &Tensor, shape: AttentionShape) -> Tensor {
    let length = qkv.size()[0];
    let split = qkv.reshape([length, -1, shape.head_dim]).transpose(0, 1);
    let repeat = |x: Tensor| x.repeat_interleave_self_int(shape.heads / shape.kv_heads, 0, None);
    let q = split.narrow(0, 0, shape.heads);
    let k = repeat(split.narrow(0, shape.heads, shape.kv_heads));
    let v = repeat(split.narrow(0, shape.heads + shape.kv_heads, shape.kv_heads));
    let mut scores = q.matmul(&k.transpose(1, 2)) * shape.scale;
    if let Some(cap) = shape.softcap {
        scores = (scores / cap).tanh() * cap;
    }
    let mut seen = Tensor::ones([length, length], (Kind::Bool, Device::Cpu)).tril(0);
    if let Some(window) = shape.window {
        seen = seen.triu(1 - window);
    }
    let scores = scores.masked_fill(&seen.logical_not(), f64::NEG_INFINITY);
    let mixed = scores.softmax(-1, Kind::Float).matmul(&v);
    mixed.transpose(0, 1).reshape([length, -1])
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
    let shapes = [
        plain,
        AttentionShape {
            heads: 3,
            kv_heads: 3,
            head_dim: 10,
            ..plain
        },
        AttentionShape {
            heads: 4,
            kv_heads: 1,
            head_dim: 40,
            window: Some(17),
            ..plain
        },
        AttentionShape {
            softcap: Some(2.0),
            scale: 0.7,
            ..plain
        },
        AttentionShape {
            window: Some(100),
            softcap: Some(2.0),
            ..plain
        },
    ];
    for shape in shapes {
        let columns = (shape.heads + 2 * shape.kv_heads) * shape.head_dim;
        let qkv = random(1, &[193, columns]);
        let g = random(2, &[193, shape.heads * shape.head_dim]);
        let (expected, slope) = gradient_of(&qkv, &g, |qkv| {
            let starts = std::iter::once(0).chain(ends);
            let parts: Vec<Tensor> = starts
                .zip(ends)
                .map(|(start, end)| plain_attention(&qkv.narrow(0, start, end - start), shape))
                .collect();
            Tensor::cat(&parts, 0)
        });
        let attended = attend(&qkv, &ends, shape).unwrap();
        assert_close(&attended.out, &expected, 2e-6, "forward");
        let dqkv = attend_backward(&qkv, &ends, shape, &attended, &g).unwrap();
        assert_close(&dqkv, &slope, 5e-6, "backward");
    }
    assert!(attend(&random(1, &[193, 128]), &[1, 3, 60, 192], plain).is_err());
}

#[test]
fn bfloat16_agrees_to_its_precision() {
    let narrow = |x: &Tensor| x.to_kind(Kind::BFloat16);
    let x = random(1, &[9, 64]);
    let weight = random(2, &[64]);
    let found = rms_norm(&narrow(&x), &weight, 1e-6, 1).unwrap();
    assert_close(&found, &plain_norm(&x, &weight, 1), 1e-2, "norm");
    let shape = AttentionShape {
        heads: 2,
        kv_heads: 1,
        head_dim: 16,
        scale: 0.25,
        window: None,
        softcap: None,
    };
    let found = attend(&narrow(&x), &[9], shape).unwrap().out;
    assert_close(&found, &plain_attention(&x, shape), 1e-2, "attention");
}

#[test]
fn adamw_is_that_of_torch() {
    let (parameters, first, second) = (
        random(1, &[5000]),
        Tensor::zeros([5000], FLOAT),
        Tensor::zeros([5000], FLOAT),
    );
    let (mut weights, mut m, mut v) = (
        parameters.to_kind(Kind::Double),
        Tensor::zeros([5000], (Kind::Double, Device::Cpu)),
        Tensor::zeros([5000], (Kind::Double, Device::Cpu)),
    );
    for step in 1..=5 {
        let gradient = random(10 + step, &[5000]);
        let update = AdamWStep {
            gradient_scale: 0.5,
            learning_rate: 1e-2,
            weight_decay: 0.1,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            step: step as u64,
        };
        adamw(&parameters, &gradient, &first, &second, update).unwrap();
        let g = gradient.to_kind(Kind::Double) * 0.5;
        m = m * 0.9 + &g * 0.1;
        v = v * 0.999 + g.square() * 0.001;
        let root = (&v / (1.0 - 0.999f64.powi(step as i32))).sqrt() + 1e-8;
        weights = weights * (1.0 - 1e-2 * 0.1) - &m / (1.0 - 0.9f64.powi(step as i32)) / root * 1e-2;
    }
    assert_close(&parameters, &weights, 1e-6, "weights");
}

#[test]
fn dropout_keeps_its_share_and_adds() {
    let x = Tensor::ones([300, 100], FLOAT);
    let mask = DropoutMask {
        stream: 7,
        probability: 0.25,
    };
    let y = dropout(&x, mask).unwrap();
    let share = y.eq(0.0).to_kind(Kind::Float).mean(Kind::Float).double_value(&[]);
    assert!((share - 0.25).abs() < 0.01, "{share}");
    let sum = x.copy();
    dropout_add(&x, &sum, mask).unwrap();
    assert!(sum.equal(&(&x + &y)));
    let other = dropout(&x, DropoutMask { stream: 8, ..mask }).unwrap();
    assert!(!y.equal(&other));
}
