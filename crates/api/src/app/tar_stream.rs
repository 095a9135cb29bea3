//! A tar archive of stored files, made while it is sent: the same files give the same bytes, and no file is held in
//! memory.

use bytes::Bytes;
use futures::{Stream, StreamExt};
use sha2::{Digest, Sha256};
use tunesmith_blobs::{BlobError, BlobKey, Blobs};
use tunesmith_store::files::StoredFile;

const BLOCK: u64 = 512;

/// Length of the archive of these files.
#[must_use]
pub fn length(files: &[StoredFile]) -> u64 {
    let of_files: u64 = files
        .iter()
        .map(|file| BLOCK + file.bytes.next_multiple_of(BLOCK))
        .sum();
    of_files + 2 * BLOCK
}

/// The archive of the files in `folder`, sorted by name. A file that is not what its row says breaks the stream off.
pub fn archive(
    blobs: Blobs,
    folder: String,
    mut files: Vec<StoredFile>,
) -> impl Stream<Item = Result<Bytes, BlobError>> + Send {
    files.sort_by(|one, other| one.name.cmp(&other.name));
    async_stream::try_stream! {
        for file in files {
            yield header(&folder, &file)?;
            let key: BlobKey = file.key.parse()?;
            let mut body = blobs.get_stream(&key, None).await?;
            let mut hash = Sha256::new();
            let mut sent = 0;
            while let Some(piece) = body.stream.next().await {
                let piece = piece?;
                hash.update(&piece);
                sent += piece.len() as u64;
                if sent > file.bytes {
                    break;
                }
                yield piece;
            }
            check(&file, sent, hash)?;
            let rest = usize::try_from(sent.next_multiple_of(BLOCK) - sent).expect("invariant: less than a block");
            yield Bytes::from(vec![0; rest]);
        }
        yield Bytes::from(vec![0; 1024]);
    }
}

fn check(file: &StoredFile, sent: u64, hash: Sha256) -> Result<(), BlobError> {
    let actual = hex::encode(hash.finalize());
    if sent == file.bytes && actual == file.sha256 {
        return Ok(());
    }
    Err(BlobError::DigestMismatch {
        key: file.key.clone(),
        expected: file.sha256.clone(),
        actual,
    })
}

/// A header without owner or time, so that it depends on name and size only.
fn header(folder: &str, file: &StoredFile) -> Result<Bytes, BlobError> {
    let mut header = tar::Header::new_ustar();
    let named = header.set_path(format!("{folder}/{}", file.name));
    named.map_err(|source| BlobError::Source {
        key: file.key.clone(),
        source: Box::new(source),
    })?;
    header.set_size(file.bytes);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    Ok(Bytes::copy_from_slice(header.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_counts_headers_padding_and_end() {
        let file = |bytes| StoredFile {
            name: "a".to_owned(),
            key: String::new(),
            sha256: String::new(),
            bytes,
        };
        assert_eq!(length(&[]), 1024);
        assert_eq!(
            length(&[file(0), file(1), file(512), file(513)]),
            1024 + 512 + 1024 + 1024 + 1536
        );
    }
}
