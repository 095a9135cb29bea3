//! `init`: a model folder with random weights.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tch::{Device, Kind};
use tunesmith_dataset::ChatTemplate;
use tunesmith_dataset::encode::EncodeError;
use tunesmith_model::{CausalLm, ModelConfig, Precision};

use crate::cli::InitArgs;
use crate::error::TrainError;
use crate::files::write_into;

/// Writes config.json, float32 weights, tokenizer files and the chat template.
///
/// # Errors
/// The configuration is not supported, or a file cannot be read or written.
pub fn init(args: &InitArgs) -> Result<(), TrainError> {
    let config = ModelConfig::from_file(&args.config)?;
    let template = args.chat_template.as_deref().map(read).transpose()?;
    if let Some(template) = &template {
        ChatTemplate::new(template, None, None).map_err(EncodeError::from)?;
    }
    let model = CausalLm::fresh(
        config,
        u64::from(args.seed),
        Device::Cpu,
        Precision::uniform(Kind::Float),
    )?;
    let tokenizer = read(&args.tokenizer)?;
    let beside = args.tokenizer.with_file_name("tokenizer_config.json");
    let mut tokenizer_config: Value = if beside.exists() {
        serde_json::from_str(&read(&beside)?)
            .map_err(|error| TrainError::Arguments(format!("{} is not valid: {error}", beside.display())))?
    } else {
        json!({"tokenizer_class": "PreTrainedTokenizerFast"})
    };
    if template.is_some() && tokenizer_config.is_object() {
        tokenizer_config["chat_template"] = json!(template);
    }
    write_into(&args.out, |folder| {
        model.save(folder, Kind::Float)?;
        write(&folder.join("tokenizer.json"), &tokenizer)?;
        write(
            &folder.join("tokenizer_config.json"),
            &format!("{tokenizer_config:#}\n"),
        )?;
        match &template {
            Some(template) => write(&folder.join("chat_template.jinja"), template),
            None => Ok(()),
        }
    })
}

fn read(path: &Path) -> Result<String, TrainError> {
    fs::read_to_string(path).map_err(|source| TrainError::DataUnreadable {
        path: path.to_path_buf(),
        source,
    })
}

fn write(path: &Path, text: &str) -> Result<(), TrainError> {
    fs::write(path, text).map_err(TrainError::output(path))
}
