//! Checkpoints: `step-00000050/` with the trained tensors, the optimizer's moments and the state. A folder that exists
//! is whole.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tch::{Device, Kind};
use tunesmith_torch_ext::{MappedFile, write_tensor_file};

use crate::error::TrainError;
use crate::files::{clear, entries, write_folder};
use crate::optimizer::Moments;
use crate::recipe::Recipe;
use crate::subject::Subject;

const STATE: &str = "state.json";
const OPTIMIZER: &str = "optimizer.safetensors";
const FORMAT: u32 = 1;

/// `state.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Version of the layout.
    pub format: u32,
    /// Optimizer steps done. Order and dropout are functions of it, so it is cursor and counter in one.
    pub step: u64,
    /// Tokens that went through the model so far.
    pub tokens: u64,
    /// Tokens that counted in the loss so far.
    pub supervised_tokens: u64,
    /// What the run was asked to do.
    pub recipe: Recipe,
}

impl State {
    /// A state of the present layout.
    #[must_use]
    pub const fn new(step: u64, tokens: u64, supervised_tokens: u64, recipe: Recipe) -> Self {
        Self {
            format: FORMAT,
            step,
            tokens,
            supervised_tokens,
            recipe,
        }
    }
}

/// Writes a checkpoint under `folder` and returns its path.
///
/// # Errors
/// A file cannot be written.
pub fn save(
    folder: &Path,
    subject: &Subject,
    moments: &Moments,
    state: &State,
    base_name: &str,
) -> Result<PathBuf, TrainError> {
    let path = folder.join(format!("step-{:08}", state.step));
    write_folder(&path, |aside| {
        subject.save_exact(aside, base_name)?;
        let tensors = [
            ("first_moment", &moments.first),
            ("second_moment", &moments.second),
        ];
        let tensors = tensors.map(|(name, tensor)| (name, tensor.shallow_clone()));
        write_tensor_file(&aside.join(OPTIMIZER), &tensors)?;
        let text = serde_json::to_string_pretty(state).expect("invariant: a state is plain data");
        let file = aside.join(STATE);
        fs::write(&file, text + "\n").map_err(TrainError::output(&file))
    })?;
    Ok(path)
}

/// The folder to resume from: `path` itself, or the latest checkpoint in it.
///
/// # Errors
/// There is none.
pub fn find(path: &Path) -> Result<PathBuf, TrainError> {
    if path.join(STATE).exists() {
        return Ok(path.to_path_buf());
    }
    let all = if path.is_dir() { list(path)? } else { Vec::new() };
    all.into_iter()
        .next_back()
        .map(|(_, path)| path)
        .ok_or_else(|| invalid(path, "it is not a checkpoint, and there is none in it"))
}

/// Reads the state of a checkpoint.
///
/// # Errors
/// It is missing, or not one of ours.
pub fn read_state(path: &Path) -> Result<State, TrainError> {
    let text = fs::read_to_string(path.join(STATE))
        .map_err(|error| invalid(path, format!("{STATE} cannot be read: {error}")))?;
    let state: State = serde_json::from_str(&text)
        .map_err(|error| invalid(path, format!("{STATE} is not valid: {error}")))?;
    if state.format != FORMAT {
        let reason = format!("its format is {}, this program knows {FORMAT}", state.format);
        return Err(invalid(path, reason));
    }
    Ok(state)
}

/// Reads the optimizer's moments, of `size` values each.
///
/// # Errors
/// They are missing or of another size.
pub fn read_moments(path: &Path, steps: u64, size: u64, device: Device) -> Result<Moments, TrainError> {
    let broken = |error: tunesmith_torch_ext::TensorFileError| invalid(path, error.to_string());
    let file = MappedFile::open(&path.join(OPTIMIZER)).map_err(broken)?;
    let load = |name: &str| {
        if file.shape(name).map_err(broken)? != [size as i64] {
            return Err(invalid(path, format!("{name} does not fit the trained tensors")));
        }
        file.load(name, device, Some(Kind::Float)).map_err(broken)
    };
    Ok(Moments {
        first: load("first_moment")?,
        second: load("second_moment")?,
        steps,
    })
}

/// The checkpoints in a folder by step; empty where there is no folder.
///
/// # Errors
/// The folder cannot be read.
pub fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>, TrainError> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut found: Vec<(u64, PathBuf)> = entries(folder)?
        .into_iter()
        .filter_map(|path| {
            let step = path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()?;
            Some((step, path))
        })
        .collect();
    found.sort();
    Ok(found)
}

/// Removes all but the newest `keep` checkpoints up to `step`; 0 keeps all.
///
/// # Errors
/// One cannot be removed.
pub fn prune(folder: &Path, step: u64, keep: usize) -> Result<(), TrainError> {
    if keep == 0 {
        return Ok(());
    }
    let all = list(folder)?;
    let old = all.iter().filter(|(found, _)| *found <= step);
    let surplus = old.clone().count().saturating_sub(keep);
    for (_, path) in old.take(surplus) {
        clear(path)?;
    }
    Ok(())
}

fn invalid(path: &Path, reason: impl Into<String>) -> TrainError {
    TrainError::CheckpointInvalid {
        path: path.to_path_buf(),
        reason: reason.into(),
    }
}
