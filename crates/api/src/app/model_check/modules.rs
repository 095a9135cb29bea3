//! The layers of a model that can get an adapter.

use super::config::ModelConfig;
use super::family::Family;

/// A linear layer of every block, or one outside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Module {
    /// Name: within its block (`self_attn.q_proj`), or in full (`lm_head`).
    pub name: &'static str,
    /// Rows of its weight.
    pub outputs: u64,
    /// Columns of its weight.
    pub inputs: u64,
    /// Whether it has a bias.
    pub(super) bias: bool,
}

/// The layers of a model that can get an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelModules {
    /// Number of blocks.
    pub blocks: u32,
    /// Those of each block.
    pub of_block: Vec<Module>,
    /// Those outside.
    pub outside: [Module; 2],
}

impl ModelModules {
    /// From the `config.json` of a model that was checked; none where it was not.
    pub fn read(config: &serde_json::Value) -> Option<Self> {
        let config = ModelConfig::read(config).ok()?;
        let module = |name, outputs: u32, inputs: u32| Module {
            name,
            outputs: outputs.into(),
            inputs: inputs.into(),
            bias: false,
        };
        Some(Self {
            blocks: config.num_hidden_layers,
            of_block: of_block(&config),
            outside: [
                module("lm_head", config.vocab_size, config.hidden_size),
                module("model.embed_tokens", config.vocab_size, config.hidden_size),
            ],
        })
    }

    /// Full name and shape of each.
    pub fn iter(&self) -> impl Iterator<Item = (String, Module)> {
        let of_block =
            |block| move |module: &Module| (format!("model.layers.{block}.{}", module.name), *module);
        let blocks = (0..self.blocks).flat_map(move |block| self.of_block.iter().map(of_block(block)));
        let outside = self
            .outside
            .iter()
            .map(|module| (module.name.to_owned(), *module));
        blocks.chain(outside)
    }
}

/// The linear layers of a block.
pub(super) fn of_block(config: &ModelConfig) -> Vec<Module> {
    let family = config.family();
    let hidden = u64::from(config.hidden_size);
    let inner = u64::from(config.intermediate_size);
    let queries = u64::from(config.num_attention_heads) * u64::from(config.head_width());
    let keys = u64::from(config.key_value_heads()) * u64::from(config.head_width());
    let output_bias = family.knows_attention_bias() && config.attention_bias;
    let input_bias = output_bias || family == Family::Qwen2;
    let mlp_bias = family == Family::Llama && config.mlp_bias;
    let module = |name, outputs, inputs, bias| Module {
        name,
        outputs,
        inputs,
        bias,
    };
    let mut modules = vec![
        module("self_attn.o_proj", hidden, queries, output_bias),
        module("mlp.down_proj", hidden, inner, mlp_bias),
    ];
    if family == Family::Phi3 {
        modules.push(module("self_attn.qkv_proj", queries + 2 * keys, hidden, false));
        modules.push(module("mlp.gate_up_proj", 2 * inner, hidden, false));
    } else {
        modules.push(module("self_attn.q_proj", queries, hidden, input_bias));
        modules.push(module("self_attn.k_proj", keys, hidden, input_bias));
        modules.push(module("self_attn.v_proj", keys, hidden, input_bias));
        modules.push(module("mlp.gate_proj", inner, hidden, mlp_bias));
        modules.push(module("mlp.up_proj", inner, hidden, mlp_bias));
    }
    modules
}
