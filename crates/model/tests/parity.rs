//! Against transformers and PEFT: golden files that `scripts/parity/make_golden.py` made (its README describes them).
#![allow(clippy::unwrap_used)]
#![expect(
    clippy::print_stdout,
    reason = "the largest differences are what a reader of the test wants to see"
)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;
use support::{FAMILIES, golden};
use tch::{Device, Kind, Tensor, no_grad_guard};
use tunesmith_model::{
    Adapter, CausalLm, Document, KvCache, LoraSettings, MergedWeights, PackedBatch, Precision, RopeScaling,
    Segment, SequenceStep,
};
use tunesmith_torch_ext::MappedFile;

/// Largest allowed difference of a logit in float32, absolute.
const TOLERANCE: f64 = 1e-4;

fn base(family: &str) -> CausalLm {
    CausalLm::load(
        &golden(family).join("base"),
        Device::Cpu,
        Precision::uniform(Kind::Float),
    )
    .unwrap()
}

fn adapter(family: &str, model: &CausalLm) -> Adapter {
    Adapter::load(&golden(family).join("adapter"), model.config(), Device::Cpu).unwrap()
}

/// Token sequences with the logits of every position, without and with the adapter.
struct Expected {
    tokens: Vec<u32>,
    base: Tensor,
    adapter: Tensor,
}

fn expected(family: &str) -> Vec<Expected> {
    let file = MappedFile::open(&golden(family).join("logits.safetensors")).unwrap();
    let load = |name: String| file.load(&name, Device::Cpu, None).unwrap();
    (0..3)
        .map(|number| Expected {
            tokens: Vec::<i64>::try_from(load(format!("tokens.{number}")))
                .unwrap()
                .into_iter()
                .map(|token| u32::try_from(token).unwrap())
                .collect(),
            base: load(format!("base.{number}")),
            adapter: load(format!("adapter.{number}")),
        })
        .collect()
}

fn logits(model: &CausalLm, tokens: &[u32], lengths: &[usize], adapter: Option<&Adapter>) -> Tensor {
    let _guard = no_grad_guard();
    let batch = PackedBatch::new(tokens, lengths, Device::Cpu).unwrap();
    let hidden = model.hidden(&batch, adapter, None).unwrap();
    model.adapted_logits(&hidden, adapter, None).unwrap()
}

fn difference(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    (found.to_kind(Kind::Double) - expected.to_kind(Kind::Double))
        .abs()
        .max()
        .double_value(&[])
}

#[test]
fn logits_equal_those_of_transformers_and_peft() {
    for family in FAMILIES {
        let model = base(family);
        let adapter = adapter(family, &model);
        let mut largest = [0.0f64; 2];
        for case in expected(family) {
            let lengths = [case.tokens.len()];
            let plain = logits(&model, &case.tokens, &lengths, None);
            let tuned = logits(&model, &case.tokens, &lengths, Some(&adapter));
            largest[0] = largest[0].max(difference(&plain, &case.base));
            largest[1] = largest[1].max(difference(&tuned, &case.adapter));
            assert!(difference(&plain, &tuned) > 0.1, "{family}: the adapter acts");
        }
        println!(
            "{family}: largest logit difference {:.1e} base, {:.1e} with adapter",
            largest[0], largest[1]
        );
        assert!(
            largest.iter().all(|difference| *difference <= TOLERANCE),
            "{family}: {largest:?}"
        );
    }
}

#[test]
fn packed_documents_do_not_see_each_other() {
    for family in FAMILIES {
        let model = base(family);
        let adapter = adapter(family, &model);
        let cases = expected(family);
        // Unsorted, with two of one length: the batch is reordered inside and restored.
        let order = [2, 0, 1, 0];
        let tokens: Vec<u32> = order
            .iter()
            .flat_map(|&number| cases[number].tokens.clone())
            .collect();
        let lengths = order.map(|number| cases[number].tokens.len());
        let packed = logits(&model, &tokens, &lengths, Some(&adapter));
        let alone = Tensor::cat(&order.map(|number| cases[number].adapter.shallow_clone()), 0);
        assert!(difference(&packed, &alone) <= TOLERANCE, "{family}");
    }
}

#[test]
fn cached_steps_equal_the_whole_sequence() {
    for family in FAMILIES {
        let model = base(family);
        let adapter = adapter(family, &model).frozen(Device::Cpu, Kind::Float).unwrap();
        let case = expected(family).pop().unwrap();
        let mut cache = model.new_cache(1).unwrap();
        // A prompt, then a few tokens at once, then one at a time: the cache grows on the way.
        let ends: Vec<usize> = [7, 13].into_iter().chain(14..=case.tokens.len()).collect();
        for end in ends {
            let tokens = &case.tokens[cache.len()..end];
            let mut steps = [SequenceStep {
                tokens,
                cache: &mut cache,
                adapter: Some(&adapter),
                all_scores: false,
            }];
            let found = model.step(&mut steps).unwrap();
            let row = match model.config().ropes[0].scaling {
                // Every position of a sequence that outgrew the short factors is turned by the long ones.
                RopeScaling::LongRope {
                    original_positions, ..
                } if end as f64 <= original_positions => {
                    let alone = logits(&model, &case.tokens[..end], &[end], Some(&adapter));
                    alone.narrow(0, end as i64 - 1, 1)
                }
                _ => case.adapter.narrow(0, end as i64 - 1, 1),
            };
            assert!(difference(&found, &row) <= TOLERANCE, "{family} up to {end}");
            assert_eq!(cache.len(), end);
        }
    }
}

#[test]
fn sequences_of_one_step_keep_their_own_adapters() {
    for family in FAMILIES {
        let model = base(family);
        let adapter = adapter(family, &model).frozen(Device::Cpu, Kind::Float).unwrap();
        let cases = expected(family);
        let mut caches: Vec<_> = (0..6).map(|_| model.new_cache(64).unwrap()).collect();
        let plan = [(0, true), (1, false), (2, true), (0, false), (1, true), (2, true)];
        let mut steps: Vec<_> = plan
            .iter()
            .zip(&mut caches)
            .map(|(&(case, adapted), cache)| SequenceStep {
                tokens: &cases[case].tokens,
                cache,
                adapter: adapted.then_some(&adapter),
                all_scores: false,
            })
            .collect();
        let found = model.step(&mut steps).unwrap();
        for (row, (case, adapted)) in plan.into_iter().enumerate() {
            let whole = if adapted {
                &cases[case].adapter
            } else {
                &cases[case].base
            };
            let last = whole.narrow(0, cases[case].tokens.len() as i64 - 1, 1);
            assert!(
                difference(&found.narrow(0, row as i64, 1), &last) <= TOLERANCE,
                "{family} row {row}"
            );
        }
    }
}

#[test]
fn scores_behind_every_token_equal_the_whole_sequence() {
    for family in FAMILIES {
        let model = base(family);
        let adapter = adapter(family, &model).frozen(Device::Cpu, Kind::Float).unwrap();
        let cases = expected(family);
        let mut caches: Vec<_> = cases.iter().map(|_| model.new_cache(64).unwrap()).collect();
        let mut steps: Vec<_> = cases
            .iter()
            .zip(&mut caches)
            .enumerate()
            .map(|(number, (case, cache))| SequenceStep {
                tokens: &case.tokens,
                cache,
                adapter: Some(&adapter),
                all_scores: number != 1,
            })
            .collect();
        let found = model.step(&mut steps).unwrap();
        let wanted = cases.iter().enumerate().map(|(number, case)| match number {
            1 => case.adapter.narrow(0, case.tokens.len() as i64 - 1, 1),
            _ => case.adapter.shallow_clone(),
        });
        let wanted = Tensor::cat(&wanted.collect::<Vec<_>>(), 0);
        assert_eq!(found.size(), wanted.size());
        assert!(difference(&found, &wanted) <= TOLERANCE, "{family}");
    }
}

#[test]
fn merged_weights_give_what_the_adapter_gives() {
    for family in FAMILIES {
        let model = base(family);
        let adapter = adapter(family, &model).frozen(Device::Cpu, Kind::Float).unwrap();
        let mut merged = MergedWeights::default();
        while !merged.is_complete(&model) {
            merged.fold_next(&model, &adapter).unwrap();
        }
        let mut caches: Vec<_> = (0..3).map(|_| model.new_cache(64).unwrap()).collect();
        let cases = expected(family);
        let mut steps: Vec<_> = cases
            .iter()
            .zip(&mut caches)
            .map(|(case, cache)| SequenceStep {
                tokens: &case.tokens,
                cache,
                adapter: Some(&adapter),
                all_scores: false,
            })
            .collect();
        let found = model.step_merged(&mut steps, &merged).unwrap();
        for (row, case) in cases.iter().enumerate() {
            let last = case.adapter.narrow(0, case.tokens.len() as i64 - 1, 1);
            let found = found.narrow(0, row as i64, 1);
            assert!(difference(&found, &last) <= TOLERANCE, "{family} row {row}");
        }
        assert!(caches.iter().all(KvCache::is_merged));
        let (tokens, cache) = (&cases[0].tokens[..1], &mut caches[0]);
        let bare = SequenceStep {
            tokens,
            cache,
            adapter: None,
            all_scores: false,
        };
        assert!(
            model.step_merged(&mut [bare], &merged).is_err(),
            "on the base model"
        );
    }
}

/// What a batch of requests does: one token each, on two adapters of other ranks and on the base model.
#[test]
fn tokens_one_by_one_on_many_adapters_equal_each_sequence_alone() {
    for family in FAMILIES {
        let model = base(family);
        let first = adapter(family, &model);
        let settings = LoraSettings {
            rank: 3,
            rank_pattern: BTreeMap::new(),
            ..first.settings().clone()
        };
        let second = Adapter::fresh(model.config(), settings, 7, Device::Cpu).unwrap();
        tch::manual_seed(5);
        let _ = second.flat().shallow_clone().normal_(0.0, 0.2);
        let frozen = [&first, &second].map(|adapter| adapter.frozen(Device::Cpu, Kind::Float).unwrap());
        let cases = expected(family);
        let plan = [
            (0, Some(0)),
            (1, Some(1)),
            (2, None),
            (0, Some(1)),
            (1, Some(0)),
            (2, Some(1)),
        ];
        let mut caches: Vec<_> = plan.iter().map(|_| model.new_cache(4).unwrap()).collect();
        let shortest = cases.iter().map(|case| case.tokens.len()).min().unwrap();
        for place in 0..shortest {
            let mut steps: Vec<_> = plan
                .iter()
                .zip(&mut caches)
                .map(|(&(case, adapter), cache)| SequenceStep {
                    tokens: &cases[case].tokens[place..=place],
                    cache,
                    adapter: adapter.map(|adapter: usize| &frozen[adapter]),
                    all_scores: false,
                })
                .collect();
            let found = model.step(&mut steps).unwrap();
            for (row, (case, adapter)) in plan.into_iter().enumerate() {
                let tokens = &cases[case].tokens[..=place];
                let alone = logits(
                    &model,
                    tokens,
                    &[tokens.len()],
                    adapter.map(|adapter| [&first, &second][adapter]),
                );
                let last = alone.narrow(0, place as i64, 1);
                let apart = difference(&found.narrow(0, row as i64, 1), &last);
                assert!(apart <= TOLERANCE, "{family} row {row} token {place}: {apart}");
            }
        }
    }
}

#[test]
fn merged_weights_equal_base_and_adapter() {
    for family in FAMILIES {
        let (plain, mut merged) = (base(family), base(family));
        let adapter = adapter(family, &plain);
        merged.merge(&adapter).unwrap();
        for case in expected(family) {
            let lengths = [case.tokens.len()];
            let with_adapter = logits(&plain, &case.tokens, &lengths, Some(&adapter));
            let largest = with_adapter.abs().max().double_value(&[]);
            // Only roundings differ: W + s B A is rounded once, W x + s B A x twice.
            let apart = difference(&logits(&merged, &case.tokens, &lengths, None), &with_adapter);
            assert!(apart <= 1e-5 * largest, "{family}: {apart} of {largest}");
        }
    }
}

#[test]
fn sharded_and_bfloat16_folders_load() {
    for family in FAMILIES {
        let model = base(family);
        let case = expected(family).pop().unwrap();
        let folder = tempfile::tempdir().unwrap();
        model.save_sharded(folder.path(), Kind::Float, 40_000).unwrap();
        assert!(folder.path().join("model.safetensors.index.json").exists());
        let sharded = CausalLm::load(folder.path(), Device::Cpu, Precision::uniform(Kind::Float)).unwrap();
        let found = logits(&sharded, &case.tokens, &[case.tokens.len()], None);
        assert!(
            found.equal(&logits(&model, &case.tokens, &[case.tokens.len()], None)),
            "{family}"
        );

        let folder = tempfile::tempdir().unwrap();
        model.save(folder.path(), Kind::BFloat16).unwrap();
        let half = CausalLm::load(folder.path(), Device::Cpu, Precision::uniform(Kind::BFloat16)).unwrap();
        let adapter = adapter(family, &half);
        let found = logits(&half, &case.tokens, &[case.tokens.len()], Some(&adapter));
        assert_eq!(found.kind(), Kind::BFloat16);
        // 8 bits of mantissa through two layers: right in its course, not in its digits.
        let flat = |x: &Tensor| x.to_kind(Kind::Float).reshape([-1]);
        let similarity =
            Tensor::cosine_similarity(&flat(&found), &flat(&case.adapter), 0, 1e-8).double_value(&[]);
        assert!(similarity > 0.99, "{family}: {similarity}");
    }
}

#[test]
fn a_peft_folder_survives_the_round_trip() {
    for family in FAMILIES {
        let model = base(family);
        let adapter = adapter(family, &model);
        let [first, second] = [(), ()].map(|()| tempfile::tempdir().unwrap());
        adapter.save(first.path(), "base").unwrap();
        let again = Adapter::load(first.path(), model.config(), Device::Cpu).unwrap();
        assert_eq!(again.settings(), adapter.settings());
        for ((name, tensor), (_, other)) in adapter.parameters().into_iter().zip(again.parameters()) {
            assert!(tensor.equal(other), "{name}");
        }
        again.save(second.path(), "base").unwrap();
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            assert_eq!(
                fs::read(first.path().join(file)).unwrap(),
                fs::read(second.path().join(file)).unwrap()
            );
        }
    }
}

#[test]
fn the_first_gradient_equals_pefts() {
    for family in FAMILIES {
        let model = base(family);
        let training = golden(family).join("training");
        let adapter = Adapter::load(&training.join("init-adapter"), model.config(), Device::Cpu).unwrap();
        let (gradient, loss) = first_step(&model, &adapter, &training);
        let expected_loss = losses(&training)["steps"][0]["loss"].as_f64().unwrap();
        let apart = (loss - expected_loss).abs() / expected_loss;
        let expected = MappedFile::open(&training.join("first-gradient.safetensors")).unwrap();
        assert_eq!(
            expected.names().len(),
            adapter.parameters().len(),
            "{family}: every tensor has a gradient"
        );
        let load = |name: &str| expected.load(name, Device::Cpu, None).unwrap().reshape([-1]);
        let side = |side: usize| {
            let names: Vec<String> = adapter
                .parameters()
                .into_iter()
                .skip(side)
                .step_by(2)
                .map(|(name, _)| name)
                .collect();
            names.iter().map(|name| load(name)).collect::<Vec<_>>()
        };
        let expected = Tensor::cat(&side(0).into_iter().chain(side(1)).collect::<Vec<_>>(), 0);
        let relative = (&gradient - &expected).norm().double_value(&[]) / expected.norm().double_value(&[]);
        println!("{family}: first loss {apart:.1e} apart, gradient {relative:.1e}");
        assert!(apart <= 5e-6, "{family}: loss {loss}, PEFT has {expected_loss}");
        assert!(relative <= 1e-5, "{family}: gradient {relative}");
    }
}

fn losses(training: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(training.join("losses.json")).unwrap()).unwrap()
}

/// Gradient, as [`Adapter::flat`] lies, and mean cross-entropy over the supervised tokens of the first step.
fn first_step(model: &CausalLm, adapter: &Adapter, training: &Path) -> (Tensor, f64) {
    #[derive(serde::Deserialize)]
    struct Example {
        input_ids: Vec<u32>,
        labels: Vec<i64>,
    }
    let text = fs::read_to_string(training.join("examples.json")).unwrap();
    let examples: Vec<Example> = serde_json::from_str(&text).unwrap();
    let size = losses(training)["hyperparameters"]["batch_size"]
        .as_u64()
        .unwrap();
    let batch = &examples[..usize::try_from(size).unwrap()];
    let weight = |label: &i64| if *label >= 0 { 1.0 } else { 0.0 };
    let weights: Vec<Vec<f32>> = batch
        .iter()
        .map(|example| example.labels.iter().map(weight).collect())
        .collect();
    let supervised: f32 = weights.iter().flat_map(|weights| &weights[1..]).sum();
    let gradient = Tensor::zeros_like(adapter.flat());
    let segment = Segment {
        adapter: Some(adapter),
        gradient: Some(&gradient),
        scale: 1.0 / f64::from(supervised),
        dropout: None,
        documents: batch
            .iter()
            .zip(&weights)
            .map(|(example, weights)| Document {
                tokens: &example.input_ids,
                weights,
            })
            .collect(),
    };
    let scores = model.train_pass(&[segment]).unwrap();
    (
        gradient,
        scores[0].loss_sum.double_value(&[]) / f64::from(supervised),
    )
}
