//! `config.json` in Hugging Face's layout, read strictly: what is not built in is refused by name, never ignored.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::ModelError;
use crate::rope::RopeScaling;

/// A family of models, all of Llama's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Llama 2, Llama 3 and what is built like them.
    Llama,
    /// Mistral: Llama with an optional sliding window.
    Mistral,
    /// Qwen2 and Qwen2.5: Llama with a bias on q, k and v.
    Qwen2,
}

impl Family {
    const ALL: [Self; 3] = [Self::Llama, Self::Mistral, Self::Qwen2];

    /// The class name in `architectures`.
    #[must_use]
    pub const fn architecture(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
        }
    }

    /// The value of `model_type`.
    #[must_use]
    pub const fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
        }
    }
}

/// The shape of a model: everything that the forward pass depends on besides the weights.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Which family.
    pub family: Family,
    /// Rows of the embedding and of the output head.
    pub vocab_size: i64,
    /// Width of the residual stream.
    pub hidden_size: i64,
    /// Width inside the MLP.
    pub intermediate_size: i64,
    /// Number of blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: i64,
    /// Key and value heads; divides `heads`.
    pub kv_heads: i64,
    /// Width of one head.
    pub head_dim: i64,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How the rotary frequencies are stretched.
    pub rope_scaling: RopeScaling,
    /// Longest sequence that the model was made for, in tokens.
    pub max_positions: i64,
    /// Whether the output head is the embedding.
    pub tie_word_embeddings: bool,
    /// Whether q, k and v have a bias.
    pub qkv_bias: bool,
    /// Whether the attention's output has a bias.
    pub output_bias: bool,
    /// Whether the three layers of the MLP have a bias.
    pub mlp_bias: bool,
    /// Per block: how many tokens back it sees, itself included; `None` is all.
    pub windows: Vec<Option<i64>>,
    /// Standard deviation of freshly made weights.
    pub initializer_range: f64,
    /// The whole file as it was read, so that a saved model keeps what does not matter here (token ids and the like).
    pub source: Map<String, Value>,
}

/// The fields of `config.json` that matter. Others are kept in [`ModelConfig::source`].
#[derive(Debug, Deserialize, Serialize)]
struct RawConfig {
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    model_type: Option<String>,
    vocab_size: i64,
    hidden_size: i64,
    intermediate_size: i64,
    num_hidden_layers: usize,
    num_attention_heads: i64,
    #[serde(default)]
    num_key_value_heads: Option<i64>,
    #[serde(default)]
    head_dim: Option<i64>,
    #[serde(default = "default_eps")]
    rms_norm_eps: f64,
    #[serde(default = "default_activation")]
    hidden_act: String,
    #[serde(default = "default_positions")]
    max_position_embeddings: i64,
    #[serde(default)]
    rope_theta: Option<f64>,
    #[serde(default)]
    rope_scaling: Option<Map<String, Value>>,
    #[serde(default)]
    rope_parameters: Option<Map<String, Value>>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    sliding_window: Option<i64>,
    #[serde(default)]
    use_sliding_window: bool,
    #[serde(default)]
    max_window_layers: Option<usize>,
    #[serde(default)]
    layer_types: Option<Vec<String>>,
    #[serde(default = "default_initializer_range")]
    initializer_range: f64,
    #[serde(default)]
    quantization_config: Option<Value>,
}

fn default_eps() -> f64 {
    1e-6
}
fn default_activation() -> String {
    "silu".to_owned()
}
fn default_positions() -> i64 {
    2048
}
fn default_initializer_range() -> f64 {
    0.02
}

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
        let raw: RawConfig = serde_json::from_str(&text).map_err(json)?;
        Self::resolve(&raw, source)
    }

    fn resolve(raw: &RawConfig, source: Map<String, Value>) -> Result<Self, ModelError> {
        let family = raw.family()?;
        raw.refuse_the_unsupported()?;
        let theta = raw
            .rope_number("rope_theta")
            .or(raw.rope_theta)
            .unwrap_or(10_000.0);
        let config = Self {
            family,
            vocab_size: raw.vocab_size,
            hidden_size: raw.hidden_size,
            intermediate_size: raw.intermediate_size,
            layers: raw.num_hidden_layers,
            heads: raw.num_attention_heads,
            kv_heads: raw.num_key_value_heads.unwrap_or(raw.num_attention_heads),
            head_dim: raw
                .head_dim
                .unwrap_or_else(|| raw.hidden_size / raw.num_attention_heads.max(1)),
            rms_norm_eps: raw.rms_norm_eps,
            rope_theta: theta,
            rope_scaling: RopeScaling::parse(raw.rope_map())?,
            max_positions: raw.max_position_embeddings,
            tie_word_embeddings: raw.tie_word_embeddings,
            qkv_bias: family == Family::Qwen2 || (family == Family::Llama && raw.attention_bias),
            output_bias: family == Family::Llama && raw.attention_bias,
            mlp_bias: family == Family::Llama && raw.mlp_bias,
            windows: raw.windows(family)?,
            initializer_range: raw.initializer_range,
            source,
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ModelError> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.layers as i64),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_positions),
        ];
        // Far above any real model, far below what would overflow a product of two.
        if let Some((name, size)) = sizes.into_iter().find(|(_, size)| !(1..=1 << 30).contains(size)) {
            return Err(ModelError::InvalidConfig(format!(
                "`{name}` is {size}, which is no size"
            )));
        }
        if self.layers > 1024 {
            return Err(ModelError::InvalidConfig(format!(
                "`num_hidden_layers` is {}, over 1024",
                self.layers
            )));
        }
        if self.heads % self.kv_heads != 0 {
            return Err(ModelError::InvalidConfig(format!(
                "{} query heads cannot share {} key and value heads evenly",
                self.heads, self.kv_heads
            )));
        }
        if self.head_dim % 2 != 0 {
            return Err(ModelError::InvalidConfig(format!(
                "`head_dim` is {}, which is odd",
                self.head_dim
            )));
        }
        let positive = |value: f64| value.is_finite() && value > 0.0;
        if !positive(self.rms_norm_eps) || !positive(self.rope_theta) {
            return Err(ModelError::InvalidConfig(
                "`rms_norm_eps` and `rope_theta` must be positive".to_owned(),
            ));
        }
        Ok(())
    }
}

impl RawConfig {
    fn family(&self) -> Result<Family, ModelError> {
        let by_class = |name: &str| {
            Family::ALL
                .into_iter()
                .find(|family| family.architecture() == name)
        };
        let by_type = |name: &str| Family::ALL.into_iter().find(|family| family.model_type() == name);
        let (found, family) = match (&self.architectures, &self.model_type) {
            (Some(classes), _) if !classes.is_empty() => (classes[0].clone(), by_class(&classes[0])),
            (_, Some(name)) => (name.clone(), by_type(name)),
            _ => ("(none named)".to_owned(), None),
        };
        family.ok_or_else(|| ModelError::UnsupportedArchitecture {
            found,
            supported: Family::ALL.map(Family::architecture).join(", "),
        })
    }

    fn refuse_the_unsupported(&self) -> Result<(), ModelError> {
        let refuse = |field: &str, value: String, reason: &str| {
            Err(ModelError::UnsupportedFeature {
                field: field.to_owned(),
                value,
                reason: reason.to_owned(),
            })
        };
        if self.hidden_act != "silu" {
            return refuse(
                "hidden_act",
                format!("\"{}\"", self.hidden_act),
                "only \"silu\" is built in",
            );
        }
        if let Some(share) = self.rope_map().and_then(|map| map.get("partial_rotary_factor"))
            && share.as_f64() != Some(1.0)
        {
            return refuse(
                "partial_rotary_factor",
                share.to_string(),
                "heads are rotated as a whole",
            );
        }
        if let Some(quantization) = self.quantization_config.as_ref().filter(|value| !value.is_null()) {
            let method = quantization.get("quant_method").cloned().unwrap_or(Value::Null);
            return refuse(
                "quantization_config",
                method.to_string(),
                "use the weights before quantization, in bfloat16, float16 or float32",
            );
        }
        Ok(())
    }

    /// transformers 5 writes `rope_parameters`, older ones `rope_scaling`.
    fn rope_map(&self) -> Option<&Map<String, Value>> {
        self.rope_parameters.as_ref().or(self.rope_scaling.as_ref())
    }

    fn rope_number(&self, field: &str) -> Option<f64> {
        self.rope_parameters.as_ref()?.get(field)?.as_f64()
    }

    fn windows(&self, family: Family) -> Result<Vec<Option<i64>>, ModelError> {
        let width = match family {
            Family::Llama => None,
            Family::Mistral => self.sliding_window,
            Family::Qwen2 => self.sliding_window.filter(|_| self.use_sliding_window),
        };
        if width.is_some_and(|width| width < 1) {
            return Err(ModelError::InvalidConfig(
                "`sliding_window` must be at least 1".to_owned(),
            ));
        }
        let Some(types) = self.layer_types.as_ref().filter(|_| family != Family::Llama) else {
            let first = if family == Family::Qwen2 {
                self.max_window_layers.unwrap_or(0)
            } else {
                0
            };
            return Ok((0..self.num_hidden_layers)
                .map(|layer| width.filter(|_| layer >= first))
                .collect());
        };
        if types.len() != self.num_hidden_layers {
            return Err(ModelError::InvalidConfig(
                "`layer_types` does not have one entry per layer".to_owned(),
            ));
        }
        types
            .iter()
            .map(|name| match name.as_str() {
                "full_attention" => Ok(None),
                "sliding_attention" => Ok(width),
                other => Err(ModelError::UnsupportedFeature {
                    field: "layer_types".to_owned(),
                    value: format!("\"{other}\""),
                    reason: "built in are full_attention and sliding_attention".to_owned(),
                }),
            })
            .collect()
    }
}
