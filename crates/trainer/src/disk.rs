//! Room on the disk, looked at before the first step rather than after the last.

use std::path::Path;

use nix::sys::statvfs::statvfs;

use crate::error::TrainError;

/// What a job will write.
#[derive(Debug, Clone, Copy)]
pub struct Need {
    /// Bytes of one checkpoint.
    pub checkpoint: u64,
    /// Checkpoints to come.
    pub count: u64,
    /// Checkpoints that are kept; 0 is all.
    pub kept: u64,
    /// Whether the best one is kept too.
    pub keeps_best: bool,
    /// Bytes of the result.
    pub result: u64,
}

impl Need {
    /// The most that lies on the disk at once: a checkpoint is whole before an older one is removed.
    #[must_use]
    pub fn peak(&self) -> u64 {
        let kept = if self.kept == 0 {
            self.count
        } else {
            self.count.min(self.kept + 1)
        };
        let best = if self.keeps_best { 2 } else { 0 };
        self.checkpoint
            .saturating_mul(kept + best)
            .saturating_add(self.result)
    }
}

/// Makes sure that `need` fits where `folder` is or will be. Other jobs may take the room later, so a full disk is still an
/// error of its own.
///
/// # Errors
/// It does not fit.
pub fn check(folder: &Path, need: Need) -> Result<(), TrainError> {
    let Some(free) = free_bytes(folder) else {
        return Ok(());
    };
    if need.peak() <= free {
        return Ok(());
    }
    Err(TrainError::DiskTooSmall {
        path: folder.to_path_buf(),
        needed: need.peak().div_ceil(1 << 20),
        free: free >> 20,
    })
}

/// None where the file system does not say.
fn free_bytes(folder: &Path) -> Option<u64> {
    let absolute = std::path::absolute(folder).ok()?;
    let existing = absolute.ancestors().find(|path| path.exists())?;
    let status = statvfs(existing).ok()?;
    Some(status.blocks_available() as u64 * status.fragment_size() as u64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NEED: Need = Need {
        checkpoint: 100,
        count: 10,
        kept: 3,
        keeps_best: false,
        result: 30,
    };

    #[test]
    fn the_peak_counts_what_lies_there_at_once() {
        assert_eq!(NEED.peak(), 430);
        assert_eq!(Need { kept: 0, ..NEED }.peak(), 1030);
        assert_eq!(Need { count: 2, ..NEED }.peak(), 230);
        let best = Need {
            keeps_best: true,
            ..NEED
        };
        assert_eq!(best.peak(), 630);
    }

    #[test]
    fn too_much_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let future = folder.path().join("not/yet/there");
        check(&future, NEED).unwrap();
        let vast = Need {
            checkpoint: u64::MAX / 100,
            ..NEED
        };
        let error = check(&future, vast).unwrap_err();
        assert_eq!(error.code(), "output_unwritable");
        assert!(error.to_string().contains("MB free"), "{error}");
    }
}
