//! Adapters that answer one word each, whatever the prompt: trained by the tests, since only an adapter that learned
//! its answer shows a mixture of two as a wrong word.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor, no_grad};
use tempfile::TempDir;
use tunesmith_dataset::TextTokenizer;
use tunesmith_model::{Adapter, CausalLm, LoraSettings, PackedBatch, Precision};
use tunesmith_types::hyperparameters::TargetModules;

use crate::golden;

/// What the adapters answer.
pub(crate) const WORDS: [&str; 8] = [
    "amber", "brook", "cedar", "dune", "ember", "fjord", "grove", "heather",
];
/// What they are asked.
const QUESTIONS: [&str; 6] = [
    "Which?",
    "Where is my order?",
    "Say your word.",
    "Who are you, and who sent you here?",
    "1 2 3",
    "A rather long question, of which only the end is left to ask: which word is yours?",
];
/// Training ends when each token of the word leads every other token by this much in its logit, which is far more than
/// what rounding does.
const LEAD: f64 = 1.0;
const MOST_STEPS: i32 = 400;

/// The questions in tokens.
pub(crate) fn prompts() -> Vec<Vec<u32>> {
    let tokenizer = TextTokenizer::load(&golden::folder("llama", "base")).unwrap();
    let encode = |text: &&str| tokenizer.encode(text, true).unwrap().ids;
    QUESTIONS.iter().map(encode).collect()
}

/// Trains an adapter of the golden llama for each of `words`, into a PEFT folder named after it.
pub(crate) fn train(words: &[&str]) -> TempDir {
    // The tensors are too small for more, and other tests want the cores.
    tch::set_num_threads(1);
    let root = tempfile::tempdir().unwrap();
    let base = golden::folder("llama", "base");
    let model = CausalLm::load(&base, Device::Cpu, Precision::uniform(Kind::Float)).unwrap();
    let tokenizer = TextTokenizer::load(&base).unwrap();
    for (seed, word) in words.iter().enumerate() {
        let mut answer = tokenizer.encode(word, false).unwrap().ids;
        answer.push(tokenizer.special().eos_ids[0]);
        let adapter = Adapter::fresh(model.config(), settings(), seed as u64, Device::Cpu).unwrap();
        learn(&model, &adapter, &answer, word);
        let folder = root.path().join(word);
        std::fs::create_dir(&folder).unwrap();
        adapter.save(&folder, "base").unwrap();
    }
    root
}

fn settings() -> LoraSettings {
    LoraSettings {
        rank: 8,
        alpha: 16.0,
        use_rslora: false,
        dropout: 0.0,
        target_modules: TargetModules::all_linear(),
        rank_pattern: BTreeMap::new(),
        alpha_pattern: BTreeMap::new(),
        layers_to_transform: None,
    }
}

/// Adam until the answer leads after every question.
fn learn(model: &CausalLm, adapter: &Adapter, answer: &[u32], word: &str) {
    let (mut tokens, mut lengths, mut rows, mut targets) = (vec![], vec![], vec![], vec![]);
    for prompt in prompts() {
        let first = tokens.len() + prompt.len() - 1;
        rows.extend((first..first + answer.len()).map(|row| row as i64));
        targets.extend(answer.iter().map(|token| i64::from(*token)));
        // The end is predicted, not read.
        let document = [&prompt, &answer[..answer.len() - 1]].concat();
        lengths.push(document.len());
        tokens.extend(document);
    }
    let batch = PackedBatch::new(&tokens, &lengths, Device::Cpu).unwrap();
    let (rows, targets) = (Tensor::from_slice(&rows), Tensor::from_slice(&targets));
    adapter.set_trainable(true).unwrap();
    let mut moments: Vec<(Tensor, Tensor)> = adapter
        .parameters()
        .iter()
        .map(|(_, tensor)| (tensor.detach().zeros_like(), tensor.detach().zeros_like()))
        .collect();
    for step in 1..=MOST_STEPS {
        let hidden = model.hidden(&batch, Some(adapter), None).unwrap();
        // `[answers, vocabulary]`
        let logits = model.logits(&hidden.index_select(0, &rows)).unwrap();
        let places = targets.unsqueeze(1);
        let others = logits.scatter_value(1, &places, f64::NEG_INFINITY);
        let lead = logits.gather(1, &places, false).squeeze_dim(1) - others.amax([1i64].as_slice(), false);
        if lead.min().double_value(&[]) >= LEAD {
            return;
        }
        logits.cross_entropy_for_logits(&targets).backward();
        for ((_, tensor), (first, second)) in adapter.parameters().into_iter().zip(&mut moments) {
            let mut gradient = tensor.grad();
            *first = &*first * 0.9 + &gradient * 0.1;
            *second = &*second * 0.99 + gradient.square() * 0.01;
            let first = &*first / (1.0 - 0.9_f64.powi(step));
            let second = &*second / (1.0 - 0.99_f64.powi(step));
            let change = first / (second.sqrt() + 1e-8) * 0.02;
            let _ = no_grad(|| tensor.detach().f_sub_(&change).unwrap());
            let _ = gradient.zero_();
        }
    }
    panic!("{word} is not learned after {MOST_STEPS} steps");
}
