//! What is trained: a LoRA adapter on a frozen model, or all weights. Either way one flat float32 buffer.

use std::fs;
use std::path::Path;

use tch::{Kind, Tensor, no_grad_guard};
use tunesmith_model::{Adapter, LoraSettings};
use tunesmith_types::hyperparameters::Hyperparameters;

use crate::base::Base;
use crate::error::TrainError;
use crate::full::FullModel;
use crate::optimizer::Range;

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

/// What the optimizer changes.
#[derive(Debug)]
pub enum Subject {
    /// An adapter.
    Adapter(Box<Adapter>),
    /// All weights of the base, which then serves this job alone.
    Full(FullModel),
}

impl Subject {
    /// A fresh adapter, or the one in `folder`: a checkpoint, or an adapter that is trained further.
    ///
    /// # Errors
    /// Files that are missing or do not fit, or a rank or target that the base model does not allow.
    pub fn adapter(base: &Base, asked: &Hyperparameters, folder: Option<&Path>) -> Result<Self, TrainError> {
        let (config, device) = (base.model.config(), base.device);
        let mut adapter = match folder {
            Some(folder) => Adapter::load(folder, config, device)?,
            None => Adapter::fresh(config, lora_settings(asked), u64::from(asked.seed.get()), device)?,
        };
        adapter.set_dropout(asked.dropout.get());
        Ok(Self::Adapter(Box::new(adapter)))
    }

    /// The adapter; none where all weights are trained.
    #[must_use]
    pub fn as_adapter(&self) -> Option<&Adapter> {
        match self {
            Self::Adapter(adapter) => Some(adapter),
            Self::Full(_) => None,
        }
    }

    /// All trained values, float32 `[n]`; writing to it changes the subject.
    pub fn flat(&self) -> &Tensor {
        match self {
            Self::Adapter(adapter) => adapter.flat(),
            Self::Full(full) => full.flat(),
        }
    }

    /// How the optimizer treats [`Self::flat`].
    #[must_use]
    pub fn ranges(&self, asked: &Hyperparameters) -> Vec<Range> {
        let weight_decay = asked.weight_decay.get();
        match self {
            Self::Adapter(adapter) => lora_ranges(adapter, asked.loraplus_lr_ratio.get(), weight_decay),
            Self::Full(full) => full.ranges(weight_decay),
        }
    }

    /// Puts other values in the place of the trained ones.
    ///
    /// # Errors
    /// There are more or fewer of them.
    pub fn replace(&self, values: &Tensor) -> Result<(), TrainError> {
        let _guard = no_grad_guard();
        self.flat().shallow_clone().f_copy_(values)?;
        Ok(())
    }

    /// Writes the exact values into `folder`: a PEFT folder, or the weights of a model.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save_exact(&self, folder: &Path, base: &Base) -> Result<(), TrainError> {
        match self {
            Self::Adapter(adapter) => adapter.save(folder, &base.name),
            Self::Full(_) => base.model.save(folder, Kind::Float),
        }
        .map_err(|error| TrainError::saving(folder, error))
    }

    /// Writes what a user gets into `folder`: a PEFT folder, or a model folder with the base's text files.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save_result(&self, folder: &Path, base: &Base) -> Result<(), TrainError> {
        let Self::Full(full) = self else {
            return self.save_exact(folder, base);
        };
        base.model
            .save(folder, full.save_kind())
            .map_err(|error| TrainError::saving(folder, error))?;
        copy_text_files(&base.folder, folder)
    }
}

/// Copies tokenizer, chat template and generation settings of a base model.
///
/// # Errors
/// A file cannot be written.
pub(crate) fn copy_text_files(base: &Path, folder: &Path) -> Result<(), TrainError> {
    for name in TEXT_FILES {
        let from = base.join(name);
        if from.exists() {
            let to = folder.join(name);
            fs::copy(&from, &to).map_err(TrainError::output(&to))?;
        }
    }
    Ok(())
}

/// One range, or, with LoRA+, `A` and `B` apart. Both are decayed, each at its own rate, as in PEFT's
/// `create_loraplus_optimizer`.
fn lora_ranges(adapter: &Adapter, lr_ratio: f64, weight_decay: f64) -> Vec<Range> {
    let (size, size_of_a) = (adapter.flat().numel() as i64, adapter.size_of_a());
    let range = |length, lr_ratio| Range {
        length,
        lr_ratio,
        weight_decay,
    };
    if lr_ratio == 1.0 {
        vec![range(size, 1.0)]
    } else {
        vec![range(size_of_a, 1.0), range(size - size_of_a, lr_ratio)]
    }
}

fn lora_settings(asked: &Hyperparameters) -> LoraSettings {
    LoraSettings {
        rank: i64::from(asked.rank.get()),
        alpha: asked.alpha.get(),
        use_rslora: asked.use_rslora,
        dropout: asked.dropout.get(),
        target_modules: asked.target_modules.clone(),
        rank_pattern: asked
            .rank_pattern
            .iter()
            .map(|(pattern, rank)| (pattern.clone(), i64::from(rank.get())))
            .collect(),
        alpha_pattern: asked
            .alpha_pattern
            .iter()
            .map(|(pattern, alpha)| (pattern.clone(), alpha.get()))
            .collect(),
        layers_to_transform: asked.layers_to_transform.clone(),
    }
}
