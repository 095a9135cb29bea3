//! Files that are whole or not there: written aside, synced, then renamed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::error::TrainError;

/// Makes a folder and its parents.
///
/// # Errors
/// It cannot be made.
pub fn make_folder(path: &Path) -> Result<(), TrainError> {
    fs::create_dir_all(path).map_err(TrainError::output(path))
}

/// Lets `fill` write a folder aside and puts it at `target`, replacing what was there.
///
/// # Errors
/// What `fill` says, or a file cannot be written.
pub fn write_folder<E: From<TrainError>>(
    target: &Path,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let aside = sibling(target, "partial");
    clear(&aside)?;
    make_folder(&aside)?;
    fill(&aside)?;
    sync_folder(&aside)?;
    let old = sibling(target, "old");
    clear(&old)?;
    if target.exists() {
        fs::rename(target, &old).map_err(TrainError::output(target))?;
    }
    fs::rename(&aside, target).map_err(TrainError::output(target))?;
    sync_parent(target)?;
    clear(&old)?;
    Ok(())
}

/// Lets `fill` write files aside and moves each into the folder `target`, which may hold other things.
///
/// # Errors
/// What `fill` says, or a file cannot be written.
pub fn write_into<E: From<TrainError>>(
    target: &Path,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    make_folder(target)?;
    let aside = target.join(".partial");
    clear(&aside)?;
    make_folder(&aside)?;
    fill(&aside)?;
    sync_folder(&aside)?;
    for path in entries(&aside)? {
        let name = path.file_name().unwrap_or_default();
        fs::rename(&path, target.join(name)).map_err(TrainError::output(&path))?;
    }
    clear(&aside)?;
    sync(target)?;
    Ok(())
}

/// The paths in a folder, sorted.
///
/// # Errors
/// It cannot be read.
pub fn entries(folder: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let mut paths = fs::read_dir(folder)
        .and_then(|entries| {
            entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<Result<Vec<_>, _>>()
        })
        .map_err(TrainError::output(folder))?;
    paths.sort();
    Ok(paths)
}

/// Removes a folder if it is there.
///
/// # Errors
/// It cannot be removed.
pub fn clear(folder: &Path) -> Result<(), TrainError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(TrainError::output(folder)(error)),
        _ => Ok(()),
    }
}

/// `.name.suffix` beside `target`.
fn sibling(target: &Path, suffix: &str) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.{suffix}"))
}

fn sync_folder(folder: &Path) -> Result<(), TrainError> {
    for path in entries(folder)? {
        sync(&path)?;
    }
    sync(folder)
}

fn sync_parent(path: &Path) -> Result<(), TrainError> {
    path.parent().map_or(Ok(()), |parent| {
        let here = Path::new(".");
        sync(if parent.as_os_str().is_empty() {
            here
        } else {
            parent
        })
    })
}

fn sync(path: &Path) -> Result<(), TrainError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(TrainError::output(path))
}
