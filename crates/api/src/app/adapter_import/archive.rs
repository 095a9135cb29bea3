//! What is in the archive, and where. Only headers are read, and of these only the plain ones: a file's name is never
//! used as a path.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Component, Path};

use tar::{Archive, Entry, EntryType, PaxExtensions};

use crate::app::adapter_check::{CONFIG, MOST_CONFIG_BYTES, TENSORS};

/// Entries of the archive.
const MOST_ENTRIES: usize = 256;
/// Longest extended header, which holds such things as times with fractions of a second.
const MOST_EXTENSION_BYTES: u64 = 64 << 10;
/// Endings of files that run code when they are loaded.
const PICKLES: [&str; 7] = ["bin", "ckpt", "pickle", "pkl", "pt", "pth", "joblib"];

/// Where a file lies within the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) config: Option<Span>,
    pub(super) tensors: Option<Span>,
    /// Names of files that are no part of the adapter.
    pub(super) ignored: Vec<String>,
    pub(super) problems: Vec<String>,
}

/// Lists an archive of `length` bytes.
pub(super) fn list(file: &mut File, length: u64) -> Contents {
    let mut contents = Contents::default();
    if let Err(error) = contents.read(file, length) {
        contents
            .problems
            .push(format!("The body is no whole tar archive: {error}."));
    }
    for (name, found) in [(CONFIG, contents.config), (TENSORS, contents.tensors)] {
        if found.is_none() {
            contents.problems.push(format!("`{name}` is missing."));
        }
    }
    if let Some(config) = contents.config.filter(|span| span.bytes > MOST_CONFIG_BYTES) {
        contents.problems.push(format!(
            "`{CONFIG}` has {} bytes; at most {MOST_CONFIG_BYTES} are read.",
            config.bytes
        ));
    }
    contents
}

impl Contents {
    fn read(&mut self, file: &mut File, length: u64) -> std::io::Result<()> {
        file.rewind()?;
        let mut archive = Archive::new(file);
        for (index, entry) in archive.entries_with_seek()?.raw(true).enumerate() {
            if index == MOST_ENTRIES {
                self.problems
                    .push(format!("The archive has more than {MOST_ENTRIES} entries."));
                return Ok(());
            }
            self.take(&mut entry?, length)?;
        }
        Ok(())
    }

    fn take(&mut self, entry: &mut Entry<'_, &mut File>, length: u64) -> std::io::Result<()> {
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let shown: String = name.chars().take(120).collect();
        let span = Span {
            offset: entry.raw_file_position(),
            bytes: entry.header().size()?,
        };
        match entry.header().entry_type() {
            EntryType::Directory => {}
            EntryType::XHeader | EntryType::XGlobalHeader => self.check_extension(entry, span)?,
            EntryType::Regular => {
                if span.offset.checked_add(span.bytes).is_none_or(|end| end > length) {
                    self.problems.push(format!("`{shown}` is cut off."));
                } else {
                    self.place(&name, &shown, span);
                }
            }
            _ => self.problems.push(format!(
                "`{shown}` is no regular file (or has a name of more than 100 letters)."
            )),
        }
        Ok(())
    }

    /// Times and owners do not matter; what gives the next entry another name or length is refused.
    fn check_extension(&mut self, entry: &mut Entry<'_, &mut File>, span: Span) -> std::io::Result<()> {
        if span.bytes > MOST_EXTENSION_BYTES {
            self.problems
                .push("The archive has an extended header that is too long.".to_owned());
            return Ok(());
        }
        let mut text = Vec::new();
        entry.read_to_end(&mut text)?;
        for extension in PaxExtensions::new(&text) {
            let key = extension?.key().unwrap_or("?").to_owned();
            if ["path", "size", "linkpath", "?"].contains(&key.as_str()) || key.starts_with("GNU.") {
                self.problems.push(format!(
                    "The archive has an extended header with `{key:.40}`; use short plain names."
                ));
            }
        }
        Ok(())
    }

    fn place(&mut self, name: &str, shown: &str, span: Span) {
        let path = Path::new(name);
        let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        let file = path.file_name().and_then(|file| file.to_str());
        let Some(file) = file.filter(|_| path.components().all(plain) && !name.contains('\\')) else {
            self.problems
                .push(format!("`{shown}` is a path that leads out of the folder."));
            return;
        };
        let extension = path.extension().and_then(|extension| extension.to_str());
        let pickle =
            extension.is_some_and(|found| PICKLES.iter().any(|known| found.eq_ignore_ascii_case(known)));
        let slot = match file {
            _ if pickle => {
                self.problems.push(format!(
                    "`{shown}` may run code when it is loaded; save the adapter as safetensors, and leave this file out."
                ));
                return;
            }
            CONFIG => &mut self.config,
            TENSORS => &mut self.tensors,
            _ => {
                self.ignored.push(shown.to_owned());
                return;
            }
        };
        if slot.replace(span).is_some() {
            self.problems
                .push(format!("`{file}` is there twice; an archive holds one adapter."));
        }
    }
}
