//! Which modules of the base model get an adapter, in PEFT's words.
//!
//! Only the form is checked here; whether the base model has such modules is known once its configuration is read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::bounded::{LoraAlpha, LoraRank};
use super::selection;
use crate::error::ParameterError;

/// PEFT's word for every linear layer of the blocks.
pub const ALL_LINEAR: &str = "all-linear";

/// Names of modules that can be adapted: linear layers of the families that are built in, output head, embedding.
pub const MODULE_NAMES: [&str; 11] = [
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
    "qkv_proj",
    "gate_up_proj",
    "lm_head",
    "embed_tokens",
];

/// Longest regular expression.
const MOST_PATTERN_BYTES: usize = 1000;
/// Most entries of a list or a pattern map.
const MOST_ENTRIES: usize = 256;

/// Which modules get an adapter. In JSON a string (`"all-linear"`, or a regular expression) or a list of names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum TargetModulesRequest {
    /// `all-linear`, or a regular expression that a module's whole name must match, such as
    /// `.*layers\.[0-3]\..*(q|v)_proj`.
    Pattern(String),
    /// Names such as `q_proj`, or their ends such as `self_attn.q_proj`.
    Names(Vec<String>),
}

/// Checked [`TargetModulesRequest`]: names are sorted and without repeats, a pattern compiles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(transparent)]
pub struct TargetModules(TargetModulesRequest);

/// The three forms of [`TargetModules`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetForm<'a> {
    /// Every linear layer of the blocks.
    AllLinear,
    /// Modules whose name is, or ends with a dot and, one of these.
    Names(&'a [String]),
    /// Modules whose whole name matches.
    Pattern(&'a str),
}

impl TargetModules {
    /// Every linear layer of the blocks.
    #[must_use]
    pub fn all_linear() -> Self {
        Self(TargetModulesRequest::Pattern(ALL_LINEAR.to_owned()))
    }

    /// Checks a request.
    ///
    /// # Errors
    /// An empty list, a name that no family has, or a pattern that is not a regular expression.
    pub fn new(request: TargetModulesRequest) -> Result<Self, ParameterError> {
        match request {
            TargetModulesRequest::Pattern(pattern) => {
                if pattern != ALL_LINEAR {
                    check_target_pattern(&pattern)?;
                }
                Ok(Self(TargetModulesRequest::Pattern(pattern)))
            }
            TargetModulesRequest::Names(names) => Self::from_names(names),
        }
    }

    /// Parses names such as `q_proj`, or the single keyword `all-linear`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn parse<S: AsRef<str>>(names: &[S]) -> Result<Self, ParameterError> {
        Self::from_names(names.iter().map(|name| name.as_ref().to_owned()).collect())
    }

    fn from_names(mut names: Vec<String>) -> Result<Self, ParameterError> {
        if let [keyword] = &names[..]
            && keyword == ALL_LINEAR
        {
            return Ok(Self::all_linear());
        }
        let known = MODULE_NAMES.join(", ");
        if names.is_empty() || names.len() > MOST_ENTRIES {
            return Err(ParameterError::new(
                "target_modules",
                format!(
                    "`target_modules` has {} names; give \"all-linear\" or some of {known}.",
                    names.len()
                ),
            ));
        }
        if let Some(unknown) = names.iter().find(|name| !MODULE_NAMES.contains(&last_part(name))) {
            let message = if unknown == ALL_LINEAR {
                "`target_modules`: \"all-linear\" stands alone; it names every linear layer already."
                    .to_owned()
            } else {
                format!(
                    "`target_modules` must be \"all-linear\", a list of names out of {known}, or a regular expression as \
                     one string; `{unknown:.80}` is none of these."
                )
            };
            return Err(ParameterError::new("target_modules", message));
        }
        names.sort_unstable();
        names.dedup();
        Ok(Self(TargetModulesRequest::Names(names)))
    }

    /// What is asked for.
    #[must_use]
    pub fn form(&self) -> TargetForm<'_> {
        match &self.0 {
            TargetModulesRequest::Pattern(pattern) if pattern == ALL_LINEAR => TargetForm::AllLinear,
            TargetModulesRequest::Pattern(pattern) => TargetForm::Pattern(pattern),
            TargetModulesRequest::Names(names) => TargetForm::Names(names),
        }
    }
}

impl From<TargetModules> for TargetModulesRequest {
    fn from(modules: TargetModules) -> Self {
        modules.0
    }
}

impl<'de> Deserialize<'de> for TargetModules {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(TargetModulesRequest::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Ranks or alphas of single modules, by a pattern on the end of their names (PEFT's `rank_pattern` and
/// `alpha_pattern`): `{"q_proj": 32, "layers.0.mlp.down_proj": 4}`.
pub type RankPattern = BTreeMap<String, LoraRank>;
/// As [`RankPattern`].
pub type AlphaPattern = BTreeMap<String, LoraAlpha>;

/// Checks the keys of a rank or alpha pattern.
pub(super) fn check_keys<V>(field: &str, map: &BTreeMap<String, V>) -> Result<(), ParameterError> {
    if map.len() > MOST_ENTRIES {
        return Err(ParameterError::new(
            field,
            format!(
                "`{field}` has {} entries; at most {MOST_ENTRIES} are allowed.",
                map.len()
            ),
        ));
    }
    map.keys().try_for_each(|key| check_pattern(field, key))
}

/// A module's own name, without those of the modules around it.
fn last_part(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or_default()
}

/// A whole name never is one of [`MODULE_NAMES`] within a block, so such a pattern would match nothing.
fn check_target_pattern(pattern: &str) -> Result<(), ParameterError> {
    check_pattern("target_modules", pattern)?;
    if MODULE_NAMES.contains(&last_part(pattern)) && !pattern.contains(['*', '+', '\\', '(', '[']) {
        return Err(ParameterError::new(
            "target_modules",
            format!(
                "`target_modules`: the string `{pattern}` is taken for a regular expression of whole module names; give a \
                 list: [\"{pattern}\"]."
            ),
        ));
    }
    Ok(())
}

fn check_pattern(field: &str, pattern: &str) -> Result<(), ParameterError> {
    let refuse = |why: String| {
        Err(ParameterError::new(
            field,
            format!("`{field}`: `{pattern:.80}` {why}."),
        ))
    };
    if pattern.is_empty() || pattern.len() > MOST_PATTERN_BYTES {
        return refuse(format!("must have 1 to {MOST_PATTERN_BYTES} bytes"));
    }
    match selection::check(pattern) {
        Ok(()) => Ok(()),
        Err(error) => refuse(format!("is not a regular expression: {error}")),
    }
}
