//! A GPU's steps, by kernels that read each row's cache and adapter from a table, against the golden files of transformers
//! and PEFT: emulated on the processor, where nothing is recorded, and on a GPU by `make test-gpu`.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod support;

use support::{FAMILIES, golden};
use tch::{Device, Kind, Tensor};
use tunesmith_model::{Adapter, CausalLm, DecodeGraphs, KvCache, Precision, RopeScaling, SequenceStep, Site};
use tunesmith_torch_ext::MappedFile;
use tunesmith_torch_ext::gpu::emulate;

/// A test of each function by the emulator, and one on a GPU.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod emulated {
            $(#[test]
            fn $name() {
                super::$name(tch::Device::Cpu);
            })*
        }
        mod on_a_gpu {
            $(#[test]
            #[ignore = "needs a GPU"]
            fn $name() {
                let _ = tunesmith_torch_ext::load_cuda();
                super::$name(tch::Device::Cuda(0));
            })*
        }
    };
}

on_both!(
    tokens_one_by_one_on_mixed_adapters,
    prompts_beside_single_tokens,
    caches_grow_and_adapters_change,
    steps_in_bfloat16,
    more_rows_than_the_kernels_take,
);

/// Largest allowed difference of a logit in float32, absolute.
const TOLERANCE: f64 = 1e-4;

struct Golden {
    model: CausalLm,
    adapter: Adapter,
    tokens: Vec<Vec<u32>>,
    /// Logits of every position, without and with the adapter.
    expected: Vec<[Tensor; 2]>,
}

fn load(family: &str, device: Device, kind: Kind) -> Golden {
    let folder = golden(family);
    let model = CausalLm::load(&folder.join("base"), device, Precision::uniform(kind)).unwrap();
    let adapter = Adapter::load(&folder.join("adapter"), model.config(), device).unwrap();
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
        adapter: adapter.frozen(device, kind).unwrap(),
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

    /// A step by the GPU's kernels; where there is a GPU, by a graph.
    fn run(&self, graphs: &mut DecodeGraphs, steps: &mut [SequenceStep<'_>]) -> Tensor {
        let scores = match self.model.device() {
            Device::Cpu => emulate(|| self.model.step_recorded(graphs, steps)),
            _ => self.model.step_recorded(graphs, steps),
        };
        assert_eq!(graphs.take_refusal(), None);
        scores.unwrap().to_device(Device::Cpu)
    }

    /// Reads the next `counts` tokens of each reader in one such step, and compares what it says behind the last.
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
        let found = self.run(graphs, &mut steps);
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
        .any(|rope| matches!(rope.scaling, RopeScaling::LongRope { .. }))
}

fn tokens_one_by_one_on_mixed_adapters(device: Device) {
    let mut by_row = 0;
    for family in FAMILIES {
        let golden = load(family, device, Kind::Float);
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

fn prompts_beside_single_tokens(device: Device) {
    for family in FAMILIES {
        let golden = load(family, device, Kind::Float);
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
    let [one, other] = [(); 2].map(|()| load("llama", Device::Cpu, Kind::Float));
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
    let golden = load("llama", Device::Cpu, Kind::Float);
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

/// A sequence of its own, on an adapter or none.
fn single<'a>(tokens: &'a [u32], cache: &'a mut KvCache, adapter: Option<&'a Adapter>) -> SequenceStep<'a> {
    SequenceStep {
        tokens,
        cache,
        adapter,
        all_scores: false,
    }
}

#[track_caller]
fn assert_close(found: &Tensor, expected: &Tensor, tolerance: f64) {
    let apart = (found - expected).abs().max().double_value(&[]);
    assert!(
        apart <= tolerance * expected.abs().max().double_value(&[]),
        "{apart}"
    );
}

/// Past the first 64 tokens, for which a cache has room; each step on an adapter that is made anew for it, as after an
/// eviction.
fn caches_grow_and_adapters_change(device: Device) {
    let (golden, plain) = (
        load("llama", device, Kind::Float),
        load("llama", Device::Cpu, Kind::Float),
    );
    let vocabulary = u32::try_from(plain.model.config().vocab_size).unwrap();
    let tokens: Vec<u32> = (0..67).map(|place| place * 7 % vocabulary).collect();
    let mut graphs = DecodeGraphs::new(&golden.model);
    let [mut theirs, mut ours] = [&golden, &plain].map(|side| side.model.new_cache(1).unwrap());
    let mut read = |tokens: &[u32], is_tuned: bool| {
        let fresh = golden.adapter.frozen(device, Kind::Float).unwrap();
        let found = golden.run(
            &mut graphs,
            &mut [single(tokens, &mut theirs, is_tuned.then_some(&fresh))],
        );
        let adapter = is_tuned.then_some(&plain.adapter);
        let expected = plain
            .model
            .step(&mut [single(tokens, &mut ours, adapter)])
            .unwrap();
        assert_close(&found, &expected, 1e-5);
    };
    read(&tokens[..62], true);
    for (place, token) in tokens.iter().enumerate().skip(62) {
        // Never so in a request; here it shows that a step has no more of the one before than the cache.
        read(&[*token], place % 2 == 0);
    }
}

fn steps_in_bfloat16(device: Device) {
    for family in ["llama", "qwen3"] {
        let golden = load(family, device, Kind::BFloat16);
        let plain = load(family, Device::Cpu, Kind::BFloat16);
        let mut graphs = DecodeGraphs::new(&golden.model);
        let [mut theirs, mut ours] = [&golden, &plain].map(|side| side.model.new_cache(1).unwrap());
        for tokens in plain.tokens[2][..6].chunks(1) {
            let found = golden.run(
                &mut graphs,
                &mut [single(tokens, &mut theirs, Some(&golden.adapter))],
            );
            let expected = plain
                .model
                .step(&mut [single(tokens, &mut ours, Some(&plain.adapter))]);
            assert_close(&found, &expected.unwrap(), 0.03);
        }
    }
}

/// 65 rows: attention is by row, adapters are not, and nothing is recorded.
fn more_rows_than_the_kernels_take(device: Device) {
    let golden = load("llama", device, Kind::Float);
    let mut graphs = DecodeGraphs::new(&golden.model);
    let mut readers: Vec<_> = (0..65)
        .map(|number| golden.reader(number % 3, number % 2 == 0))
        .collect();
    golden.step(&mut graphs, &mut readers, &[1; 65]);
    assert_eq!(graphs.sizes(), 0);
    golden.step(&mut graphs, &mut readers[..64], &[1; 64]);
    assert_eq!(graphs.sizes(), 1);
}
