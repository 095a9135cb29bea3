//! What is trained: a LoRA adapter on a frozen model, or all weights.

use std::fs;
use std::path::Path;

use tch::{Device, Kind, Tensor};
use tunesmith_model::digest::file_digest;
use tunesmith_model::{Adapter, CausalLm, LoraSettings, Precision};

use crate::cli::{SaveDtype, TrainArgs};
use crate::error::TrainError;
use crate::recipe::{Settings, SubjectRecipe};

/// Files of a base model that a trained model needs too.
const TEXT_FILES: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
];

/// The model in training.
#[derive(Debug)]
pub struct Subject {
    /// The model.
    pub model: CausalLm,
    /// The adapter; none where all weights are trained.
    pub adapter: Option<Adapter>,
}

impl Subject {
    /// Loads the base model, and makes or loads what is trained. `checkpoint`: where a resumed run takes it from.
    ///
    /// # Errors
    /// Files that are missing or do not fit.
    pub fn load(
        args: &TrainArgs,
        settings: &Settings,
        checkpoint: Option<&Path>,
        device: Device,
        kind: Kind,
    ) -> Result<Self, TrainError> {
        if args.full {
            let folder = checkpoint.unwrap_or(&args.base);
            let model = CausalLm::load(folder, device, Precision::master(kind))?;
            model.set_trainable(true)?;
            return Ok(Self { model, adapter: None });
        }
        let model = CausalLm::load(&args.base, device, Precision::uniform(kind))?;
        let mut adapter = match checkpoint.or(args.init_adapter.as_deref()) {
            Some(folder) => Adapter::load(folder, model.config(), device)?,
            None => Adapter::fresh(model.config(), lora_settings(settings), settings.seed, device)?,
        };
        adapter.set_dropout(settings.dropout.get());
        adapter.set_trainable(true)?;
        Ok(Self {
            model,
            adapter: Some(adapter),
        })
    }

    /// The tensors that the optimizer changes.
    #[must_use]
    pub fn parameters(&self) -> Vec<&Tensor> {
        let named = match &self.adapter {
            Some(adapter) => adapter.parameters(),
            None => self.model.parameters(),
        };
        named.into_iter().map(|(_, tensor)| tensor).collect()
    }

    /// Its part of the recipe.
    ///
    /// # Errors
    /// The initial adapter cannot be read.
    pub fn recipe(&self, args: &TrainArgs) -> Result<SubjectRecipe, TrainError> {
        let Some(adapter) = &self.adapter else {
            return Ok(SubjectRecipe::Full);
        };
        let settings = adapter.settings();
        let initial = match &args.init_adapter {
            Some(folder) => Some(file_digest(&folder.join("adapter_model.safetensors"))?),
            None => None,
        };
        Ok(SubjectRecipe::Lora {
            rank: u32::try_from(settings.rank).unwrap_or(u32::MAX),
            alpha: settings.alpha,
            dropout: settings.dropout,
            use_rslora: settings.use_rslora,
            target_modules: settings
                .target_modules
                .layers()
                .iter()
                .map(|layer| layer.as_str().to_owned())
                .collect(),
            initial,
        })
    }

    /// Writes the exact state into `folder`.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save_exact(&self, folder: &Path, base_name: &str) -> Result<(), TrainError> {
        match &self.adapter {
            Some(adapter) => adapter.save(folder, base_name)?,
            None => self.model.save(folder, Kind::Float)?,
        }
        Ok(())
    }

    /// Writes what a user gets into `folder`: a PEFT folder, or a model folder with the base's text files.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save_result(&self, folder: &Path, args: &TrainArgs, base_name: &str) -> Result<(), TrainError> {
        if self.adapter.is_some() {
            return self.save_exact(folder, base_name);
        }
        let kind = match args.save_dtype {
            SaveDtype::Float32 => Kind::Float,
            SaveDtype::Bfloat16 => Kind::BFloat16,
        };
        self.model.save(folder, kind)?;
        for name in TEXT_FILES {
            let from = args.base.join(name);
            if from.exists() {
                let to = folder.join(name);
                fs::copy(&from, &to).map_err(TrainError::output(&to))?;
            }
        }
        Ok(())
    }
}

fn lora_settings(settings: &Settings) -> LoraSettings {
    LoraSettings {
        rank: i64::from(settings.rank.get()),
        alpha: settings.alpha.get(),
        use_rslora: settings.use_rslora,
        dropout: settings.dropout.get(),
        target_modules: settings.target_modules.clone(),
    }
}
