//! Kernels of inference that read each row's cache and adapter from a table.

use std::sync::Arc;

use tch::{Kind, Tensor};
use tunesmith_torch_ext::kernels::{
    AdapterTable, AttentionShape, CachedRows, LoraPart, LoraSite, ServedShape, StepRow, StepTable, TablePair,
    attend_cached, attend_rows, lora_add, lora_add_rows,
};

use crate::side::{ATTENTION, KINDS, Side, assert_close, on_both, random};

on_both!(attention_over_caches, adapters_of_rows);

const LAYERS: i64 = 2;

fn served(kind: Kind, shape: AttentionShape, sites: Vec<LoraSite>) -> Arc<ServedShape> {
    Arc::new(ServedShape {
        kind,
        layers: LAYERS,
        kv_heads: shape.kv_heads,
        head_dim: shape.head_dim,
        sites,
    })
}

fn row<'a>(position: i64, cache: Option<&'a Tensor>, adapter: Option<&'a AdapterTable>) -> StepRow<'a> {
    StepRow {
        token: 1,
        position,
        length: position + 1,
        cache,
        adapter,
    }
}

/// Sequences that have seen nothing, a little and much; the third comes with three rows, one row has no cache, and the
/// table has room for one row more.
fn attention_over_caches(side: Side) {
    let plain = AttentionShape {
        heads: 6,
        ..ATTENTION
    };
    let shapes = [
        plain,
        AttentionShape {
            head_dim: 128,
            heads: 4,
            ..plain
        },
        AttentionShape {
            head_dim: 256,
            kv_heads: 6,
            window: Some(5),
            ..plain
        },
        AttentionShape {
            head_dim: 10,
            softcap: Some(2.0),
            ..plain
        },
        AttentionShape {
            head_dim: 112,
            heads: 2,
            ..plain
        },
    ];
    for (kind, tolerance) in KINDS {
        for shape in shapes {
            attend_as_the_processor(side, kind, shape, tolerance);
        }
    }
}

fn attend_as_the_processor(side: Side, kind: Kind, shape: AttentionShape, tolerance: f64) {
    let (seen, capacities) = ([0, 3, 37], [1, 64, 40]);
    let cache = |number: usize| {
        let size = [LAYERS, 2, shape.kv_heads, capacities[number], shape.head_dim];
        random(number as i64, &size, kind)
    };
    let caches = [0, 1, 2].map(cache);
    let theirs = caches.each_ref().map(|cache| side.copy(cache));
    let qkv = random(9, &[7, (shape.heads + 2 * shape.kv_heads) * shape.head_dim], kind);
    let device_qkv = side.copy(&qkv);
    let rows = [
        row(0, Some(&theirs[0]), None),
        row(3, Some(&theirs[1]), None),
        row(0, None, None),
        row(37, Some(&theirs[2]), None),
        row(38, Some(&theirs[2]), None),
        row(39, Some(&theirs[2]), None),
    ];
    let found = side.run(|| {
        let mut table = StepTable::new(&served(kind, shape, vec![]), 7, side.device()).unwrap();
        let table = table.fill(&rows).unwrap();
        assert_eq!(table.served(), 5);
        assert!(
            attend_rows(&table, 1, 4, &device_qkv, shape).is_err(),
            "no room for all"
        );
        attend_rows(&table, 1, 7, &device_qkv, shape).unwrap()
    });
    let expected = Tensor::zeros([7, shape.heads * shape.head_dim], (kind, tch::Device::Cpu));
    let layers = caches
        .each_ref()
        .map(|cache| [cache.get(1).get(0), cache.get(1).get(1)]);
    let cached =
        [(0, 0, 1), (1, 1, 1), (2, 3, 3)].map(|(number, first_row, rows): (usize, _, _)| CachedRows {
            keys: &layers[number][0],
            values: &layers[number][1],
            seen: seen[number],
            first_row,
            rows,
        });
    attend_cached(&qkv, &cached, shape, &expected).unwrap();
    assert_close(&found, &expected, tolerance);
    for (theirs, ours) in theirs.iter().zip(&caches) {
        assert_close(theirs, ours, 1e-9);
    }
}

fn adapters_of_rows(side: Side) {
    for (kind, tolerance) in KINDS {
        // Rows that are read in single numbers, and in packs of 16 bytes more than once round a warp.
        for inner in [70, 576] {
            add_as_the_processor(side, kind, inner, tolerance);
        }
    }
}

fn add_as_the_processor(side: Side, kind: Kind, inner: i64, tolerance: f64) {
    let site = |first_column, columns| LoraSite {
        inner,
        first_column,
        columns,
    };
    let sites = [site(0, 300), site(0, 20), site(20, 33), site(53, 9)];
    let shape = served(kind, ATTENTION, sites.to_vec());
    // Of one adapter the second module is not there; ranks differ.
    let adapters = [(1, [3, 5, 5, 1]), (20, [16, 0, 2, 7])].map(|(seed, ranks): (i64, [i64; 4])| {
        let pairs: [_; 4] = std::array::from_fn(|place| {
            let (rank, seed) = (ranks[place], seed + 2 * place as i64);
            let a = random(seed, &[rank, inner], kind);
            (a, random(seed + 1, &[rank, sites[place].columns], kind))
        });
        pairs
    });
    let tables = adapters.each_ref().map(|pairs| {
        let pairs = pairs
            .each_ref()
            .map(|(a, b)| (side.copy(a), side.copy(b).transpose(0, 1)));
        let pairs = pairs
            .each_ref()
            .map(|(a, b)| (a.size()[0] > 0).then_some(TablePair { a, b, scale: 0.5 }));
        AdapterTable::new(&shape, &pairs, side.device()).unwrap()
    });
    assert_eq!(tables.each_ref().map(|table| table.rank()), [5, 16]);
    let x = random(50, &[4, inner], kind);
    let y = random(51, &[4, 62], kind);
    let (their_x, their_y) = (side.copy(&x), side.copy(&y));
    let rows = [
        row(0, None, Some(&tables[1])),
        row(0, None, None),
        row(0, None, Some(&tables[0])),
    ];
    side.run(|| {
        let mut table = StepTable::new(&shape, 4, side.device()).unwrap();
        let table = table.fill(&rows).unwrap();
        assert!(
            lora_add_rows(&table, 1..4, 8, &their_x, &their_y).is_err(),
            "ranks without room"
        );
        lora_add_rows(&table, 1..4, 24, &their_x, &their_y).unwrap();
    });
    for (first_row, adapter) in [(0, 1), (2, 0)] {
        for place in 1..4 {
            let (a, b) = &adapters[adapter][place];
            if a.size()[0] == 0 {
                continue;
            }
            let part = LoraPart {
                a,
                b: &b.transpose(0, 1),
                scale: 0.5,
                first_row,
                rows: 1,
                first_column: sites[place].first_column,
            };
            lora_add(&y, &x, &[part]).unwrap();
        }
    }
    assert_close(&their_y, &y, tolerance);
}
