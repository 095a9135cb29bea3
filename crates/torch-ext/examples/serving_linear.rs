//! How fast the products of inference run, beside LibTorch's: `cargo run --release -p tunesmith-torch-ext --example
//! serving_linear [THREADS]`. Gigabytes of weight per second; the first line is what a plain sum over the same memory reads.

#![expect(clippy::print_stdout, reason = "what it measures is what it is for")]

use std::time::Instant;

use tch::{Device, Kind, Tensor};
use tunesmith_torch_ext::kernels::serving_linear;

/// Outputs and inputs of a block of a model of 110 M parameters, and of its head.
const SHAPES: [[i64; 2]; 5] = [[2304, 768], [768, 768], [4096, 768], [768, 2048], [32000, 768]];
/// Enough copies of each weight that none is in the cache when its turn comes.
const BYTES: i64 = 400 << 20;

fn best_seconds(mut run: impl FnMut()) -> f64 {
    let timed = (0..7).map(|_| {
        let began = Instant::now();
        run();
        began.elapsed().as_secs_f64()
    });
    timed.fold(f64::INFINITY, f64::min)
}

fn main() {
    let threads = std::env::args().nth(1).and_then(|text| text.parse().ok());
    tch::set_num_threads(threads.unwrap_or(2));
    let _guard = tch::no_grad_guard();
    for kind in [Kind::Float, Kind::BFloat16] {
        let size = kind.elt_size_in_bytes() as i64;
        for [outputs, inner] in SHAPES {
            let copies = (BYTES / (outputs * inner * size)).max(1);
            let weights: Vec<Tensor> = (0..copies)
                .map(|_| Tensor::randn([outputs, inner], (Kind::Float, Device::Cpu)).to_kind(kind))
                .collect();
            let gigabytes = (copies * outputs * inner * size) as f64 / 1e9;
            let read = best_seconds(|| {
                weights
                    .iter()
                    .for_each(|w| drop(w.view_dtype(Kind::Float).sum(Kind::Float)))
            });
            print!("{kind:?} {outputs} x {inner}: sum {:.1} GB/s;", gigabytes / read);
            for rows in [1, 4, 16, 64, 256] {
                let x = Tensor::randn([rows, inner], (Kind::Float, Device::Cpu)).to_kind(kind);
                let ours = best_seconds(|| {
                    for weight in &weights {
                        drop(serving_linear(&x, weight, None));
                    }
                });
                let theirs = best_seconds(|| weights.iter().for_each(|w| drop(x.linear(w, None::<&Tensor>))));
                print!(
                    " {rows} rows {:.1} / {:.1};",
                    gigabytes / ours,
                    gigabytes / theirs
                );
            }
            println!();
        }
    }
}
