//! `config.json` of a model, and the tensors that it asks for.

use std::collections::BTreeMap;

use serde::Deserialize;
use tunesmith_types::api::base_models::BaseModelArchitecture;

use super::family::Family;
use super::modules;

const MOST_LAYERS: u32 = 512;

/// What matters of a `config.json`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct ModelConfig {
    #[serde(rename = "model_type")]
    family: Family,
    architectures: Option<Vec<String>>,
    pub(super) hidden_size: u32,
    pub(super) intermediate_size: u32,
    pub(super) num_hidden_layers: u32,
    pub(super) num_attention_heads: u32,
    num_key_value_heads: Option<u32>,
    head_dim: Option<u32>,
    pub(super) vocab_size: u32,
    max_position_embeddings: u32,
    tie_word_embeddings: Option<bool>,
    #[serde(default)]
    pub(super) attention_bias: bool,
    #[serde(default)]
    pub(super) mlp_bias: bool,
}

/// Parses and checks the text.
pub(super) fn parse(text: &[u8]) -> Result<(serde_json::Value, ModelConfig), String> {
    let json: serde_json::Value =
        serde_json::from_slice(text).map_err(|error| format!("`config.json` is not valid JSON: {error}."))?;
    let config = ModelConfig::read(&json)?;
    Ok((json, config))
}

impl ModelConfig {
    /// Reads and checks what was parsed.
    pub(super) fn read(json: &serde_json::Value) -> Result<Self, String> {
        let named = json.get("model_type").and_then(serde_json::Value::as_str);
        let named = named.unwrap_or("");
        if !Family::ALL.iter().any(|family| family.model_type() == named) {
            let known = Family::ALL.map(Family::model_type).join(", ");
            return Err(format!(
                "`config.json` has the model_type `{named:.80}`; these can be trained: {known}."
            ));
        }
        let config = Self::deserialize(json)
            .map_err(|error| format!("`config.json` does not describe a {named} model: {error}."))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let class = self.architectures.as_ref().and_then(|classes| classes.first());
        if let Some(class) = class.filter(|class| *class != self.family.class()) {
            return Err(format!(
                "`config.json` names the class `{class:.80}`; of {} models, `{}` can be trained.",
                self.family.model_type(),
                self.family.class()
            ));
        }
        let heads = self.num_attention_heads;
        let positive = [
            self.hidden_size,
            self.intermediate_size,
            self.num_hidden_layers,
            heads,
            self.key_value_heads(),
            self.vocab_size,
            self.max_position_embeddings,
        ];
        if positive.contains(&0) || self.num_hidden_layers > MOST_LAYERS {
            return Err("`config.json` has a size that is zero or beyond all measure.".to_owned());
        }
        let has_width = self.head_dim.or(self.family.head_dim()).is_some();
        let divided = has_width || self.hidden_size.is_multiple_of(heads);
        if !divided || !heads.is_multiple_of(self.key_value_heads()) {
            return Err(
                "`config.json` has a number of heads that does not divide what it must divide.".to_owned(),
            );
        }
        Ok(())
    }

    pub(super) const fn family(&self) -> Family {
        self.family
    }

    pub(super) fn key_value_heads(&self) -> u32 {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    pub(super) fn head_width(&self) -> u32 {
        self.head_dim
            .or(self.family.head_dim())
            .unwrap_or(self.hidden_size / self.num_attention_heads)
    }

    /// The numbers that people ask for.
    pub(super) fn architecture(&self, parameters: u64) -> BaseModelArchitecture {
        BaseModelArchitecture {
            model_type: self.family.model_type().to_owned(),
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.key_value_heads(),
            vocab_size: self.vocab_size,
            max_position_embeddings: self.max_position_embeddings,
            parameters,
        }
    }

    /// What is missing among the tensors, or has another shape than it must have.
    pub(super) fn compare(&self, tensors: &BTreeMap<String, Vec<u64>>) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, shape) in self.expected_tensors() {
            match tensors.get(&name) {
                None => problems.push(format!("The tensor `{name}` is missing.")),
                Some(found) if *found != shape => {
                    problems.push(format!(
                        "The tensor `{name}` has the shape {found:?}; it must be {shape:?}."
                    ));
                }
                Some(_) => {}
            }
        }
        problems
    }

    /// Names and shapes of the tensors that must be there.
    fn expected_tensors(&self) -> Vec<(String, Vec<u64>)> {
        let hidden = u64::from(self.hidden_size);
        let vocabulary = u64::from(self.vocab_size);
        let mut expected = vec![
            ("model.embed_tokens.weight".to_owned(), vec![vocabulary, hidden]),
            ("model.norm.weight".to_owned(), vec![hidden]),
        ];
        let tied = self.tie_word_embeddings.unwrap_or(self.family.ties_embeddings());
        if !tied {
            expected.push(("lm_head.weight".to_owned(), vec![vocabulary, hidden]));
        }
        for layer in 0..self.num_hidden_layers {
            let named = self.expected_of_layer().into_iter();
            expected.extend(named.map(|(name, shape)| (format!("model.layers.{layer}.{name}"), shape)));
        }
        expected
    }

    fn expected_of_layer(&self) -> Vec<(String, Vec<u64>)> {
        let hidden = u64::from(self.hidden_size);
        let mut norms = vec![("input_layernorm", hidden), ("post_attention_layernorm", hidden)];
        if self.family.norms_feedforward() {
            norms.extend(
                ["pre_feedforward_layernorm", "post_feedforward_layernorm"].map(|name| (name, hidden)),
            );
        }
        if self.family.norms_heads() {
            let width = u64::from(self.head_width());
            norms.extend(["self_attn.q_norm", "self_attn.k_norm"].map(|name| (name, width)));
        }
        let mut expected: Vec<_> = norms
            .into_iter()
            .map(|(name, width)| (format!("{name}.weight"), vec![width]))
            .collect();
        for module in modules::of_block(self) {
            let weight = vec![module.outputs, module.inputs];
            expected.push((format!("{}.weight", module.name), weight));
            if module.bias {
                expected.push((format!("{}.bias", module.name), vec![module.outputs]));
            }
        }
        expected
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn tiny() -> serde_json::Value {
        json!({
            "model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 32, "max_position_embeddings": 64,
            "rope_theta": 10000.0,
        })
    }

    #[test]
    fn a_config_knows_its_tensors() {
        let (_, config) = parse(tiny().to_string().as_bytes()).unwrap();
        let mut tensors: BTreeMap<_, _> = config.expected_tensors().into_iter().collect();
        assert_eq!(tensors.len(), 3 + 9);
        assert!(config.compare(&tensors).is_empty());
        tensors.insert("model.norm.weight".to_owned(), vec![9]);
        tensors.remove("lm_head.weight");
        assert_eq!(config.compare(&tensors).len(), 2);
    }

    #[test]
    fn what_cannot_be_trained_is_refused() {
        let changes = [
            ("model_type", json!("gpt2")),
            ("model_type", json!(null)),
            ("hidden_size", json!("8")),
            ("hidden_size", json!(9)),
            ("num_attention_heads", json!(0)),
            ("num_key_value_heads", json!(3)),
            ("num_hidden_layers", json!(100_000)),
            ("vocab_size", json!(null)),
            ("architectures", json!(["LlamaForSequenceClassification"])),
        ];
        for (field, value) in changes {
            let mut config = tiny();
            config[field] = value.clone();
            assert!(parse(config.to_string().as_bytes()).is_err(), "{field} = {value}");
        }
        assert!(parse(b"[]").is_err());
        assert!(parse(b"{").is_err());
    }

    /// Names and shapes that `transformers` gives each family; `scripts/parity/make_shapes.py` writes the file.
    #[test]
    fn families_have_the_tensors_of_transformers() {
        let golden = include_str!("../../../tests/golden/shapes.json");
        let golden: BTreeMap<String, serde_json::Value> = serde_json::from_str(golden).unwrap();
        for family in Family::ALL {
            let of_family = |model: &serde_json::Value| model["config"]["model_type"] == family.model_type();
            assert!(golden.values().any(of_family), "{family:?} is not covered");
        }
        for (name, model) in golden {
            let config = ModelConfig::read(&model["config"]).unwrap();
            let wanted: BTreeMap<String, Vec<u64>> =
                serde_json::from_value(model["tensors"].clone()).unwrap();
            let found: BTreeMap<String, Vec<u64>> = config.expected_tensors().into_iter().collect();
            assert_eq!(found, wanted, "{name}");
            // Older files leave out what is the family's default.
            if ["qwen3", "gemma2", "gemma3"].contains(&name.as_str()) {
                let mut short = model["config"].clone();
                for field in ["head_dim", "tie_word_embeddings"] {
                    short.as_object_mut().unwrap().remove(field).unwrap();
                }
                let short = ModelConfig::read(&short).unwrap();
                assert_eq!(
                    short.expected_tensors().into_iter().collect::<BTreeMap<_, _>>(),
                    wanted,
                    "{name}"
                );
            }
        }
    }
}
