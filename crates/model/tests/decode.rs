//! A GPU's steps, by kernels that read each row's cache and adapter from a table: emulated on the processor, against the
//! golden files of transformers and PEFT. Graphs themselves need a GPU; here their pass runs without being recorded.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod support;

use support::{FAMILIES, golden};
use tch::{Device, Kind, Tensor};
use tunesmith_model::{Adapter, CausalLm, DecodeGraphs, KvCache, Precision, SequenceStep, Site};
use tunesmith_torch_ext::MappedFile;
use tunesmith_torch_ext::gpu::emulate;

/// Largest allowed difference of a logit in float32, absolute.
const TOLERANCE: f64 = 1e-4;

struct Golden {
    model: CausalLm,
    adapter: Adapter,
    tokens: Vec<Vec<u32>>,
    /// Logits of every position, without and with the adapter.
    expected: Vec<[Tensor; 2]>,
}

fn load(family: &str) -> Golden {
    let folder = golden(family);
    let model = CausalLm::load(&folder.join("base"), Device::Cpu, Precision::uniform(Kind::Float)).unwrap();
    let adapter = Adapter::load(&folder.join("adapter"), model.config(), Device::Cpu).unwrap();
    let file = MappedFile::open(&folder.join("logits.safetensors")).unwrap();
    let load = |name: String| file.load(&name, Device::Cpu, None).unwrap();
    let tokens = |number: usize| {
        let numbers = Vec::<i64>::try_from(load(format!("tokens.{number}"))).unwrap();
        numbers
            .into_iter()
            .map(|token| u32::try_from(token).unwrap())
            .collect()
    };
    let logits = |number: usize| ["base", "adapter"].map(|kind| load(format!("{kind}.{number}")));
    Golden {
        adapter: adapter.frozen(Device::Cpu, Kind::Float).unwrap(),
        model,
        tokens: (0..3).map(tokens).collect(),
        expected: (0..3).map(logits).collect(),
    }
}

/// A sequence of a golden file that is read a few tokens at a time.
struct Reader {
    case: usize,
    is_tuned: bool,
    cache: KvCache,
}

impl Golden {
    fn reader(&self, case: usize, is_tuned: bool) -> Reader {
        let cache = self.model.new_cache(1).unwrap();
        Reader {
            case,
            is_tuned,
            cache,
        }
    }

    /// Reads the next `counts` tokens of each reader in one emulated step, and compares what it says behind the last.
    #[track_caller]
    fn step(&self, graphs: &mut DecodeGraphs, readers: &mut [Reader], counts: &[usize]) {
        let ends: Vec<usize> = readers
            .iter()
            .zip(counts)
            .map(|(reader, count)| reader.cache.len() + count)
            .collect();
        let mut steps: Vec<_> = readers
            .iter_mut()
            .zip(&ends)
            .map(|(reader, &end)| SequenceStep {
                tokens: &self.tokens[reader.case][reader.cache.len()..end],
                cache: &mut reader.cache,
                adapter: reader.is_tuned.then_some(&self.adapter),
                all_scores: false,
            })
            .collect();
        let found = emulate(|| self.model.step_recorded(graphs, &mut steps)).unwrap();
        assert_eq!(found.size()[0], readers.len() as i64);
        for (row, (reader, end)) in readers.iter().zip(ends).enumerate() {
            assert_eq!(reader.cache.len(), end);
            let expected = &self.expected[reader.case][usize::from(reader.is_tuned)];
            let apart = (found.get(row as i64) - expected.get(end as i64 - 1)).abs().max();
            let apart = apart.double_value(&[]);
            assert!(apart <= TOLERANCE, "row {row}, {end} tokens: {apart}");
        }
    }
}

/// Whether the kernels for single rows add all of the adapter.
fn is_by_row(adapter: &Adapter) -> bool {
    adapter
        .pairs()
        .iter()
        .all(|pair| matches!(pair.site, Site::Block { .. }))
}

fn has_stable_rope(golden: &Golden) -> bool {
    !golden
        .model
        .config()
        .ropes
        .iter()
        .any(|rope| matches!(rope.scaling, tunesmith_model::RopeScaling::LongRope { .. }))
}

#[test]
fn tokens_one_by_one_on_mixed_adapters() {
    let mut by_row = 0;
    for family in FAMILIES {
        let golden = load(family);
        let mut graphs = DecodeGraphs::new(&golden.model);
        // Three rows, so one of the four is padding. What a long sequence's tokens were turned by when it was short is not
        // in the golden files.
        let last = if has_stable_rope(&golden) { 2 } else { 0 };
        let mut readers =
            [(0, true), (1, false), (last, true)].map(|(case, tuned)| golden.reader(case, tuned));
        for _ in 0..4 {
            golden.step(&mut graphs, &mut readers, &[1, 1, 1]);
        }
        // Without an adapter it is another size, whose table knows nothing of the first one's.
        golden.step(&mut graphs, &mut readers[1..2], &[1]);
        if is_by_row(&golden.adapter) {
            by_row += 1;
            assert_eq!(graphs.sizes(), 2, "{family}");
        }
    }
    assert!(by_row > 3, "{by_row} families have adapters in the table");
}

#[test]
fn prompts_beside_single_tokens() {
    for family in FAMILIES {
        let golden = load(family);
        if !has_stable_rope(&golden) {
            continue;
        }
        let longest = (0..3).max_by_key(|&case| golden.tokens[case].len()).unwrap();
        let long = golden.tokens[longest].len();
        assert!(
            long > 19,
            "{family}: a prompt too long for the kernels of single rows"
        );
        let mut graphs = DecodeGraphs::new(&golden.model);
        let mut readers = [(longest, true), (longest, false), (longest, true)]
            .map(|(case, tuned)| golden.reader(case, tuned));
        golden.step(&mut graphs, &mut readers, &[17, 1, 5]);
        golden.step(&mut graphs, &mut readers, &[1, 17, 2]);
        golden.step(&mut graphs, &mut readers, &[1, 1, 1]);
    }
}

#[test]
fn graphs_are_of_one_model() {
    let (one, other) = (load("llama"), load("llama"));
    let mut graphs = DecodeGraphs::new(&other.model);
    let mut cache = one.model.new_cache(1).unwrap();
    let mut steps = [SequenceStep {
        tokens: &[1],
        cache: &mut cache,
        adapter: None,
        all_scores: false,
    }];
    let error = one.model.step_recorded(&mut graphs, &mut steps).unwrap_err();
    assert!(error.to_string().contains("another model"), "{error}");
}

#[test]
fn steps_are_made_ready_ahead() {
    let golden = load("llama");
    let mut graphs = DecodeGraphs::new(&golden.model);
    graphs.record_ahead(&golden.model, 9, 16).unwrap();
    assert_eq!(graphs.sizes(), 0, "the processor has no use for them");
    emulate(|| graphs.record_ahead(&golden.model, 9, 16)).unwrap();
    assert_eq!(
        graphs.sizes(),
        10,
        "1, 2, 4, 8 and 16 rows, with and without adapters"
    );
    let mut readers = [(0, true), (1, false)].map(|(case, tuned)| golden.reader(case, tuned));
    golden.step(&mut graphs, &mut readers, &[1, 1]);
    assert_eq!(graphs.sizes(), 10);
}
