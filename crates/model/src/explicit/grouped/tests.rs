//! All jobs at once against job by job, on the CPU: only the sums' order and, in bfloat16, the rounding differ.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use tunesmith_types::hyperparameters::TargetModules;

use super::super::{Keep, Layout, Patches};
use super::*;
use crate::adapter::{Adapter, LoraSettings};
use crate::causal_lm::{CausalLm, Precision};
use crate::dropout::DropoutKey;
use crate::modules::Projection;
use crate::training::{Document, Segment};

/// Rank, alpha, dropout, modules, and the lengths of the documents; from a negative one nothing is learnt.
type Job<'a> = (i64, f64, f64, &'a [&'a str], &'a [i64]);

/// Tokens and weights of a job's documents.
type Documents = Vec<(Vec<u32>, Vec<f32>)>;

const ALL: &[&str] = &["all-linear"];
const KEY: DropoutKey = DropoutKey {
    seed: 1,
    step: 2,
    micro_batch: 0,
};

fn load(family: &str, kind: Kind) -> CausalLm {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let folder = golden.join(family).join("base");
    CausalLm::load(&folder, Device::Cpu, Precision::uniform(kind)).unwrap()
}

/// With matrices that are all different from zero.
fn adapter(model: &CausalLm, (rank, alpha, dropout, targets, _): Job<'_>, seed: u64) -> Adapter {
    let settings = LoraSettings {
        rank,
        alpha,
        use_rslora: false,
        dropout,
        target_modules: TargetModules::parse(targets).unwrap(),
        rank_pattern: BTreeMap::new(),
        alpha_pattern: BTreeMap::new(),
        layers_to_transform: None,
    };
    let adapter = Adapter::fresh(model.config(), settings, seed, Device::Cpu).unwrap();
    tch::manual_seed(seed as i64);
    let noise = Tensor::randn(adapter.flat().size(), (Kind::Float, Device::Cpu)) * 0.05;
    let _ = adapter.flat().shallow_clone().g_add_(&noise);
    adapter
}

fn documents(job: usize, lengths: &[i64]) -> Documents {
    let document = |(number, length): (usize, &i64)| {
        let tokens = (0..length.unsigned_abs() as usize).map(|place| {
            let token = job * 53 + number * 31 + place * 17 + place * place;
            (token % 250) as u32
        });
        let weight = |place| if *length < 0 || place % 5 == 1 { 0.0 } else { 1.0 };
        let tokens: Vec<u32> = tokens.collect();
        let weights = (0..tokens.len()).map(weight).collect();
        (tokens, weights)
    };
    lengths.iter().enumerate().map(document).collect()
}

/// All that the jobs of one pass need, and last a job without an adapter.
struct Gang {
    model: CausalLm,
    adapters: Vec<Adapter>,
    documents: Vec<Documents>,
}

impl Gang {
    fn new(family: &str, kind: Kind, jobs: &[Job<'_>]) -> Self {
        let model = load(family, kind);
        let adapters = jobs
            .iter()
            .zip(1..)
            .map(|(&job, seed)| adapter(&model, job, seed));
        let lengths = jobs.iter().map(|job| job.4).chain([&[6][..]]);
        Self {
            adapters: adapters.collect(),
            documents: lengths
                .enumerate()
                .map(|(job, lengths)| documents(job, lengths))
                .collect(),
            model,
        }
    }

    fn gradients(&self) -> Vec<Tensor> {
        let buffer = |adapter: &Adapter| Tensor::zeros(adapter.flat().size(), (Kind::Float, Device::Cpu));
        self.adapters.iter().map(buffer).collect()
    }

    fn segments<'a>(&'a self, gradients: &'a [Tensor]) -> Vec<Segment<'a>> {
        let segment = |(job, documents): (usize, &'a Documents)| Segment {
            adapter: self.adapters.get(job),
            gradient: gradients.get(job),
            scale: 0.125,
            dropout: Some(KEY),
            documents: documents
                .iter()
                .map(|(tokens, weights)| Document { tokens, weights })
                .collect(),
        };
        self.documents.iter().enumerate().map(segment).collect()
    }

    /// Each job's gradient and summed loss.
    fn train(&self, keep: Keep, grouped: bool) -> Vec<(Option<Tensor>, f64)> {
        let mut gradients = self.gradients();
        let segments = self.segments(&gradients);
        let scores = self.model.explicit_pass(&segments, Some(keep), grouped).unwrap();
        drop(segments);
        let losses = scores.iter().map(|scores| scores.loss_sum.double_value(&[]));
        let gradients = gradients.drain(..).map(Some).chain([None]);
        gradients.zip(losses).collect()
    }

    /// For each product whether its jobs are taken together, in all blocks.
    fn grouped(&self) -> [bool; 4] {
        let gradients = self.gradients();
        let segments = self.segments(&gradients);
        let layout = Layout::new(&segments, self.model.config().vocab_size, Device::Cpu).unwrap();
        let _guard = tch::no_grad_guard();
        let patches = Patches::new(&self.model, &segments, &layout, true, true).unwrap();
        Projection::ALL.map(|product| {
            (0..self.model.config().layers)
                .all(|block| patches.of_block(block)[product as usize].is_grouped())
        })
    }
}

/// Relative to the norm of `expected`.
fn distance(found: &Tensor, expected: &Tensor) -> f64 {
    ((found - expected).norm() / expected.norm()).double_value(&[])
}

fn compare(gang: &Gang, keep: Keep, tolerance: f64, what: &str) {
    let (found, expected) = (gang.train(keep, true), gang.train(keep, false));
    for (job, ((gradient, loss), (own, own_loss))) in found.iter().zip(&expected).enumerate() {
        assert!(
            (loss - own_loss).abs() <= tolerance * own_loss,
            "{what}, job {job}: {loss} {own_loss}"
        );
        let (Some(gradient), Some(own)) = (gradient, own) else {
            continue;
        };
        if *own_loss == 0.0 {
            assert_eq!(gradient.abs().max().double_value(&[]), 0.0, "{what}, job {job}");
        } else {
            let distance = distance(gradient, own);
            assert!(
                distance < tolerance,
                "{what}, job {job}: gradients differ by {distance}"
            );
        }
    }
}

/// Ranks, scales, modules and token counts differ; one job has no document in the pass, and from one nothing is learnt.
const MIXED: [Job<'_>; 5] = [
    (8, 16.0, 0.0, ALL, &[9, 14]),
    (11, 7.0, 0.0, &["q_proj", "v_proj", "up_proj", "down_proj"], &[12]),
    (3, 3.0, 0.0, ALL, &[]),
    (16, 8.0, 0.0, ALL, &[5, 1, 23]),
    (4, 8.0, 0.0, ALL, &[-7]),
];

#[test]
fn jobs_together_are_jobs_one_by_one() {
    for family in ["llama", "gemma3"] {
        let gang = Gang::new(family, Kind::Float, &MIXED);
        assert_eq!(gang.grouped(), [true; 4], "{family}");
        for keep in [Keep::All, Keep::Inputs] {
            compare(&gang, keep, 1e-5, &format!("{family}, {keep:?}"));
        }
    }
}

/// Through LibTorch's grouped product. Both ways are compared with the same pass in float32; of single jobs now the one and
/// now the other is nearer, so their errors are added up.
#[test]
fn bfloat16_rounds_as_much_as_job_by_job() {
    let mut errors = [0.0; 2];
    for family in ["llama", "mistral", "qwen3", "gemma2", "gemma3"] {
        let exact = Gang::new(family, Kind::Float, &MIXED).train(Keep::All, false);
        let gang = Gang::new(family, Kind::BFloat16, &MIXED);
        assert_eq!(gang.grouped(), [true; 4], "{family}");
        for (grouped, error) in [true, false].into_iter().zip(&mut errors) {
            for ((gradient, loss), (own, own_loss)) in gang.train(Keep::All, grouped).iter().zip(&exact) {
                assert!(
                    (loss - own_loss).abs() <= 1e-2 * own_loss,
                    "{family}: {loss} {own_loss}"
                );
                if let (Some(gradient), Some(own), true) = (gradient, own, *own_loss > 0.0) {
                    *error += distance(gradient, own);
                }
            }
        }
    }
    let [together, alone] = errors;
    assert!(alone > 0.0 && together < 1.2 * alone, "{together} {alone}");
}

#[test]
fn what_only_one_job_adapts_is_left_alone() {
    let jobs: [Job<'_>; 3] = [
        (8, 16.0, 0.0, ALL, &[9, 14]),
        (
            8,
            16.0,
            0.0,
            &["q_proj", "v_proj", "lm_head", "embed_tokens"],
            &[12],
        ),
        (8, 16.0, 0.0, &["k_proj"], &[20]),
    ];
    let gang = Gang::new("llama", Kind::Float, &jobs);
    assert_eq!(gang.grouped(), [true, false, false, false]);
    compare(&gang, Keep::All, 1e-5, "some modules");
}

#[test]
fn dropout_and_ranks_far_apart_are_left_alone() {
    let with_dropout: [Job<'_>; 2] = [(8, 16.0, 0.3, ALL, &[9, 14]), (8, 16.0, 0.0, ALL, &[12])];
    let far_apart: [Job<'_>; 2] = [(1, 2.0, 0.0, &["q_proj"], &[40]), (16, 32.0, 0.0, ALL, &[3])];
    for jobs in [with_dropout, far_apart] {
        let gang = Gang::new("llama", Kind::Float, &jobs);
        assert_eq!(gang.grouped(), [false; 4]);
        compare(&gang, Keep::All, 1e-6, "left alone");
    }
}

#[test]
fn no_more_is_kept_than_is_reckoned_with() {
    let gang = Gang::new("llama", Kind::Float, &MIXED);
    let gradients = gang.gradients();
    let segments = gang.segments(&gradients);
    let layout = Layout::new(&segments, gang.model.config().vocab_size, Device::Cpu).unwrap();
    let _guard = tch::no_grad_guard();
    let patches = Patches::new(&gang.model, &segments, &layout, true, true).unwrap();
    let columns: i64 = patches.of_block(0).iter().map(|product| product.columns()).sum();
    let modules = gang.model.config().modules.len() as i64;
    let charged: i64 = gang
        .adapters
        .iter()
        .zip(&layout.segments)
        .map(|(adapter, rows)| rows.count * most_ranks(adapter.ranks_per_block(), modules))
        .sum();
    assert!(
        columns > 0 && columns * layout.tokens() <= charged,
        "{columns} {charged}"
    );
}
