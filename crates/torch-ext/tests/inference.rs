//! The kernels of inference against LibTorch's own operations.
#![allow(clippy::unwrap_used)]

use std::sync::Mutex;

use tch::{Device, Kind, Tensor};
use tunesmith_torch_ext::kernels::{
    AttentionShape, CachedRows, KernelError, LoraPart, attend_cached, is_lora_part, lora_add, serving_linear,
};

/// The same for the same seed.
fn random(seed: i64, size: &[i64], kind: Kind) -> Tensor {
    // All tests share one generator.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock();
    tch::manual_seed(seed);
    Tensor::randn(size, (Kind::Float, Device::Cpu)).to_kind(kind)
}

/// Largest difference relative to the largest value.
fn assert_close(found: &Tensor, expected: &Tensor, kind: Kind, what: &str) {
    assert_eq!(found.size(), expected.size(), "{what}");
    let (found, expected) = (found.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    let largest = expected.abs().max().double_value(&[]).max(1e-9);
    let difference = (found - expected).abs().max().double_value(&[]) / largest;
    // A bfloat16 result is rounded to 8 bits once.
    let tolerance = if kind == Kind::Float { 2e-6 } else { 5e-3 };
    assert!(difference < tolerance, "{what} in {kind:?}: {difference}");
}

fn product(x: &Tensor, weight: &Tensor) -> Tensor {
    x.to_kind(Kind::Double).matmul(&weight.to_kind(Kind::Double).tr())
}

#[test]
fn rows_times_a_weight() {
    for kind in [Kind::Float, Kind::BFloat16] {
        for (inner, outputs) in [(5, 3), (64, 40), (200, 51), (768, 25)] {
            let (weight, bias) = (random(1, &[outputs, inner], kind), random(2, &[outputs], kind));
            for rows in [1, 2, 3, 4, 5, 7, 16, 17, 31, 70] {
                let x = random(3, &[rows, inner], kind);
                let expected = product(&x, &weight);
                let what = format!("{rows} rows, {inner} to {outputs}");
                let y = serving_linear(&x, &weight, None).unwrap();
                assert_close(&y, &expected, kind, &what);
                let y = serving_linear(&x, &weight, Some(&bias)).unwrap();
                assert_close(&y, &(expected + bias.to_kind(Kind::Double)), kind, &what);
            }
        }
    }
}

#[test]
fn no_rows_give_no_rows() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let weight = random(1, &[5, 1024], kind);
        let y = serving_linear(&random(2, &[0, 1024], kind), &weight, None).unwrap();
        assert_eq!(y.size(), [0, 5]);
    }
}

/// Bit for bit, so that a request's tokens do not depend on who is served beside it.
#[test]
fn a_row_gives_the_same_whoever_is_beside_it() {
    for kind in [Kind::Float, Kind::BFloat16] {
        // Rows that are not whole lines of the cache, and those that crowd each other in it.
        for inner in [9, 771, 1024, 2048] {
            let (x, weight) = (random(1, &[90, inner], kind), random(2, &[97, inner], kind));
            let whole = serving_linear(&x, &weight, None).unwrap();
            for (first, rows) in [
                (0, 1),
                (5, 2),
                (9, 3),
                (14, 5),
                (16, 7),
                (3, 16),
                (4, 17),
                (20, 70),
            ] {
                let part = serving_linear(&x.narrow(0, first, rows), &weight, None).unwrap();
                assert!(
                    part.equal(&whole.narrow(0, first, rows)),
                    "{rows} rows of {inner} columns"
                );
            }
        }
    }
}

struct Pair {
    a: Tensor,
    /// `[rank, columns]`.
    b: Tensor,
}

fn pair(seed: i64, rank: i64, inner: i64, columns: i64, kind: Kind) -> Pair {
    Pair {
        a: random(seed, &[rank, inner], kind),
        b: random(seed + 1, &[rank, columns], kind),
    }
}

#[test]
fn many_adapters_add_to_their_own_rows_and_columns() {
    let (rows, inner, outputs) = (19, 70, 600);
    for kind in [Kind::Float, Kind::BFloat16] {
        let (x, y) = (random(1, &[rows, inner], kind), random(2, &[rows, outputs], kind));
        // (first row, rows, rank, first column, columns); row 18 has no adapter.
        let places = [
            (0, 1, 16, 0, 300),
            (0, 1, 3, 300, 300),
            (1, 12, 9, 5, 290),
            (13, 5, 64, 0, 600),
        ];
        let pairs: Vec<Pair> = (10..)
            .step_by(2)
            .zip(places)
            .map(|(seed, (_, _, rank, _, columns))| pair(seed, rank, inner, columns, kind))
            .collect();
        let expected = y.to_kind(Kind::Double).copy();
        for (pair, (first_row, count, _, first_column, columns)) in pairs.iter().zip(places) {
            let narrow = product(&x.narrow(0, first_row, count), &pair.a);
            let added = narrow.matmul(&pair.b.to_kind(Kind::Double)) * 0.5;
            let _ = expected
                .narrow(0, first_row, count)
                .narrow(1, first_column, columns)
                .g_add_(&added);
        }
        let views: Vec<Tensor> = pairs.iter().map(|pair| pair.b.tr()).collect();
        let parts: Vec<LoraPart<'_>> = pairs
            .iter()
            .zip(&views)
            .zip(places)
            .map(|((pair, b), (first_row, rows, _, first_column, _))| LoraPart {
                a: &pair.a,
                b,
                scale: 0.5,
                first_row,
                rows,
                first_column,
            })
            .collect();
        lora_add(&y, &x, &parts).unwrap();
        assert_close(&y, &expected, kind, "adapters");
    }
}

#[test]
fn a_pair_that_does_not_fit_is_refused() {
    let kind = Kind::Float;
    let (x, y) = (random(1, &[2, 8], kind), random(2, &[2, 6], kind));
    let pair = pair(3, 4, 8, 6, kind);
    let b = pair.b.tr();
    assert!(is_lora_part(&pair.a, &b));
    assert!(!is_lora_part(&pair.a, &b.contiguous()));
    let part = |first_row, rows, first_column| LoraPart {
        a: &pair.a,
        b: &b,
        scale: 1.0,
        first_row,
        rows,
        first_column,
    };
    for wrong in [part(1, 2, 0), part(0, 2, 1), part(-1, 1, 0)] {
        assert!(matches!(
            lora_add(&y, &x, &[wrong]),
            Err(KernelError::Tensor { .. })
        ));
    }
}

/// `q: [heads, d]` over `keys` and `values: [kv_heads, tokens, d]`, in float64.
fn plain_attention(q: &Tensor, keys: &Tensor, values: &Tensor, shape: AttentionShape) -> Tensor {
    let group = shape.heads / shape.kv_heads;
    let wide = |x: &Tensor| x.to_kind(Kind::Double);
    let tokens = keys.size()[1];
    let first = shape.window.map_or(0, |window| (tokens - window).max(0));
    let seen = |x: &Tensor| {
        wide(x)
            .narrow(1, first, tokens - first)
            .repeat_interleave_self_int(group, 0, None)
    };
    let mut scores = wide(q).unsqueeze(1).matmul(&seen(keys).transpose(1, 2)) * shape.scale;
    if let Some(cap) = shape.softcap {
        scores = (scores / cap).tanh() * cap;
    }
    let mixed = scores.softmax(-1, Kind::Double).matmul(&seen(values));
    mixed.reshape([1, -1])
}

struct Cache {
    keys: Tensor,
    values: Tensor,
    seen: i64,
}

impl Cache {
    fn new(seed: i64, shape: AttentionShape, seen: i64, kind: Kind) -> Self {
        let size = [shape.kv_heads, 64, shape.head_dim];
        Self {
            keys: random(20 + seed, &size, kind),
            values: random(30 + seed, &size, kind),
            seen,
        }
    }

    fn rows(&self, first_row: i64, rows: i64) -> CachedRows<'_> {
        CachedRows {
            keys: &self.keys,
            values: &self.values,
            seen: self.seen,
            first_row,
            rows,
        }
    }
}

fn attention_shapes() -> [AttentionShape; 4] {
    [
        (4, 2, 64, None, None),
        (3, 3, 20, Some(7), None),
        (6, 1, 128, Some(1), Some(5.0)),
        (2, 2, 16, None, Some(30.0)),
    ]
    .map(|(heads, kv_heads, head_dim, window, softcap)| AttentionShape {
        heads,
        kv_heads,
        head_dim,
        scale: 0.2,
        window,
        softcap,
    })
}

#[test]
fn each_sequence_attends_to_its_own_cache() {
    for kind in [Kind::Float, Kind::BFloat16] {
        for shape in attention_shapes() {
            let (heads, kv_heads, head_dim) = (shape.heads, shape.kv_heads, shape.head_dim);
            let qkv = random(5, &[19, (heads + 2 * kv_heads) * head_dim], kind);
            let caches = [0, 1, 40].map(|seen| Cache::new(seen, shape, seen, kind));
            // Row 1 is nobody's.
            let places = [(2, 1), (0, 1), (3, 16)];
            let out = Tensor::zeros([19, heads * head_dim], (kind, Device::Cpu));
            let cached = [0, 1, 2].map(|s| caches[s].rows(places[s].0, places[s].1));
            attend_cached(&qkv, &cached, shape, &out).unwrap();
            for (cache, (first_row, rows)) in caches.iter().zip(places) {
                for row in 0..rows {
                    let heads_of = |first: i64, count: i64| {
                        qkv.get(first_row + row)
                            .narrow(0, first * head_dim, count * head_dim)
                            .reshape([count, head_dim])
                    };
                    let seen = cache.seen + row;
                    let stored = cache.keys.narrow(1, seen, 1).squeeze_dim(1);
                    assert!(stored.equal(&heads_of(heads, kv_heads)), "the key is stored");
                    let (keys, values) = (
                        cache.keys.narrow(1, 0, seen + 1),
                        cache.values.narrow(1, 0, seen + 1),
                    );
                    let expected = plain_attention(&heads_of(0, heads), &keys, &values, shape);
                    let found = out.narrow(0, first_row + row, 1);
                    assert_close(&found, &expected, kind, &format!("row {row} of {shape:?}"));
                }
            }
            assert_eq!(out.get(1).abs().sum(Kind::Float).double_value(&[]), 0.0);
        }
    }
}

/// Bit for bit, so that a request's tokens do not depend on how its prompt was cut.
#[test]
fn a_prompt_gives_the_same_in_whatever_pieces_it_comes() {
    for kind in [Kind::Float, Kind::BFloat16] {
        for shape in attention_shapes() {
            let width = shape.heads * shape.head_dim;
            let qkv = random(6, &[37, width + 2 * shape.kv_heads * shape.head_dim], kind);
            let attended = |pieces: &[i64]| {
                let mut cache = Cache::new(1, shape, 5, kind);
                let out = Tensor::zeros([37, width], (kind, Device::Cpu));
                for &rows in pieces {
                    attend_cached(&qkv, &[cache.rows(cache.seen - 5, rows)], shape, &out).unwrap();
                    cache.seen += rows;
                }
                (out, cache.keys, cache.values)
            };
            let whole = attended(&[37]);
            for pieces in [vec![1; 37], vec![16, 1, 20], vec![3, 34]] {
                let (out, keys, values) = attended(&pieces);
                assert!(out.equal(&whole.0), "{pieces:?} of {shape:?}");
                assert!(keys.equal(&whole.1) && values.equal(&whole.2));
            }
        }
    }
}

#[test]
fn a_full_cache_is_refused() {
    let shape = AttentionShape {
        heads: 1,
        kv_heads: 1,
        head_dim: 4,
        scale: 1.0,
        window: None,
        softcap: None,
    };
    let (qkv, cache) = (
        random(1, &[1, 12], Kind::Float),
        random(2, &[1, 8, 4], Kind::Float),
    );
    let out = random(3, &[1, 4], Kind::Float);
    let rows = |seen, first_row, rows| CachedRows {
        keys: &cache,
        values: &cache,
        seen,
        first_row,
        rows,
    };
    for wrong in [rows(8, 0, 1), rows(7, 0, 2), rows(0, 1, 1), rows(0, 0, 0)] {
        assert!(attend_cached(&qkv, &[wrong], shape, &out).is_err());
    }
}
