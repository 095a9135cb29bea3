//! `merge`: base model and adapter become a model folder of its own, which is proved to be that before it is
//! there.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, no_grad_guard};
use tunesmith_dataset::Encoder;
use tunesmith_model::{Adapter, CausalLm, PackedBatch, Precision, merge_folder};
use tunesmith_types::probe::Probe;

use crate::cli::{MergeArgs, MergeDtype};
use crate::device::kind_name;
use crate::error::TrainError;
use crate::files::write_folder;
use crate::probes::GENERIC;
use crate::subject::copy_text_files;

/// The file that says how a merged model was verified.
pub const VERIFICATION_FILE: &str = "verification.json";

/// How far the scores of the unrounded merge may be from those of base and adapter, as a share of the largest score: what
/// summing in another order costs, about one part in a million, with room for deep models.
const TOLERANCE: f64 = 1e-4;

/// How a merged model was proved: the merge in float32 gives the scores of base and adapter, and the written weights are
/// that merge, rounded once. All scores are computed in float32.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verification {
    /// Prompts that were compared.
    pub prompts: usize,
    /// Positions that were compared, each over the whole vocabulary.
    pub positions: usize,
    /// The largest difference of two scores (logits) between the merge before rounding and base and adapter.
    pub max_logit_difference: f64,
    /// How large it may be.
    pub tolerance: f64,
    /// The largest score of base and adapter, without sign.
    pub largest_logit: f64,
    /// The largest difference that the adapter makes to the base model: what the merge must carry over.
    pub adapter_effect: f64,
    /// The format of the written weights.
    pub dtype: String,
    /// Tensors that were written; each was found to be, bit for bit, the merge rounded once to `dtype`.
    pub equal_tensors: usize,
    /// The largest difference of two scores between the written model and base and adapter: what the rounding costs. For
    /// information; it is that of any model in this format.
    pub rounded_logit_difference: f64,
}

/// Writes the merged model to `--out`, which holds it only when it is proved.
///
/// # Errors
/// Base or adapter cannot be read, a file cannot be written, or the merge is not proved.
pub fn merge(args: &MergeArgs) -> Result<Verification, TrainError> {
    let config = tunesmith_model::ModelConfig::from_folder(&args.base)?;
    let adapter = Adapter::load(&args.adapter, &config, Device::Cpu)?;
    let prompts = prompts(args, config.vocab_size)?;
    let mut verification = None;
    write_folder::<TrainError>(&args.out, |folder| {
        let shard_bytes = args.max_shard_bytes;
        let kind = args.dtype.map(MergeDtype::kind);
        let kind = merge_folder(&args.base, &adapter, folder, kind, shard_bytes)
            .map_err(|error| TrainError::saving(folder, error))?;
        copy_text_files(&args.base, folder)?;
        let found = verify(&args.base, &adapter, folder, kind, &prompts)?;
        let path = folder.join(VERIFICATION_FILE);
        let text =
            serde_json::to_string_pretty(&found).map_err(|error| TrainError::Internal(error.to_string()))?;
        fs::write(&path, format!("{text}\n")).map_err(TrainError::output(&path))?;
        verification = Some(found);
        Ok(())
    })?;
    verification.ok_or_else(|| TrainError::Internal("a merged model was not verified".to_owned()))
}

/// Golden prompts with their answers, and always a general one.
fn prompts(args: &MergeArgs, vocabulary: i64) -> Result<Vec<Vec<u32>>, TrainError> {
    let path = args.probes.clone();
    let path = path.unwrap_or_else(|| args.adapter.join(Probe::FILE));
    let mut prompts = Vec::new();
    if args.probes.is_some() || path.exists() {
        let text = fs::read_to_string(&path).map_err(|source| TrainError::DataUnreadable {
            path: path.clone(),
            source,
        })?;
        let probes: Vec<Probe> = serde_json::from_str(&text)
            .map_err(|error| TrainError::Arguments(format!("{} is not valid: {error}", path.display())))?;
        prompts.extend(probes.into_iter().take(Probe::MOST).map(|probe| {
            let mut tokens = probe.prompt;
            tokens.extend(probe.completion);
            tokens
        }));
    }
    let encoder = Encoder::load(&args.base)?;
    if let Ok(generic) = encoder.tokenizer().encode(GENERIC, true) {
        prompts.push(generic.ids);
    }
    let fits =
        |tokens: &Vec<u32>| !tokens.is_empty() && tokens.iter().all(|token| i64::from(*token) < vocabulary);
    prompts.retain(fits);
    if prompts.is_empty() {
        let message = "there is no prompt to verify the merged model with; give some with --probes";
        return Err(TrainError::Arguments(message.to_owned()));
    }
    Ok(prompts)
}

/// Proves the merged model in `folder`. One model is in memory at a time.
fn verify(
    base: &Path,
    adapter: &Adapter,
    folder: &Path,
    kind: Kind,
    prompts: &[Vec<u32>],
) -> Result<Verification, TrainError> {
    let _guard = no_grad_guard();
    let load = |folder: &Path| CausalLm::load(folder, Device::Cpu, Precision::uniform(Kind::Float));
    let mut model = load(base)?;
    let plain = scores(&model, None, prompts)?;
    let adapted = scores(&model, Some(adapter), prompts)?;
    model.merge(adapter)?;
    let difference = largest_difference(&adapted, &scores(&model, None, prompts)?)?;
    let largest_logit = adapted.f_abs()?.f_max()?.f_double_value(&[])?;
    require_within(difference, TOLERANCE * largest_logit)?;
    if let Some(tensor) = model.find_unequal(folder, kind)? {
        return Err(TrainError::MergeNotRounded {
            tensor,
            dtype: kind_name(kind),
        });
    }
    let equal_tensors = model.parameters().len();
    drop(model);
    let rounded_logit_difference = largest_difference(&adapted, &scores(&load(folder)?, None, prompts)?)?;
    // A number of the base model may be too large for float16.
    require_within(rounded_logit_difference, f64::MAX)?;
    Ok(Verification {
        prompts: prompts.len(),
        positions: prompts.iter().map(Vec::len).sum(),
        max_logit_difference: difference,
        tolerance: TOLERANCE * largest_logit,
        largest_logit,
        adapter_effect: largest_difference(&adapted, &plain)?,
        dtype: kind_name(kind).to_owned(),
        equal_tensors,
        rounded_logit_difference,
    })
}

/// Refuses a difference that is no number too.
fn require_within(difference: f64, tolerance: f64) -> Result<(), TrainError> {
    if difference <= tolerance {
        Ok(())
    } else {
        Err(TrainError::MergeDiffers {
            difference,
            tolerance,
        })
    }
}

/// float32 `[positions of all prompts, vocab]`.
fn scores(model: &CausalLm, adapter: Option<&Adapter>, prompts: &[Vec<u32>]) -> Result<Tensor, TrainError> {
    let lengths: Vec<usize> = prompts.iter().map(Vec::len).collect();
    let batch = PackedBatch::new(&prompts.concat(), &lengths, model.device())?;
    let hidden = model.hidden(&batch, adapter, None)?;
    Ok(model.adapted_logits(&hidden, adapter, None)?)
}

fn largest_difference(one: &Tensor, other: &Tensor) -> Result<f64, TrainError> {
    Ok(one.f_sub(other)?.f_abs()?.f_max()?.f_double_value(&[])?)
}
