//! `config.json` in Hugging Face's layout, read strictly: what is not built in is refused by name, never ignored.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::config::{Activation, ModelConfig};
use crate::error::ModelError;
use crate::families::{Bias, Facts, Family, Softcap, Windows};
use crate::modules::Module;
use crate::rope::RopeSettings;

/// The fields that matter. Others are kept in [`ModelConfig::source`].
#[derive(Debug, Deserialize)]
pub(crate) struct RawConfig {
    vocab_size: i64,
    hidden_size: i64,
    intermediate_size: i64,
    num_hidden_layers: usize,
    num_attention_heads: i64,
    num_key_value_heads: Option<i64>,
    head_dim: Option<i64>,
    rms_norm_eps: Option<f64>,
    max_position_embeddings: Option<i64>,
    pub(crate) rope_theta: Option<f64>,
    pub(crate) rope_local_base_freq: Option<f64>,
    pub(crate) rope_scaling: Option<Map<String, Value>>,
    pub(crate) rope_parameters: Option<Map<String, Value>>,
    pub(crate) partial_rotary_factor: Option<f64>,
    pub(crate) original_max_position_embeddings: Option<f64>,
    tie_word_embeddings: Option<bool>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    query_pre_attn_scalar: Option<f64>,
    sliding_window: Option<i64>,
    sliding_window_pattern: Option<usize>,
    #[serde(default)]
    use_sliding_window: bool,
    #[serde(default)]
    use_bidirectional_attention: Option<bool>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    initializer_range: Option<f64>,
    quantization_config: Option<Value>,
    /// For the fields whose names the family knows.
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// Of the families whose blocks take turns with and without a window.
const DEFAULT_WINDOW: i64 = 4096;
/// Of the families whose window can be switched on.
const DEFAULT_FIRST_WINDOW: usize = 28;

impl ModelConfig {
    /// Reads `config.json` of a model's folder.
    ///
    /// # Errors
    /// The file is missing or not JSON, or asks for a family or feature that is not built in.
    pub fn from_folder(folder: &Path) -> Result<Self, ModelError> {
        Self::from_file(&folder.join("config.json"))
    }

    /// Reads a `config.json`.
    ///
    /// # Errors
    /// As [`Self::from_folder`].
    pub fn from_file(path: &Path) -> Result<Self, ModelError> {
        let text = fs::read_to_string(path).map_err(|source| ModelError::Io {
            path: path.to_path_buf(),
            source,
        })?;
        let json = |source| ModelError::Json {
            path: path.to_path_buf(),
            source,
        };
        let source: Map<String, Value> = serde_json::from_str(&text).map_err(json)?;
        let family = family(&source)?;
        let raw: RawConfig = serde_json::from_str(&text).map_err(json)?;
        raw.resolve(family, source)
    }
}

/// By the class, else by the type. Looked up first, since other families lack fields that ours must have.
fn family(source: &Map<String, Value>) -> Result<Family, ModelError> {
    let class = source
        .get("architectures")
        .and_then(|classes| classes.get(0))
        .and_then(Value::as_str);
    let model_type = source.get("model_type").and_then(Value::as_str);
    let found = match (class, model_type) {
        (Some(class), _) => Family::ALL
            .into_iter()
            .find(|family| family.architecture() == class),
        (None, Some(name)) => Family::ALL.into_iter().find(|family| family.model_type() == name),
        (None, None) => None,
    };
    found.ok_or_else(|| ModelError::UnsupportedArchitecture {
        found: class.or(model_type).unwrap_or("(none named)").to_owned(),
        supported: Family::ALL.map(Family::architecture).join(", "),
    })
}

impl RawConfig {
    fn resolve(&self, family: Family, source: Map<String, Value>) -> Result<ModelConfig, ModelError> {
        let facts = family.facts();
        self.refuse_the_unsupported()?;
        let head_dim = self
            .head_dim
            .or(facts.head_dim)
            .unwrap_or_else(|| self.hidden_size / self.num_attention_heads.max(1));
        let scaled_by = facts.query_scalar.map_or(head_dim as f64, |default| {
            self.query_pre_attn_scalar.unwrap_or(default)
        });
        let mut config = ModelConfig {
            family,
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            kv_heads: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            head_dim,
            activation: self.activation(facts)?,
            rms_norm_eps: self.rms_norm_eps.unwrap_or(1e-6),
            norm_offset: facts.norm_offset,
            qk_norm: facts.qk_norm,
            sandwich_norms: facts.sandwich_norms,
            embedding_scale: facts.scaled_embedding.then(|| (self.hidden_size as f64).sqrt()),
            attention_scale: scaled_by.powf(-0.5),
            attention_softcap: self.softcap("attn_logit_softcapping", facts.attention_softcap)?,
            final_softcap: self.softcap("final_logit_softcapping", facts.final_softcap)?,
            ropes: Vec::new(),
            rope_of_layer: Vec::new(),
            max_positions: self.max_position_embeddings.unwrap_or(2048),
            tie_word_embeddings: self.tie_word_embeddings.unwrap_or(facts.tied),
            qkv_bias: has_bias(facts.qkv_bias, self.attention_bias),
            output_bias: has_bias(facts.output_bias, self.attention_bias),
            mlp_bias: has_bias(facts.mlp_bias, self.mlp_bias),
            windows: Vec::new(),
            modules: Vec::new(),
            initializer_range: self.initializer_range.unwrap_or(0.02),
            source,
        };
        config.check_sizes()?;
        config.modules = Module::of_block(&config, facts.fused);
        let local = self.local_layers(facts)?;
        config.windows = self.windows(facts, &local)?;
        config.ropes = RopeSettings::of(self, facts, &config)?;
        // The second rope, where there is one, is that of the blocks with a window.
        let last = config.ropes.len() - 1;
        config.rope_of_layer = local.iter().map(|&local| last * usize::from(local)).collect();
        Ok(config)
    }

    fn refuse_the_unsupported(&self) -> Result<(), ModelError> {
        if let Some(quantization) = self.quantization_config.as_ref().filter(|value| !value.is_null()) {
            let method = quantization.get("quant_method").cloned().unwrap_or(Value::Null);
            return Err(unsupported(
                "quantization_config",
                &method,
                "use the weights before quantization, in bfloat16, float16 or float32",
            ));
        }
        if self.use_bidirectional_attention == Some(true) {
            return Err(unsupported(
                "use_bidirectional_attention",
                &Value::Bool(true),
                "attention is causal",
            ));
        }
        Ok(())
    }

    fn activation(&self, facts: &Facts) -> Result<Activation, ModelError> {
        let (field, default) = facts.activation;
        match self.others.get(field) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::String(name)) if name == "silu" => Ok(Activation::Silu),
            Some(Value::String(name)) if name == "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
            Some(other) => Err(unsupported(
                field,
                other,
                "built in are \"silu\" and \"gelu_pytorch_tanh\"",
            )),
        }
    }

    fn softcap(&self, field: &str, rule: Softcap) -> Result<Option<f64>, ModelError> {
        let Softcap::Configured(default) = rule else {
            return Ok(None);
        };
        match self.others.get(field) {
            None => Ok(default),
            Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64() {
                Some(cap) => Ok(Some(cap)),
                None => Err(ModelError::InvalidConfig(format!("`{field}` must be a number"))),
            },
        }
    }

    /// Per block: whether it is one of those with a window.
    fn local_layers(&self, facts: &Facts) -> Result<Vec<bool>, ModelError> {
        let layers = 0..self.num_hidden_layers;
        let heeds_types = !matches!(facts.windows, Windows::Never | Windows::Uniform);
        if let Some(types) = self.layer_types.as_ref().filter(|_| heeds_types) {
            if types.len() != self.num_hidden_layers {
                return Err(ModelError::InvalidConfig(
                    "`layer_types` does not have one entry per layer".to_owned(),
                ));
            }
            return types.iter().map(|name| is_local(name)).collect();
        }
        let first = self.max_window_layers.unwrap_or(DEFAULT_FIRST_WINDOW);
        Ok(match facts.windows {
            Windows::Never => layers.map(|_| false).collect(),
            Windows::Uniform | Windows::Everywhere => layers.map(|_| true).collect(),
            Windows::Switched => layers.map(|layer| layer >= first).collect(),
            Windows::AllButEvery(default) => {
                let period = self.sliding_window_pattern.unwrap_or(default).max(1);
                layers.map(|layer| (layer + 1) % period != 0).collect()
            }
        })
    }

    fn windows(&self, facts: &Facts, local: &[bool]) -> Result<Vec<Option<i64>>, ModelError> {
        let width = match facts.windows {
            Windows::Never => None,
            Windows::Uniform | Windows::Everywhere => self.sliding_window,
            Windows::Switched => self.sliding_window.filter(|_| self.use_sliding_window),
            Windows::AllButEvery(_) => Some(self.sliding_window.unwrap_or(DEFAULT_WINDOW)),
        };
        if width.is_some_and(|width| width < 1) {
            return Err(ModelError::InvalidConfig(
                "`sliding_window` must be at least 1".to_owned(),
            ));
        }
        Ok(local.iter().map(|&local| width.filter(|_| local)).collect())
    }
}

fn is_local(layer_type: &str) -> Result<bool, ModelError> {
    match layer_type {
        "full_attention" => Ok(false),
        "sliding_attention" => Ok(true),
        other => Err(unsupported(
            "layer_types",
            &Value::from(other),
            "built in are full_attention and sliding_attention",
        )),
    }
}

fn has_bias(rule: Bias, configured: bool) -> bool {
    match rule {
        Bias::Never => false,
        Bias::Always => true,
        Bias::Configured => configured,
    }
}

pub(crate) fn unsupported(field: &str, value: &Value, reason: &str) -> ModelError {
    ModelError::UnsupportedFeature {
        field: field.to_owned(),
        value: value.to_string(),
        reason: reason.to_owned(),
    }
}
