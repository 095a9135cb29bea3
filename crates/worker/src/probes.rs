//! The golden probes that a trainer leaves beside the adapter: for the manifest, not a file of the version.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use tunesmith_store::queue::ClaimedJob;
use tunesmith_types::probe::{Probe, ProbeListError};

use crate::failure::chain;

/// Why the probes cannot be used.
#[derive(Debug, thiserror::Error)]
enum ProbesError {
    #[error("the probes cannot be read")]
    Read(#[from] io::Error),
    #[error(transparent)]
    List(#[from] ProbeListError),
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
    file.take(Probe::MOST_BYTES + 1).read_to_end(&mut text)?;
    Ok(Probe::parse_list(&text)?)
}
