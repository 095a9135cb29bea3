//! Checkpoints: `step-00000050/` with the trained tensors, the optimizer's moments, the best values so far and the state,
//! and golden probes beside them.
//! `best/` is a checkpoint too: that of the best evaluation, where it is asked for. A folder that exists is whole.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};
use tunesmith_torch_ext::{MappedFile, write_tensor_file};
use tunesmith_types::probe::Probe;

use crate::base::Base;
use crate::error::TrainError;
use crate::files::{clear, entries, write_folder};
use crate::optimizer::Moments;
use crate::probes::write_probes;
use crate::recipe::Recipe;
use crate::selection::Selection;
use crate::subject::Subject;

const STATE: &str = "state.json";
const OPTIMIZER: &str = "optimizer.safetensors";
const BEST: &str = "best.safetensors";
const VALUES: &str = "values";
/// 2: optimizer state in the order of the adapter's flat buffer; best values.
const FORMAT: u32 = 2;
/// Bytes of a checkpoint per trained value: the value itself, two moments.
const BYTES_PER_VALUE: u64 = 3 * 4;

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
    /// The evaluations so far.
    pub selection: Selection,
    /// What the run was asked to do.
    pub recipe: Recipe,
}

impl State {
    /// The state before the first step.
    #[must_use]
    pub fn new(recipe: Recipe) -> Self {
        Self {
            format: FORMAT,
            step: 0,
            tokens: 0,
            supervised_tokens: 0,
            selection: Selection::default(),
            recipe,
        }
    }
}

/// What a checkpoint holds.
#[derive(Debug)]
pub struct Snapshot<'a> {
    /// The trained tensors.
    pub subject: &'a Subject,
    /// The optimizer's state.
    pub moments: Moments,
    /// Trained values of the best evaluation, float32 `[n]`, where they may be wanted in the end.
    pub best: Option<&'a Tensor>,
    /// The rest.
    pub state: &'a State,
}

impl Snapshot<'_> {
    /// Writes `step-…` under `folder`, with the `probes` of its adapter, and returns its path.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save(&self, folder: &Path, base: &Base, probes: Option<&[Probe]>) -> Result<PathBuf, TrainError> {
        self.save_to(folder.join(format!("step-{:08}", self.state.step)), base, probes)
    }

    /// Writes `best` under `folder`, in the place of the one before.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save_best(&self, folder: &Path, base: &Base) -> Result<PathBuf, TrainError> {
        self.save_to(folder.join("best"), base, None)
    }

    fn save_to(&self, path: PathBuf, base: &Base, probes: Option<&[Probe]>) -> Result<PathBuf, TrainError> {
        write_folder(&path, |aside| {
            self.subject.save_exact(aside, base)?;
            let moments = [
                ("first_moment", &self.moments.first),
                ("second_moment", &self.moments.second),
            ];
            write_tensors(&aside.join(OPTIMIZER), &moments)?;
            if let Some(best) = self.best {
                write_tensors(&aside.join(BEST), &[(VALUES, best)])?;
            }
            if let Some(probes) = probes {
                write_probes(aside, probes)?;
            }
            let text = serde_json::to_string_pretty(self.state).expect("invariant: a state is plain data");
            let file = aside.join(STATE);
            fs::write(&file, text + "\n").map_err(TrainError::output(&file))
        })?;
        Ok(path)
    }
}

fn write_tensors(file: &Path, tensors: &[(&str, &Tensor)]) -> Result<(), TrainError> {
    let tensors: Vec<(&str, Tensor)> = tensors
        .iter()
        .map(|(name, tensor)| (*name, tensor.shallow_clone()))
        .collect();
    write_tensor_file(file, &tensors).map_err(|error| TrainError::saving(file, error.into()))
}

/// Bytes of a checkpoint of `size` trained values, and a bit for its texts.
#[must_use]
pub fn bytes(size: u64, keeps_best: bool) -> u64 {
    let best = if keeps_best { 4 } else { 0 };
    size * (BYTES_PER_VALUE + best) + (1 << 16)
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

/// Reads the values of the best evaluation, `[size]`, onto the CPU.
///
/// # Errors
/// They are missing or of another size.
pub fn read_best(path: &Path, size: u64) -> Result<Tensor, TrainError> {
    let broken = |error: tunesmith_torch_ext::TensorFileError| invalid(path, error.to_string());
    let file = MappedFile::open(&path.join(BEST)).map_err(broken)?;
    if file.shape(VALUES).map_err(broken)? != [size as i64] {
        return Err(invalid(path, "the best values do not fit the trained tensors"));
    }
    file.load(VALUES, Device::Cpu, Some(Kind::Float)).map_err(broken)
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

/// Removes all but the newest `keep` checkpoints up to `step`; 0 keeps all. `best` always stays.
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
