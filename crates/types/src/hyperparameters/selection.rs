//! Which module gets an adapter, and of which rank: PEFT's rules, applied to the full names of a model's modules.

use regex::{Regex, RegexBuilder};

use super::bounded::{LoraAlpha, LoraRank};
use super::resolved::Hyperparameters;
use super::targets::TargetForm;

/// Bytes that a compiled expression may take, so that no caller can make the process work for long.
const MOST_COMPILED_BYTES: usize = 1 << 20;

/// The targets, patterns and blocks of a job, compiled.
#[derive(Debug)]
pub struct ModuleSelection<'a> {
    targets: Targets<'a>,
    blocks: Option<&'a [u32]>,
    rank: LoraRank,
    alpha: LoraAlpha,
    ranks: Vec<(&'a str, Regex, LoraRank)>,
    alphas: Vec<(&'a str, Regex, LoraAlpha)>,
}

#[derive(Debug)]
enum Targets<'a> {
    AllLinear,
    Names(&'a [String]),
    Pattern(Regex),
}

impl<'a> ModuleSelection<'a> {
    /// Compiles what a job asks for.
    #[must_use]
    pub fn new(hyperparameters: &'a Hyperparameters) -> Self {
        let compiled = |pattern: &str| compile(pattern).expect("invariant: resolving has compiled it");
        let targets = match hyperparameters.target_modules.form() {
            TargetForm::AllLinear => Targets::AllLinear,
            TargetForm::Names(names) => Targets::Names(names),
            TargetForm::Pattern(pattern) => Targets::Pattern(compiled(&whole(pattern))),
        };
        let ranks = hyperparameters.rank_pattern.iter();
        let alphas = hyperparameters.alpha_pattern.iter();
        Self {
            targets,
            blocks: hyperparameters.layers_to_transform.as_deref(),
            rank: hyperparameters.rank,
            alpha: hyperparameters.alpha,
            ranks: ranks
                .map(|(key, rank)| (key.as_str(), compiled(&end(key)), *rank))
                .collect(),
            alphas: alphas
                .map(|(key, alpha)| (key.as_str(), compiled(&end(key)), *alpha))
                .collect(),
        }
    }

    /// Whether the linear layer or embedding of that full name (`model.layers.0.self_attn.q_proj`, `lm_head`) gets an
    /// adapter. With `layers_to_transform`, modules outside the blocks get none.
    #[must_use]
    pub fn selects(&self, module: &str) -> bool {
        let block = block_of(module);
        let named = match &self.targets {
            Targets::AllLinear => block.is_some(),
            Targets::Names(names) => names.iter().any(|name| is_named(module, name)),
            Targets::Pattern(pattern) => pattern.is_match(module),
        };
        let in_block = |blocks: &[u32]| block.is_some_and(|block| blocks.contains(&block));
        named && self.blocks.is_none_or(in_block)
    }

    /// Rank of a selected module.
    #[must_use]
    pub fn rank(&self, module: &str) -> LoraRank {
        self.rank_key(module).map_or(self.rank, |(_, rank)| rank)
    }

    /// The entry of `rank_pattern` that decides the rank of a module, where one does.
    #[must_use]
    pub fn rank_key(&self, module: &str) -> Option<(&'a str, LoraRank)> {
        find(&self.ranks, module)
    }

    /// Alpha of a selected module.
    #[must_use]
    pub fn alpha(&self, module: &str) -> LoraAlpha {
        self.alpha_key(module).map_or(self.alpha, |(_, alpha)| alpha)
    }

    /// The entry of `alpha_pattern` that decides the alpha of a module, where one does.
    #[must_use]
    pub fn alpha_key(&self, module: &str) -> Option<(&'a str, LoraAlpha)> {
        find(&self.alphas, module)
    }
}

/// The first entry, in the order of the keys, that matches.
fn find<'a, V: Copy>(entries: &[(&'a str, Regex, V)], module: &str) -> Option<(&'a str, V)> {
    let (key, _, value) = entries.iter().find(|(_, pattern, _)| pattern.is_match(module))?;
    Some((key, *value))
}

/// Whether `name` is the module's full name or the end of it, behind a dot.
#[must_use]
pub fn is_named(module: &str, name: &str) -> bool {
    let rest = module.strip_suffix(name);
    rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Number of the block that a module lies in: what stands behind `layers.` in its name.
fn block_of(module: &str) -> Option<u32> {
    let mut parts = module.split('.').skip_while(|part| *part != "layers").skip(1);
    parts.next()?.parse().ok()
}

/// The expression that matches where `pattern` matches a whole name.
fn whole(pattern: &str) -> String {
    format!("^(?:{pattern})$")
}

/// The expression that matches where `pattern` matches a whole name, or the end of one behind a dot.
fn end(pattern: &str) -> String {
    format!(r"^(?:.*\.)?(?:{pattern})$")
}

/// A key of PEFT's patterns: an expression on a module's name, or on the end of one.
#[derive(Debug)]
pub struct ModulePattern(Regex);

impl ModulePattern {
    /// Compiles a key.
    ///
    /// # Errors
    /// It is no regular expression, or too large a one.
    pub fn compile(key: &str) -> Result<Self, regex::Error> {
        compile(&end(key)).map(Self)
    }

    /// Whether it is about the module of that full name.
    #[must_use]
    pub fn fits(&self, module: &str) -> bool {
        self.0.is_match(module)
    }
}

/// Compiles under a limit of ours.
pub(super) fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).size_limit(MOST_COMPILED_BYTES).build()
}

/// Whether the expression can be used in every place where a job uses it.
pub(super) fn check(pattern: &str) -> Result<(), regex::Error> {
    compile(pattern)?;
    compile(&end(pattern)).map(|_| ())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;
    use crate::hyperparameters::HyperparametersRequest;

    fn resolved(request: &Value) -> Hyperparameters {
        let request: HyperparametersRequest = serde_json::from_value(request.clone()).unwrap();
        request.resolve(None).unwrap()
    }

    const MODULES: [&str; 6] = [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.mlp.down_proj",
        "model.layers.10.self_attn.q_proj",
        "model.layers.10.mlp.down_proj",
        "model.embed_tokens",
        "lm_head",
    ];

    fn selected(request: &Value) -> Vec<usize> {
        let hyperparameters = resolved(request);
        let selection = ModuleSelection::new(&hyperparameters);
        (0..MODULES.len())
            .filter(|index| selection.selects(MODULES[*index]))
            .collect()
    }

    #[test]
    fn targets_are_pefts() {
        let table = [
            (json!({}), vec![0, 1, 2, 3]),
            (json!({"target_modules": ["q_proj"]}), vec![0, 2]),
            (
                json!({"target_modules": ["mlp.down_proj", "lm_head"]}),
                vec![1, 3, 5],
            ),
            (json!({"target_modules": ["embed_tokens"]}), vec![4]),
            (
                json!({"target_modules": ["model.layers.10.mlp.down_proj"]}),
                vec![3],
            ),
            (
                json!({"target_modules": r"model\.layers\.0\..*q_proj|lm_head"}),
                vec![0, 5],
            ),
            (json!({"target_modules": r"layers.*q_proj"}), vec![]),
            (json!({"layers_to_transform": [10]}), vec![2, 3]),
            (
                json!({"target_modules": ["lm_head", "q_proj"], "layers_to_transform": [0]}),
                vec![0],
            ),
        ];
        for (request, wanted) in table {
            assert_eq!(selected(&request), wanted, "{request}");
        }
    }

    #[test]
    fn patterns_match_the_ends_of_names() {
        let hyperparameters = resolved(&json!({
            "rank": 8, "rank_pattern": {"0.self_attn.q_proj": 4, "down_proj": 2, r"layers\.1\d\..*": 3},
            "alpha": 8, "alpha_pattern": {"proj": 1, "lm_head": 2},
        }));
        let selection = ModuleSelection::new(&hyperparameters);
        assert_eq!(
            MODULES.map(|module| selection.rank(module).get()),
            [4, 2, 3, 2, 8, 8]
        );
        assert_eq!(selection.alpha(MODULES[0]).get(), 8.0, "`proj` is no whole part");
        assert_eq!(selection.alpha("lm_head").get(), 2.0);
        assert_eq!(selection.rank_key(MODULES[1]).unwrap().0, "down_proj");
    }

    #[test]
    fn huge_expressions_are_refused() {
        let request = HyperparametersRequest {
            rank_pattern: Some([(r"(\w{50}){50}".to_owned(), LoraRank::new(4).unwrap())].into()),
            ..Default::default()
        };
        assert_eq!(request.resolve(None).unwrap_err().param, "rank_pattern");
    }
}
