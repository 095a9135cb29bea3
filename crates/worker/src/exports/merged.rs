//! The merged form: the trainer folds the adapter into the base model's weights and proves it.

use std::{fs, io, process::Stdio};

use tokio::process::Command;
use tunesmith_types::{probe::Probe, states::ExportDtype};

use super::{Built, Sources};
use crate::{child::inherited_environment, failure::Failure, run::WorkerContext};

const VERIFICATION: &str = "verification.json";
/// Longest line of the trainer that is shown to the export's owner.
const MOST_MESSAGE: usize = 2000;

pub(super) async fn build(context: &WorkerContext, sources: &Sources<'_>) -> Result<Built, Failure> {
    let disk = |error: io::Error| Failure::disk("make a merged model", &error);
    let base = sources.folder.join("base");
    context
        .cache
        .stage(&context.blobs, &sources.base.files, &base)
        .await?;
    if let Some(probes) = sources.claimed.version.manifest.get(Probe::FIELD) {
        fs::write(sources.adapter().join(Probe::FILE), probes.to_string()).map_err(disk)?;
    }
    let mut command = Command::new(&context.settings.trainer.program);
    command
        .args(["merge", "--base", "base", "--adapter", "adapter", "--out", "out"])
        .current_dir(sources.folder)
        .env_clear()
        .envs(inherited_environment())
        .stdin(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    if sources.claimed.dtype != ExportDtype::Auto {
        command.args(["--dtype", sources.claimed.dtype.as_str()]);
    }
    if let Some(threads) = context.settings.trainer.threads {
        command.args(["--threads", &threads.to_string()]);
    }
    let output = command
        .output()
        .await
        .map_err(|error| Failure::not_started(&error))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(reported(&words, &sources.folder.to_string_lossy())
            .unwrap_or_else(|| Failure::exited(output.status)));
    }
    let verification = fs::read(sources.out().join(VERIFICATION)).map_err(disk)?;
    let mut verification: serde_json::Value = serde_json::from_slice(&verification).map_err(|error| {
        Failure::retryable("export_invalid", format!("{VERIFICATION} is not valid: {error}."))
    })?;
    verification["method"] =
        "the merge in float32 gives the scores of base and adapter, and each written tensor is that merge rounded \
         once, bit for bit; rounded_logit_difference is what the rounding costs"
            .into();
    let mut names = fs::read_dir(sources.out())
        .and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect::<io::Result<Vec<String>>>()
        })
        .map_err(disk)?;
    names.sort();
    Ok(Built { names, verification })
}

/// The trainer's last line is `error: what is wrong [code]`.
fn reported(words: &str, folder: &str) -> Option<Failure> {
    let line = words.lines().rev().find(|line| line.starts_with("error: "))?;
    let (message, code) = line.strip_prefix("error: ")?.rsplit_once(" [")?;
    let message: String = message
        .replace(&format!("{folder}/"), "")
        .chars()
        .take(MOST_MESSAGE)
        .collect();
    let failure = Failure::reported(code.trim_end_matches(']').to_owned(), message);
    Some(match failure.code.as_str() {
        "merge_differs" => Failure::last("merge_differs", failure.message),
        _ => failure,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_the_trainer_says_is_told() {
        let words = "a warning\nerror: the adapter in /tmp/x/adapter does not fit [adapter_invalid]\n";
        let failure = reported(words, "/tmp/x").unwrap();
        assert_eq!(failure.code, "adapter_invalid");
        assert_eq!(failure.message, "the adapter in adapter does not fit");
        let failure = reported("error: scores differ [merge_differs]", "/tmp/x").unwrap();
        assert!(!failure.retryable);
        assert!(reported("Segmentation fault", "/tmp/x").is_none());
    }
}
