//! Where the trainer and the engine are.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::environment;

/// `tunesmith-trainer`
pub(crate) fn trainer() -> anyhow::Result<PathBuf> {
    find("tunesmith-trainer", environment::TRAINER)
}

/// `tunesmith-engine`
pub(crate) fn engine() -> anyhow::Result<PathBuf> {
    find("tunesmith-engine", environment::ENGINE)
}

fn find(name: &str, variable: &str) -> anyhow::Result<PathBuf> {
    if let Some(given) = environment::read(variable) {
        let path = PathBuf::from(given);
        if !path.is_file() {
            bail!("{variable} names {}, but there is no such file", path.display());
        }
        return std::path::absolute(&path).with_context(|| format!("cannot resolve {}", path.display()));
    }
    let own = std::env::current_exe().context("cannot tell where this executable is")?;
    let folder = own.parent().unwrap_or(Path::new("/"));
    let path = folder.join(name);
    if !path.is_file() {
        bail!(
            "`{name}` is missing: it is neither beside {} nor named by {variable}. Build it with `make build`",
            own.display()
        );
    }
    Ok(path)
}
