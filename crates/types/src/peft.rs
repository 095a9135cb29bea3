//! What of PEFT's `adapter_config.json` is not built in, so that reading an adapter and importing one refuse the same.

/// Fields that change an adapter's effect in a way that is not built in, unless they are absent, null, false or empty.
/// Fields that only say how training began or where files lay do not matter.
pub const REFUSED_FIELDS: [&str; 13] = [
    "modules_to_save",
    "ensure_weight_tying",
    "layer_replication",
    "fan_in_fan_out",
    "lora_bias",
    "trainable_token_indices",
    "target_parameters",
    "exclude_modules",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "velora_config",
    "monteclora_config",
];

/// Values of `init_lora_weights` that also change the base model's weights: the adapter is wrong on the weights as
/// published.
pub const REFUSED_BEGINNINGS: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];
