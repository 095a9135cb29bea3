//! The golden probes that a trainer leaves beside the adapter: for the manifest, not a file of the version.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use tunesmith_store::queue::ClaimedJob;
use tunesmith_types::probe::Probe;

use crate::failure::chain;

/// Longest file; sixteen probes of some 70 tokens have 40 KiB.
const MOST_BYTES: u64 = 256 * 1024;

/// Why the probes cannot be used.
#[derive(Debug, thiserror::Error)]
enum ProbesError {
    #[error("the probes cannot be read")]
    Read(#[from] io::Error),
    #[error("the file is not a list of probes")]
    Json(#[from] serde_json::Error),
    #[error("there is {0}")]
    Wrong(&'static str),
}

/// What the trainer left in `folder`. A version can do without: serving then only sees whether the adapter acts at all.
pub(crate) async fn read_probes(folder: PathBuf, job: &ClaimedJob) -> Vec<Probe> {
    let read = tokio::task::spawn_blocking(move || read(&folder)).await;
    match read.expect("invariant: reading probes does not panic") {
        Ok(probes) => probes,
        Err(error) => {
            tracing::warn!(job = %job.token.job_id, error = %chain(&error), "the version has no golden probes");
            Vec::new()
        }
    }
}

fn read(folder: &Path) -> Result<Vec<Probe>, ProbesError> {
    let mut text = Vec::new();
    let file = File::open(folder.join(Probe::FILE))?;
    file.take(MOST_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MOST_BYTES {
        return Err(ProbesError::Wrong("a file that is too long"));
    }
    let probes: Vec<Probe> = serde_json::from_slice(&text)?;
    match probes.iter().find_map(problem) {
        _ if probes.len() > Probe::MOST => Err(ProbesError::Wrong("a list that is too long")),
        Some(problem) => Err(ProbesError::Wrong(problem)),
        None => Ok(probes),
    }
}

fn problem(probe: &Probe) -> Option<&'static str> {
    let length = probe.completion.len();
    if probe.prompt.is_empty() || length == 0 || length > Probe::MOST_TOKENS {
        return Some("a probe without a prompt, or with a completion of another length than 1 to 8");
    }
    if probe.logprobs.len() != length || probe.base_logprobs.len() != length {
        return Some("a probe with more or fewer log-probabilities than tokens");
    }
    let mut logprobs = probe.logprobs.iter().chain(&probe.base_logprobs);
    logprobs
        .any(|value| !value.is_finite() || *value > 0.0)
        .then_some("a log-probability above zero")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn probe() -> Probe {
        Probe {
            prompt: vec![1, 2],
            completion: vec![3, 4],
            logprobs: vec![-0.5, -0.25],
            base_logprobs: vec![-2.0, -3.0],
        }
    }

    #[test]
    fn only_whole_probes_are_taken() {
        let folder = tempfile::tempdir().unwrap();
        let write = |text: &str| std::fs::write(folder.path().join(Probe::FILE), text).unwrap();
        assert!(matches!(read(folder.path()), Err(ProbesError::Read(_))));
        write(&serde_json::to_string(&[probe(), probe()]).unwrap());
        assert_eq!(read(folder.path()).unwrap(), [probe(), probe()]);
        write("{}");
        assert!(matches!(read(folder.path()), Err(ProbesError::Json(_))));
        let spoilt: [fn(&mut Probe); 5] = [
            |probe| probe.prompt.clear(),
            |probe| probe.completion.clear(),
            |probe| probe.logprobs.truncate(1),
            |probe| probe.base_logprobs.push(-1.0),
            |probe| probe.logprobs[0] = 0.5,
        ];
        for spoil in spoilt {
            let mut probe = probe();
            spoil(&mut probe);
            write(&serde_json::to_string(&[probe]).unwrap());
            assert!(matches!(read(folder.path()), Err(ProbesError::Wrong(_))));
        }
        write(&serde_json::to_string(&vec![probe(); Probe::MOST + 1]).unwrap());
        assert!(matches!(read(folder.path()), Err(ProbesError::Wrong(_))));
    }
}
