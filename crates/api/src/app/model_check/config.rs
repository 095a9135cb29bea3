//! `config.json` of a Llama-like model, and the tensors that it asks for.

use std::collections::BTreeMap;

use serde::Deserialize;
use tunesmith_types::api::base_models::BaseModelArchitecture;

const FAMILIES: [&str; 3] = ["llama", "mistral", "qwen2"];
const MOST_LAYERS: u32 = 512;

/// What matters of a `config.json`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct ModelConfig {
    model_type: String,
    hidden_size: u32,
    intermediate_size: u32,
    num_hidden_layers: u32,
    num_attention_heads: u32,
    num_key_value_heads: Option<u32>,
    head_dim: Option<u32>,
    vocab_size: u32,
    max_position_embeddings: u32,
    #[serde(default)]
    tie_word_embeddings: bool,
}

/// Parses and checks the text.
pub(super) fn parse(text: &[u8]) -> Result<(serde_json::Value, ModelConfig), String> {
    let json: serde_json::Value =
        serde_json::from_slice(text).map_err(|error| format!("`config.json` is not valid JSON: {error}."))?;
    let family = json
        .get("model_type")
        .and_then(serde_json::Value::as_str)
        .unwrap_or("");
    if !FAMILIES.contains(&family) {
        let known = FAMILIES.join(", ");
        return Err(format!(
            "`config.json` has the model_type `{family}`; these can be trained: {known}."
        ));
    }
    let config: ModelConfig = serde_json::from_value(json.clone())
        .map_err(|error| format!("`config.json` does not describe a {family} model: {error}."))?;
    config.check()?;
    Ok((json, config))
}

impl ModelConfig {
    fn check(&self) -> Result<(), String> {
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
        let divided = self.head_dim.is_some() || self.hidden_size.is_multiple_of(heads);
        if !divided || !heads.is_multiple_of(self.key_value_heads()) {
            return Err(
                "`config.json` has a number of heads that does not divide what it must divide.".to_owned(),
            );
        }
        Ok(())
    }

    fn key_value_heads(&self) -> u32 {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    fn head_width(&self) -> u32 {
        self.head_dim
            .unwrap_or(self.hidden_size / self.num_attention_heads)
    }

    /// The numbers that people ask for.
    pub(super) fn architecture(&self, parameters: u64) -> BaseModelArchitecture {
        BaseModelArchitecture {
            model_type: self.model_type.clone(),
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

    fn expected_tensors(&self) -> Vec<(String, Vec<u64>)> {
        let hidden = u64::from(self.hidden_size);
        let vocabulary = u64::from(self.vocab_size);
        let mut expected = vec![
            ("model.embed_tokens.weight".to_owned(), vec![vocabulary, hidden]),
            ("model.norm.weight".to_owned(), vec![hidden]),
        ];
        if !self.tie_word_embeddings {
            expected.push(("lm_head.weight".to_owned(), vec![vocabulary, hidden]));
        }
        for layer in 0..self.num_hidden_layers {
            let named = self.expected_of_layer().into_iter();
            expected.extend(named.map(|(name, shape)| (format!("model.layers.{layer}.{name}"), shape)));
        }
        expected
    }

    fn expected_of_layer(&self) -> Vec<(&'static str, Vec<u64>)> {
        let hidden = u64::from(self.hidden_size);
        let inner = u64::from(self.intermediate_size);
        let queries = u64::from(self.num_attention_heads) * u64::from(self.head_width());
        let keys = u64::from(self.key_value_heads()) * u64::from(self.head_width());
        let mut expected = vec![
            ("input_layernorm.weight", vec![hidden]),
            ("post_attention_layernorm.weight", vec![hidden]),
            ("self_attn.q_proj.weight", vec![queries, hidden]),
            ("self_attn.k_proj.weight", vec![keys, hidden]),
            ("self_attn.v_proj.weight", vec![keys, hidden]),
            ("self_attn.o_proj.weight", vec![hidden, queries]),
            ("mlp.gate_proj.weight", vec![inner, hidden]),
            ("mlp.up_proj.weight", vec![inner, hidden]),
            ("mlp.down_proj.weight", vec![hidden, inner]),
        ];
        if self.model_type == "qwen2" {
            expected.push(("self_attn.q_proj.bias", vec![queries]));
            expected.push(("self_attn.k_proj.bias", vec![keys]));
            expected.push(("self_attn.v_proj.bias", vec![keys]));
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
        ];
        for (field, value) in changes {
            let mut config = tiny();
            config[field] = value.clone();
            assert!(parse(config.to_string().as_bytes()).is_err(), "{field} = {value}");
        }
        assert!(parse(b"[]").is_err());
        assert!(parse(b"{").is_err());
    }
}
