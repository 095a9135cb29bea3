//! The explicit training pass against LibTorch's autograd on the same model, for every family.
#![allow(clippy::unwrap_used)]

mod support;

use tch::{Device, Kind, Tensor};
use tunesmith_model::{
    Adapter, CausalLm, Document, DropoutKey, Keep, LoraSettings, Precision, Scores, Segment,
};
use tunesmith_types::hyperparameters::TargetModules;

/// Five documents; in one of them nothing is learnt. In the order of their lengths, in which the oracle lays them out and
/// counts the elements of its dropout masks.
fn documents() -> Vec<(Vec<u32>, Vec<f32>)> {
    let lengths = [1usize, 4, 7, 12, 23];
    lengths
        .iter()
        .enumerate()
        .map(|(number, &length)| {
            let token = |place: usize| ((number * 31 + place * 17 + place * place) % 250) as u32;
            let weight = |place: usize| match (number, place % 5) {
                (1, _) | (_, 1) => 0.0,
                (2, 2) => 0.5,
                _ => 1.0,
            };
            (
                (0..length).map(token).collect(),
                (0..length).map(weight).collect(),
            )
        })
        .collect()
}

fn views(documents: &[(Vec<u32>, Vec<f32>)]) -> Vec<Document<'_>> {
    documents
        .iter()
        .map(|(tokens, weights)| Document { tokens, weights })
        .collect()
}

fn settings(targets: &[&str], rank: i64, dropout: f64) -> LoraSettings {
    LoraSettings {
        rank,
        alpha: 6.0,
        use_rslora: false,
        dropout,
        target_modules: TargetModules::parse(targets).unwrap(),
        rank_pattern: std::collections::BTreeMap::new(),
        alpha_pattern: std::collections::BTreeMap::new(),
        layers_to_transform: None,
    }
}

/// An adapter whose matrices are all different from zero.
fn adapter(model: &CausalLm, settings: LoraSettings, seed: u64) -> Adapter {
    let adapter = Adapter::fresh(model.config(), settings, seed, Device::Cpu).unwrap();
    tch::manual_seed(seed as i64);
    let _guard = tch::no_grad_guard();
    let noise = Tensor::randn(adapter.flat().size(), (Kind::Float, Device::Cpu)) * 0.05;
    let _ = adapter.flat().shallow_clone().g_add_(&noise);
    adapter
}

fn buffer(adapter: &Adapter) -> Tensor {
    Tensor::zeros(adapter.flat().size(), (Kind::Float, Device::Cpu))
}

fn segment<'a>(
    adapter: &'a Adapter,
    gradient: &'a Tensor,
    documents: &'a [(Vec<u32>, Vec<f32>)],
    dropout: Option<DropoutKey>,
) -> Segment<'a> {
    Segment {
        adapter: Some(adapter),
        gradient: Some(gradient),
        scale: 0.125,
        dropout,
        documents: views(documents),
    }
}

/// Relative to the norm of `expected`.
fn distance(found: &Tensor, expected: &Tensor) -> f64 {
    ((found - expected).norm() / expected.norm()).double_value(&[])
}

fn assert_scores(found: &Scores, expected: &Scores, what: &str) {
    let (found_loss, expected_loss) = (
        found.loss_sum.double_value(&[]),
        expected.loss_sum.double_value(&[]),
    );
    assert!(
        (found_loss - expected_loss).abs() < 2e-6 * expected_loss.abs(),
        "{what}: {found_loss} {expected_loss}"
    );
    assert_eq!(
        found.correct.int64_value(&[]),
        expected.correct.int64_value(&[]),
        "{what}"
    );
}

/// Gradients agree to 1e-5 of their norm: both are float32 sums in another order.
fn compare(model: &CausalLm, adapter: &Adapter, dropout: Option<DropoutKey>, what: &str) {
    let documents = documents();
    let (ours, theirs) = (buffer(adapter), buffer(adapter));
    let expected = model
        .autograd_pass(&segment(adapter, &theirs, &documents, dropout), true)
        .unwrap();
    let found = model
        .train_pass(&[segment(adapter, &ours, &documents, dropout)])
        .unwrap();
    assert_scores(&found[0], &expected, what);
    let distance = distance(&ours, &theirs);
    assert!(distance < 1e-5, "{what}: gradients differ by {distance}");
    let scored = model
        .score_pass(&[segment(adapter, &ours, &documents, dropout)])
        .unwrap();
    assert_scores(&scored[0], &expected, what);
}

fn load(family: &str) -> CausalLm {
    let folder = support::golden(family).join("base");
    CausalLm::load(&folder, Device::Cpu, Precision::uniform(Kind::Float)).unwrap()
}

#[test]
fn every_family_agrees_with_autograd() {
    for family in support::FAMILIES {
        let model = load(family);
        let adapter = adapter(&model, settings(&["all-linear"], 4, 0.0), 3);
        compare(&model, &adapter, None, family);
    }
}

#[test]
fn dropout_has_the_same_masks() {
    let key = DropoutKey {
        seed: 5,
        step: 2,
        micro_batch: 1,
    };
    for family in support::FAMILIES {
        let model = load(family);
        let adapter = adapter(&model, settings(&["all-linear"], 4, 0.3), 3);
        compare(&model, &adapter, Some(key), family);
    }
}

/// The gradient, and the summed loss, of a pass that keeps everything and of one that recomputes.
fn kept_and_recomputed(model: &CausalLm, adapter: &Adapter, key: Option<DropoutKey>) -> [(Tensor, f64); 2] {
    let documents = documents();
    [Keep::All, Keep::Inputs].map(|keep| {
        let gradient = buffer(adapter);
        let scores = model
            .train_pass_keeping(&[segment(adapter, &gradient, &documents, key)], keep)
            .unwrap();
        (gradient, scores[0].loss_sum.double_value(&[]))
    })
}

#[test]
fn recomputation_changes_no_bit() {
    let key = DropoutKey {
        seed: 5,
        step: 2,
        micro_batch: 1,
    };
    let last = LoraSettings {
        layers_to_transform: Some(vec![1]),
        ..settings(&["all-linear"], 4, 0.0)
    };
    let choices = [
        // Without dropout the last block is pruned.
        ("pruned", settings(&["all-linear"], 4, 0.0)),
        ("dropout", settings(&["all-linear"], 4, 0.3)),
        (
            "embedding",
            settings(&["embed_tokens", "k_proj", "down_proj"], 3, 0.0),
        ),
        ("last block only", last),
        ("head only", settings(&["lm_head"], 3, 0.0)),
    ];
    for family in support::FAMILIES {
        for kind in [Kind::Float, Kind::BFloat16] {
            let folder = support::golden(family).join("base");
            let model = CausalLm::load(&folder, Device::Cpu, Precision::uniform(kind)).unwrap();
            for (what, settings) in &choices {
                // Phi has merged modules, so it knows no k_proj.
                if family == "phi3" && *what == "embedding" {
                    continue;
                }
                let adapter = adapter(&model, settings.clone(), 3);
                let [(kept, loss), (again, loss_again)] = kept_and_recomputed(&model, &adapter, Some(key));
                assert!(kept.norm().double_value(&[]) > 0.0, "{family}, {what}");
                assert_eq!(loss, loss_again, "{family}, {kind:?}, {what}");
                assert!(kept.equal(&again), "{family}, {kind:?}, {what}");
            }
        }
    }
}

#[test]
fn every_choice_of_modules_agrees() {
    let model = load("qwen");
    let choices: [&[&str]; 7] = [
        &["v_proj"],
        &["q_proj", "v_proj", "down_proj"],
        &["o_proj"],
        &["down_proj"],
        &["lm_head"],
        &["embed_tokens"],
        &["embed_tokens", "k_proj", "up_proj", "lm_head"],
    ];
    for targets in choices {
        let adapter = adapter(&model, settings(targets, 3, 0.0), 4);
        compare(&model, &adapter, None, &targets.join(","));
    }
    let last = LoraSettings {
        layers_to_transform: Some(vec![1]),
        ..settings(&["all-linear"], 2, 0.0)
    };
    compare(&model, &adapter(&model, last, 5), None, "last block only");
}

#[test]
fn segments_do_not_touch_each_other() {
    let model = load("llama");
    let documents = documents();
    let adapters = [
        adapter(&model, settings(&["all-linear"], 4, 0.0), 1),
        adapter(&model, settings(&["q_proj", "down_proj", "lm_head"], 2, 0.2), 2),
        adapter(&model, settings(&["v_proj"], 7, 0.0), 3),
    ];
    let parts = [&documents[..3], &documents[2..4], &documents[1..]];
    let key = DropoutKey {
        seed: 1,
        step: 0,
        micro_batch: 0,
    };
    let together: Vec<Tensor> = adapters.iter().map(buffer).collect();
    let segments: Vec<Segment<'_>> = (0..3)
        .map(|place| segment(&adapters[place], &together[place], parts[place], Some(key)))
        .collect();
    let found = model.train_pass(&segments).unwrap();
    for place in 0..3 {
        let alone = buffer(&adapters[place]);
        let expected = model
            .train_pass(&[segment(&adapters[place], &alone, parts[place], Some(key))])
            .unwrap();
        assert_scores(&found[place], &expected[0], "gang");
        let distance = distance(&together[place], &alone);
        assert!(distance < 1e-5, "job {place}: {distance}");
    }
}

#[test]
fn a_documents_loss_does_not_depend_on_its_neighbours() {
    let model = load("mistral");
    let adapter = adapter(&model, settings(&["all-linear"], 4, 0.0), 3);
    let (documents, gradient) = (documents(), buffer(&adapter));
    let loss = |documents: &[(Vec<u32>, Vec<f32>)]| {
        let scores = model
            .score_pass(&[segment(&adapter, &gradient, documents, None)])
            .unwrap();
        scores[0].loss_sum.double_value(&[])
    };
    let alone: f64 = documents.iter().map(|one| loss(std::slice::from_ref(one))).sum();
    let together = loss(&documents);
    assert!((alone - together).abs() < 1e-6 * together, "{alone} {together}");
}

#[test]
fn nothing_learnt_is_no_loss_and_no_gradient() {
    let model = load("llama");
    let adapter = adapter(&model, settings(&["all-linear"], 4, 0.0), 3);
    let gradient = buffer(&adapter);
    let silent = vec![(vec![1, 2, 3], vec![0.0; 3])];
    let scores = model
        .train_pass(&[segment(&adapter, &gradient, &silent, None)])
        .unwrap();
    assert_eq!(scores[0].loss_sum.double_value(&[]), 0.0);
    assert_eq!(gradient.abs().max().double_value(&[]), 0.0);
    let wrong = vec![(vec![1, 9999], vec![1.0; 2])];
    assert!(
        model
            .train_pass(&[segment(&adapter, &gradient, &wrong, None)])
            .is_err()
    );
}
