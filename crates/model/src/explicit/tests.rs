#![allow(clippy::unwrap_used)]
use std::collections::HashMap;
use std::path::Path;

use tch::{Device, Kind, Tensor};
use tunesmith_types::hyperparameters::TargetModules;

use super::*;
use crate::adapter::{Adapter, LoraSettings};
use crate::causal_lm::Precision;
use crate::training::Document;

/// Plain, with norms of queries and keys, with norms behind the halves, with both, and with merged projections.
const FAMILIES: [&str; 7] = ["llama", "mistral", "qwen", "qwen3", "gemma2", "gemma3", "phi3"];
const TOKENS: i64 = 37;

/// Bytes of distinct tensors.
#[derive(Default)]
struct Bytes(HashMap<usize, usize>);

impl Bytes {
    fn add(&mut self, tensor: &Tensor) {
        let bytes = tensor.numel() * tensor.kind().elt_size_in_bytes();
        self.0.insert(tensor.data_ptr() as usize, bytes);
    }

    fn add_kept(&mut self, kept: &Kept) {
        match kept {
            Kept::All(saved) => saved.tensors().into_iter().for_each(|tensor| self.add(tensor)),
            Kept::Input(x) => self.add(x),
        }
    }

    fn total(&self) -> i64 {
        self.0.values().sum::<usize>() as i64
    }
}

fn load(family: &str, kind: Kind) -> CausalLm {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    CausalLm::load(
        &golden.join(family).join("base"),
        Device::Cpu,
        Precision::uniform(kind),
    )
    .unwrap()
}

fn adapter(model: &CausalLm) -> Adapter {
    let settings = LoraSettings {
        rank: 3,
        alpha: 6.0,
        use_rslora: false,
        dropout: 0.0,
        target_modules: TargetModules::parse(&["all-linear"]).unwrap(),
        rank_pattern: std::collections::BTreeMap::new(),
        alpha_pattern: std::collections::BTreeMap::new(),
        layers_to_transform: None,
    };
    Adapter::fresh(model.config(), settings, 1, Device::Cpu).unwrap()
}

/// Bytes of the tensors that are there when the backward pass is in the last block.
fn really_kept(model: &CausalLm, adapter: &Adapter, keep: Keep) -> i64 {
    let _guard = no_grad_guard();
    // The last token is only learnt, so it is no row.
    let tokens: Vec<u32> = (0..=TOKENS as u32).collect();
    let weights = vec![1.0; tokens.len()];
    let gradient = Tensor::zeros(adapter.flat().size(), (Kind::Float, Device::Cpu));
    let segments = [Segment {
        adapter: Some(adapter),
        gradient: Some(&gradient),
        scale: 1.0,
        dropout: None,
        documents: vec![Document {
            tokens: &tokens,
            weights: &weights,
        }],
    }];
    let layout = Layout::new(&segments, model.config().vocab_size, Device::Cpu).unwrap();
    assert_eq!((layout.tokens(), layout.scored_rows()), (TOKENS, TOKENS));
    let patches = Patches::new(model, &segments, &layout, true, false).unwrap();
    let pass = Pass::new(model, &layout, &patches).unwrap();
    let (_, kept) = pass.forward(Some(keep)).unwrap();
    assert_eq!(kept.len(), model.config().layers);
    let mut bytes = Bytes::default();
    kept.iter().for_each(|kept| bytes.add_kept(kept));
    let last = kept.len() - 1;
    let restored = match &kept[last] {
        Kept::All(_) => None,
        Kept::Input(x) => Some(
            pass.block_pass(last, &model.blocks[last])
                .restore(x.shallow_clone())
                .unwrap(),
        ),
    };
    if let Some(saved) = &restored {
        saved.tensors().into_iter().for_each(|tensor| bytes.add(tensor));
    }
    bytes.total()
}

#[test]
fn the_formula_counts_the_tensors_that_are_kept() {
    for family in FAMILIES {
        for kind in [Kind::Float, Kind::BFloat16] {
            let model = load(family, kind);
            let adapter = adapter(&model);
            let ranks = adapter.ranks_per_block();
            assert_eq!(ranks, 3 * model.config().modules.len() as i64, "{family}");
            for keep in [Keep::All, Keep::Inputs] {
                let expected = TOKENS * model.kept_bytes_per_token(ranks, keep);
                let found = really_kept(&model, &adapter, keep);
                assert_eq!(found, expected, "{family}, {kind:?}, {keep:?}");
            }
            let of = |keep| model.training_bytes_per_token(ranks, keep);
            assert!(of(Keep::Inputs) < of(Keep::All), "{family}");
        }
    }
}
