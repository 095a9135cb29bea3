//! What a job that trains an adapter further must leave as it is.

use serde::{Deserialize, Serialize};

use super::bounded::{LoraAlpha, LoraRank};
use super::request::HyperparametersRequest;
use super::targets::{AlphaPattern, RankPattern, TargetModules};
use crate::error::ParameterError;

/// The hyperparameters that an adapter's tensors are bound to. The manifest of every version states them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdapterShape {
    /// LoRA rank.
    pub rank: LoraRank,
    /// LoRA alpha.
    pub alpha: LoraAlpha,
    /// Whether the scale is `alpha / sqrt(rank)`.
    pub use_rslora: bool,
    /// Modules with an adapter.
    pub target_modules: TargetModules,
    /// Ranks of single modules.
    #[serde(default)]
    pub rank_pattern: RankPattern,
    /// Alphas of single modules.
    #[serde(default)]
    pub alpha_pattern: AlphaPattern,
    /// Blocks with an adapter; none is all.
    #[serde(default)]
    pub layers_to_transform: Option<Vec<u32>>,
}

impl AdapterShape {
    /// Names of the hyperparameters.
    pub const FIELDS: [&str; 7] = [
        "rank",
        "alpha",
        "use_rslora",
        "target_modules",
        "rank_pattern",
        "alpha_pattern",
        "layers_to_transform",
    ];
}

impl HyperparametersRequest {
    /// The same request for a job that begins with an adapter of this shape: what is absent is taken from there.
    ///
    /// # Errors
    /// A value is given that differs from the adapter's.
    pub fn continuing(&self, adapter: &AdapterShape) -> Result<Self, ParameterError> {
        let same_targets = match &self.target_modules {
            None => true,
            Some(asked) => TargetModules::new(asked.clone())? == adapter.target_modules,
        };
        let blocks = self.layers_to_transform.clone().map(|mut blocks| {
            blocks.sort_unstable();
            blocks.dedup();
            blocks
        });
        let same = [
            self.rank.is_none_or(|rank| rank == adapter.rank.get()),
            self.alpha.is_none_or(|alpha| alpha == adapter.alpha.get()),
            self.use_rslora.is_none_or(|asked| asked == adapter.use_rslora),
            same_targets,
            self.rank_pattern
                .as_ref()
                .is_none_or(|asked| *asked == adapter.rank_pattern),
            self.alpha_pattern
                .as_ref()
                .is_none_or(|asked| *asked == adapter.alpha_pattern),
            blocks.is_none() || blocks == adapter.layers_to_transform,
        ];
        match AdapterShape::FIELDS.iter().zip(same).find(|(_, same)| !same) {
            Some((field, _)) => Err(differs(field, adapter)),
            None => Ok(Self {
                rank: Some(adapter.rank.get()),
                alpha: Some(adapter.alpha.get()),
                use_rslora: Some(adapter.use_rslora),
                target_modules: Some(adapter.target_modules.clone().into()),
                rank_pattern: Some(adapter.rank_pattern.clone()),
                alpha_pattern: Some(adapter.alpha_pattern.clone()),
                layers_to_transform: adapter.layers_to_transform.clone(),
                ..self.clone()
            }),
        }
    }
}

fn differs(field: &str, adapter: &AdapterShape) -> ParameterError {
    let shape = serde_json::to_value(adapter).unwrap_or_default();
    let message = format!(
        "`{field}` must be what it is in the adapter that the training begins with, {}; leave it out, or begin with a \
         fresh adapter.",
        shape[field]
    );
    ParameterError::new(field, message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;

    fn shape(mut changes: Value) -> AdapterShape {
        let mut resolved =
            serde_json::to_value(HyperparametersRequest::default().resolve(None).unwrap()).unwrap();
        let fields = resolved.as_object_mut().unwrap();
        fields.append(changes.as_object_mut().unwrap());
        serde_json::from_value(resolved).unwrap()
    }

    fn request(value: Value) -> HyperparametersRequest {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_is_absent_is_the_adapters() {
        let adapter = shape(json!({
            "rank": 4, "alpha": 6.0, "use_rslora": true, "target_modules": ["q_proj"], "rank_pattern": {"q_proj": 8},
            "alpha_pattern": {"q_proj": 2.0}, "layers_to_transform": [0, 1],
        }));
        let same = json!({"rank": 4, "alpha": 6, "target_modules": ["q_proj", "q_proj"], "layers_to_transform": [1, 0]});
        for asked in [json!({"learning_rate": 1e-3}), same] {
            let continued = request(asked.clone()).continuing(&adapter).unwrap();
            let resolved = serde_json::to_value(continued.resolve(None).unwrap()).unwrap();
            assert_eq!(serde_json::from_value::<AdapterShape>(resolved).unwrap(), adapter);
            assert_eq!(continued.learning_rate, request(asked).learning_rate);
        }
    }

    #[test]
    fn what_differs_is_refused_by_its_name() {
        let others = json!({
            "rank": 5, "alpha": 7.0, "use_rslora": true, "target_modules": ["q_proj"], "rank_pattern": {"q_proj": 8},
            "alpha_pattern": {"q_proj": 2.0}, "layers_to_transform": [0],
        });
        for field in AdapterShape::FIELDS {
            let error = request(json!({field: others[field]}))
                .continuing(&shape(json!({})))
                .unwrap_err();
            assert_eq!(error.param, field, "{}", error.message);
        }
    }
}
