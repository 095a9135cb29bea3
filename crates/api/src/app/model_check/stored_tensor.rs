//! Where one tensor of a model's weights lies in the object store.

use std::ops::Range;

use tunesmith_blobs::{BlobError, BlobKey, Blobs};
use tunesmith_store::files::StoredFile;

use super::Folder;
use super::safetensors_header::FloatType;

/// A tensor of a model that was checked.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::app) struct StoredTensor {
    /// The file that holds it.
    pub(in crate::app) key: BlobKey,
    pub(in crate::app) shape: Vec<u64>,
    pub(in crate::app) float: FloatType,
    /// Its bytes within the file.
    pub(in crate::app) bytes: Range<u64>,
}

/// Looks for a tensor in the headers of a model's weight files.
///
/// # Errors
/// The object store fails.
pub(in crate::app) async fn find(
    blobs: &Blobs,
    files: &[StoredFile],
    name: &str,
) -> Result<Option<StoredTensor>, BlobError> {
    let mut folder = Folder {
        blobs,
        files,
        problems: Vec::new(),
    };
    for file_name in folder.weight_files().await?.unwrap_or_default() {
        let (Some(file), Ok(header)) = (folder.find(&file_name), folder.read_header(&file_name).await?)
        else {
            continue;
        };
        let (Some(shape), Some(&(float, begin))) = (header.shapes.get(name), header.places.get(name)) else {
            continue;
        };
        // All bytes behind the header belong to tensors.
        let data: u64 = header.layout.iter().map(|(_, bytes)| bytes).sum();
        let begin = file.bytes - data + begin;
        let length = shape.iter().product::<u64>() * float.width() as u64;
        return Ok(Some(StoredTensor {
            key: file.key.parse().map_err(BlobError::Key)?,
            shape: shape.clone(),
            float,
            bytes: begin..begin + length,
        }));
    }
    Ok(None)
}
