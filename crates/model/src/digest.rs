//! Digests that name a base model, a tokenizer and a chat template for good: an adapter works only on the very base,
//! tokens and prompt layout with which it was trained.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use sha2::{Digest, Sha256};

use crate::error::ModelError;
use crate::weights::file_names;

/// Files that are hashed at a time: one processor hashes more slowly than a disk reads.
const THREADS: usize = 4;

/// The base model's digest: sha256 of the lines `<sha256>  <file name>\n` of `config.json` and every weights file, sorted
/// by file name. In a shell: `sha256sum config.json *.safetensors | LC_ALL=C sort -k2 | sha256sum`.
///
/// # Errors
/// A file is missing or cannot be read.
pub fn base_model_digest(folder: &Path) -> Result<String, ModelError> {
    let mut names = file_names(folder)?;
    names.push("config.json".to_owned());
    names.sort_unstable();
    let paths: Vec<PathBuf> = names.iter().map(|name| folder.join(name)).collect();
    let mut list = Sha256::new();
    for (name, digest) in names.iter().zip(file_digests(&paths)) {
        list.update(format!("{}  {name}\n", digest?));
    }
    Ok(hex::encode(list.finalize()))
}

/// [`file_digest`] of each, in their order.
fn file_digests(paths: &[PathBuf]) -> impl Iterator<Item = Result<String, ModelError>> + use<> {
    let next = AtomicUsize::new(0);
    let digests: Vec<OnceLock<_>> = paths.iter().map(|_| OnceLock::new()).collect();
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(path) = paths.get(index) else { return };
            // Each index is drawn once, so nothing is there yet.
            let _ = digests[index].set(file_digest(path));
        }
    };
    thread::scope(|scope| {
        for _ in 1..THREADS.min(paths.len()) {
            scope.spawn(work);
        }
        work();
    });
    let digest = |slot: OnceLock<_>| slot.into_inner().expect("invariant: every index is drawn");
    digests.into_iter().map(digest)
}

/// The tokenizer's digest: sha256 of `tokenizer.json`.
///
/// # Errors
/// The file is missing or cannot be read.
pub fn tokenizer_digest(folder: &Path) -> Result<String, ModelError> {
    file_digest(&folder.join("tokenizer.json"))
}

/// The chat template's digest: sha256 of its text, wherever it is kept.
#[must_use]
pub fn template_digest(template: &str) -> String {
    hex::encode(Sha256::digest(template))
}

/// sha256 of a file, in hex, read in pieces.
///
/// # Errors
/// The file is missing or cannot be read.
pub fn file_digest(path: &Path) -> Result<String, ModelError> {
    let hash = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let mut hasher = Sha256::new();
        let mut piece = vec![0; 1 << 20];
        loop {
            match file.read(&mut piece)? {
                0 => return Ok(hex::encode(hasher.finalize())),
                length => hasher.update(&piece[..length]),
            }
        }
    };
    hash().map_err(|source| ModelError::Io {
        path: path.to_path_buf(),
        source,
    })
}

/// The chat template of a model's folder: `chat_template.jinja`, or else the text in `tokenizer_config.json`.
///
/// # Errors
/// A file is there and cannot be read or is not JSON.
pub fn chat_template(folder: &Path) -> Result<Option<String>, ModelError> {
    let read = |name: &str| -> Result<Option<String>, ModelError> {
        let path = folder.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ModelError::Io { path, source }),
        }
    };
    if let Some(template) = read("chat_template.jinja")? {
        return Ok(Some(template));
    }
    let Some(text) = read("tokenizer_config.json")? else {
        return Ok(None);
    };
    let config: serde_json::Value = serde_json::from_str(&text).map_err(|source| ModelError::Json {
        path: folder.join("tokenizer_config.json"),
        source,
    })?;
    Ok(config
        .get("chat_template")
        .and_then(serde_json::Value::as_str)
        .map(str::to_owned))
}
