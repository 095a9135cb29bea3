//! Which modules of a model an adapter sits on, and with what rank and scale: PEFT's rules.

use regex::Regex;
use tunesmith_types::hyperparameters::TargetForm;

use crate::adapter::{LoraSettings, Side};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::modules::Site;

/// A module that is adapted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Target {
    pub(crate) site: Site,
    pub(crate) rank: i64,
    pub(crate) scale: f64,
}

impl Target {
    /// The adapted modules, in the order of [`Site::all`].
    ///
    /// # Errors
    /// None is targeted, a block is not there, or a pattern is no regular expression.
    pub(crate) fn resolve(config: &ModelConfig, settings: &LoraSettings) -> Result<Vec<Self>, ModelError> {
        check_layers(config, settings)?;
        let ranks = Pattern::compile("rank_pattern", &settings.rank_pattern)?;
        let alphas = Pattern::compile("alpha_pattern", &settings.alpha_pattern)?;
        let matcher = Matcher::new(settings)?;
        let mut targets = Vec::new();
        for site in Site::all(config) {
            let name = site.name(config);
            if matcher.matches(site, &name) {
                let rank = ranks.value(&name).unwrap_or(settings.rank);
                let alpha = alphas.value(&name).unwrap_or(settings.alpha);
                let scale = settings.scale(rank, alpha);
                targets.push(Self { site, rank, scale });
            }
        }
        if targets.is_empty() {
            let modules = config.modules.iter().map(|module| module.path);
            return Err(ModelError::NoTargetModule {
                modules: modules
                    .chain(["lm_head", "embed_tokens"])
                    .map(str::to_owned)
                    .collect(),
            });
        }
        Ok(targets)
    }

    /// Shape of one of the two matrices.
    pub(crate) fn shape(&self, config: &ModelConfig, side: Side) -> [i64; 2] {
        let (outputs, inputs) = self.site.shape(config);
        match side {
            Side::A => [self.rank, inputs],
            Side::B => [outputs, self.rank],
        }
    }

    /// The rank above which a pair can say nothing more.
    fn rank_limit(&self, config: &ModelConfig) -> i64 {
        let (outputs, inputs) = self.site.shape(config);
        outputs.min(inputs)
    }

    /// PEFT trains larger ranks, to no use. Of several modules that are too small the smallest is named, so that one
    /// correction will do.
    pub(crate) fn check_ranks(targets: &[Self], config: &ModelConfig) -> Result<(), ModelError> {
        let too_small = targets
            .iter()
            .filter(|target| target.rank > target.rank_limit(config))
            .min_by_key(|target| target.rank_limit(config));
        match too_small {
            None => Ok(()),
            Some(target) => Err(ModelError::RankTooLarge {
                module: target.site.name(config),
                rank: target.rank,
                limit: target.rank_limit(config),
            }),
        }
    }
}

fn check_layers(config: &ModelConfig, settings: &LoraSettings) -> Result<(), ModelError> {
    let Some(layers) = &settings.layers_to_transform else {
        return Ok(());
    };
    if let TargetForm::Pattern(_) = settings.target_modules.form() {
        return Err(ModelError::InvalidLora {
            field: "layers_to_transform",
            reason:
                "it goes with a list of names; let the regular expression in `target_modules` name the blocks"
                    .to_owned(),
        });
    }
    match layers.iter().find(|&&layer| layer as usize >= config.layers) {
        Some(&layer) => Err(ModelError::LayerOutOfRange {
            layer,
            layers: config.layers,
        }),
        None => Ok(()),
    }
}

/// What is targeted.
struct Matcher<'a> {
    settings: &'a LoraSettings,
    /// Of the form that is one.
    pattern: Option<Regex>,
}

impl<'a> Matcher<'a> {
    fn new(settings: &'a LoraSettings) -> Result<Self, ModelError> {
        let pattern = match settings.target_modules.form() {
            TargetForm::Pattern(pattern) => Some(whole("target_modules", "", pattern)?),
            TargetForm::AllLinear | TargetForm::Names(_) => None,
        };
        Ok(Self { settings, pattern })
    }

    fn matches(&self, site: Site, name: &str) -> bool {
        let is_named = match self.settings.target_modules.form() {
            TargetForm::Pattern(_) => self.pattern.as_ref().is_some_and(|regex| regex.is_match(name)),
            TargetForm::AllLinear => matches!(site, Site::Block { .. }),
            TargetForm::Names(names) => names.iter().any(|end| {
                let before = name.strip_suffix(end.as_str());
                before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
            }),
        };
        is_named && self.is_in_layers(site)
    }

    /// A module outside the blocks is in none of the named ones.
    fn is_in_layers(&self, site: Site) -> bool {
        match (&self.settings.layers_to_transform, site) {
            (None, _) => true,
            (Some(layers), Site::Block { layer, .. }) => layers.iter().any(|&named| named as usize == layer),
            (Some(_), Site::Embedding | Site::Head) => false,
        }
    }
}

/// A value by a regular expression on the end of a module's name: the first that fits.
pub(crate) struct Pattern<V>(Vec<(Regex, V)>);

impl<V: Copy> Pattern<V> {
    pub(crate) fn compile<'a>(
        field: &'static str,
        entries: impl IntoIterator<Item = (&'a String, &'a V)>,
    ) -> Result<Self, ModelError>
    where
        V: 'a,
    {
        let compiled = entries
            .into_iter()
            .map(|(key, &value)| Ok((whole(field, r"(?:.*\.)?", key)?, value)));
        Ok(Self(compiled.collect::<Result<_, ModelError>>()?))
    }

    pub(crate) fn value(&self, name: &str) -> Option<V> {
        let found = self.0.iter().find(|(regex, _)| regex.is_match(name));
        found.map(|(_, value)| *value)
    }
}

fn whole(field: &'static str, before: &str, pattern: &str) -> Result<Regex, ModelError> {
    Regex::new(&format!("^{before}(?:{pattern})$")).map_err(|error| ModelError::InvalidLora {
        field,
        reason: error.to_string(),
    })
}
