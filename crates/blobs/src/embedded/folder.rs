//! The bytes of the embedded server.
//!
//! ```text
//! objects/<key>            whole objects only: written under incoming/, synced, renamed
//! incoming/<random>        bodies on their way
//! uploads/<id>/key         a multipart upload and what it will become
//! uploads/<id>/<number>-<crc32>
//! ```

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use uuid::Uuid;

use crate::BlobKey;

/// Times that a rename is tried where a deletion removes its folder meanwhile.
const RENAME_ATTEMPTS: u32 = 5;

/// One whole object.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) key: BlobKey,
    pub(super) bytes: u64,
    pub(super) modified: SystemTime,
}

impl Object {
    /// Differs whenever the object was replaced: S3 promises no more.
    pub(super) fn etag(&self) -> String {
        let age = self
            .modified
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        format!("{:016x}{:016x}", age.as_nanos() as u64, self.bytes)
    }
}

/// The server's folder. Its methods block; they are called from threads that may.
#[derive(Debug)]
pub(super) struct ObjectFolder {
    root: PathBuf,
}

impl ObjectFolder {
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        for unfinished in ["incoming", "uploads"] {
            let folder = root.join(unfinished);
            if folder.exists() {
                fs::remove_dir_all(&folder)?;
            }
            fs::create_dir_all(&folder)?;
        }
        fs::create_dir_all(root.join("objects"))?;
        Ok(Self {
            root: root.to_owned(),
        })
    }

    fn object_path(&self, key: &BlobKey) -> PathBuf {
        self.root.join("objects").join(key.as_str())
    }

    fn upload_path(&self, upload: Uuid) -> PathBuf {
        self.root.join("uploads").join(upload.simple().to_string())
    }

    /// A name for a body on its way.
    pub(super) fn incoming_path(&self) -> PathBuf {
        self.root
            .join("incoming")
            .join(Uuid::new_v4().simple().to_string())
    }

    /// Makes `incoming`, whose bytes are on disk, the object `key`.
    pub(super) fn publish(&self, incoming: &Path, key: &BlobKey) -> io::Result<Object> {
        let path = self.object_path(key);
        let folder = path.parent().expect("invariant: an object lies in a folder");
        let mut attempt = 1;
        loop {
            fs::create_dir_all(folder)?;
            match fs::rename(incoming, &path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && attempt < RENAME_ATTEMPTS => {
                    attempt += 1
                }
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        File::open(folder)?.sync_all()?;
        self.find(key)?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The object, where there is one.
    pub(super) fn find(&self, key: &BlobKey) -> io::Result<Option<Object>> {
        match fs::metadata(self.object_path(key)) {
            Ok(metadata) if metadata.is_file() => Ok(Some(Object {
                key: key.clone(),
                bytes: metadata.len(),
                modified: metadata.modified()?,
            })),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The object with its bytes; both are of the same version, also where it is replaced meanwhile.
    pub(super) fn read(&self, key: &BlobKey) -> io::Result<Option<(Object, File)>> {
        let file = match File::open(self.object_path(key)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        let object = Object {
            key: key.clone(),
            bytes: metadata.len(),
            modified: metadata.modified()?,
        };
        Ok(metadata.is_file().then_some((object, file)))
    }

    /// Removes the object, and the folders that it leaves empty.
    pub(super) fn remove(&self, key: &BlobKey) -> io::Result<()> {
        let path = self.object_path(key);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let objects = self.root.join("objects");
        for folder in path.ancestors().skip(1).take_while(|folder| **folder != objects) {
            if fs::remove_dir(folder).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Objects whose key begins with `prefix` and sorts behind `after`, in order.
    pub(super) fn list(&self, prefix: &str, after: &str) -> io::Result<Vec<Object>> {
        let objects = self.root.join("objects");
        let begin = prefix
            .rsplit_once('/')
            .map_or(objects.clone(), |(folder, _)| objects.join(folder));
        let mut found = Vec::new();
        let mut waiting = vec![begin];
        while let Some(folder) = waiting.pop() {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                let path = entry?.path();
                if path.is_dir() {
                    waiting.push(path);
                } else if let Some(object) = self.listed(&objects, &path, prefix, after)? {
                    found.push(object);
                }
            }
        }
        found.sort_by(|left, right| left.key.cmp(&right.key));
        Ok(found)
    }

    fn listed(&self, objects: &Path, path: &Path, prefix: &str, after: &str) -> io::Result<Option<Object>> {
        let key = path.strip_prefix(objects).ok().and_then(Path::to_str);
        match key {
            Some(key) if key.starts_with(prefix) && key > after => {
                key.parse().map_or(Ok(None), |key| self.find(&key))
            }
            _ => Ok(None),
        }
    }

    /// Begins a multipart upload that will become `key`.
    pub(super) fn begin_upload(&self, key: &BlobKey) -> io::Result<Uuid> {
        let upload = Uuid::new_v4();
        let path = self.upload_path(upload);
        fs::create_dir(&path)?;
        fs::write(path.join("key"), key.as_str())?;
        Ok(upload)
    }

    /// Whether the upload is open and will become `key`.
    pub(super) fn is_upload_of(&self, upload: Uuid, key: &BlobKey) -> bool {
        fs::read_to_string(self.upload_path(upload).join("key")).is_ok_and(|found| found == key.as_str())
    }

    /// Makes `incoming` a part of the upload; `etag` tells this try of the part from others.
    pub(super) fn add_part(&self, upload: Uuid, number: i32, etag: &str, incoming: &Path) -> io::Result<()> {
        fs::rename(
            incoming,
            self.upload_path(upload).join(format!("{number:05}-{etag}")),
        )
    }

    /// The parts with their lengths, in the order given; none where one of them was never uploaded.
    pub(super) fn parts(&self, upload: Uuid, wanted: &[(i32, String)]) -> Option<Vec<(PathBuf, u64)>> {
        wanted
            .iter()
            .map(|(number, etag)| {
                let path = self.upload_path(upload).join(format!("{number:05}-{etag}"));
                let bytes = fs::metadata(&path).ok()?.len();
                Some((path, bytes))
            })
            .collect()
    }

    /// Joins the parts into the object `key` and ends the upload.
    pub(super) fn join(&self, upload: Uuid, key: &BlobKey, parts: &[(PathBuf, u64)]) -> io::Result<Object> {
        let incoming = Incoming(self.incoming_path());
        let mut whole = File::create_new(&incoming.0)?;
        for (part, _) in parts {
            io::copy(&mut File::open(part)?, &mut whole)?;
        }
        whole.sync_all()?;
        let object = self.publish(&incoming.0, key)?;
        self.abort_upload(upload)?;
        Ok(object)
    }

    /// Forgets the upload and its parts.
    pub(super) fn abort_upload(&self, upload: Uuid) -> io::Result<()> {
        match fs::remove_dir_all(self.upload_path(upload)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// A body on its way; removed where it was not published.
pub(super) struct Incoming(pub(super) PathBuf);

impl Drop for Incoming {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
