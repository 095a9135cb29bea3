//! Copies of the base model's embedding and head in an adapter's file. PEFT stores them where one of the two is targeted,
//! or where it is told to. Equal ones say nothing and are left out; others would be lost, so they are refused.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};

use futures::StreamExt;
use sha2::{Digest, Sha256};
use tunesmith_blobs::{BlobError, Blobs};
use tunesmith_store::files::StoredFile;

use super::tensors;
use crate::app::model_check::safetensors_header::Header;
use crate::app::model_check::stored_tensor::{self, StoredTensor};

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";
/// What PEFT calls them, targeted and not; and the base model's own name.
const COPIES: [(&str, &str); 4] = [
    ("base_model.model.model.embed_tokens.base_layer.weight", EMBEDDING),
    ("base_model.model.model.embed_tokens.weight", EMBEDDING),
    ("base_model.model.lm_head.base_layer.weight", HEAD),
    ("base_model.model.lm_head.weight", HEAD),
];

/// A copy that the file holds.
#[derive(Debug)]
pub(super) struct BaseCopy {
    name: &'static str,
    original: &'static str,
    shape: Vec<u64>,
    /// sha256 of its numbers as float32.
    digest: String,
}

/// Takes the copies out of `header` and reads them; `data` is where the bytes of tensors begin.
pub(super) fn take(source: &mut File, header: &mut Header, data: u64) -> io::Result<Vec<BaseCopy>> {
    let mut copies = Vec::new();
    for (name, original) in COPIES {
        let (Some(shape), Some((float, offset))) = (header.shapes.remove(name), header.places.remove(name))
        else {
            continue;
        };
        source.seek(SeekFrom::Start(data + offset))?;
        let bytes = shape.iter().product::<u64>() * float.width() as u64;
        let mut hash = Sha256::new();
        tensors::copy(source, bytes, float, &mut hash)?;
        copies.push(BaseCopy {
            name,
            original,
            shape,
            digest: hex::encode(hash.finalize()),
        });
    }
    Ok(copies)
}

/// What of the copies is not as the base model of these files has it.
///
/// # Errors
/// The object store fails.
pub(super) async fn compare(
    blobs: &Blobs,
    files: &[StoredFile],
    copies: &[BaseCopy],
) -> Result<Vec<String>, BlobError> {
    let mut problems = Vec::new();
    for copy in copies {
        let mut original = stored_tensor::find(blobs, files, copy.original).await?;
        if original.is_none() && copy.original == HEAD {
            // A tied head is the embedding.
            original = stored_tensor::find(blobs, files, EMBEDDING).await?;
        }
        let Some(original) = original else { continue };
        let name = copy.name;
        if original.shape != copy.shape {
            problems.push(format!(
                "Tensor `{name}` is a copy of the base model's `{}` with the shape {:?}, where the base model has {:?}: an \
                 adapter for a changed vocabulary needs a base model of its own.",
                copy.original, copy.shape, original.shape
            ));
        } else if digest(blobs, &original).await? != copy.digest {
            problems.push(format!(
                "Tensor `{name}` holds other numbers than the base model's `{}`: either the adapter was trained on another \
                 base model, or that tensor was trained too, or it was rounded. If it was only rounded, save the adapter \
                 with `save_embedding_layers=False`.",
                copy.original
            ));
        }
    }
    Ok(problems)
}

/// sha256 of a tensor's numbers as float32.
async fn digest(blobs: &Blobs, tensor: &StoredTensor) -> Result<String, BlobError> {
    let mut body = blobs.get_stream(&tensor.key, Some(tensor.bytes.clone())).await?;
    let (mut hash, mut held) = (Sha256::new(), Vec::new());
    while let Some(piece) = body.stream.next().await {
        held.extend_from_slice(&piece?);
        let whole = held.len() - held.len() % tensor.float.width();
        hash.update(tensors::single(tensor.float, &held[..whole]));
        held.drain(..whole);
    }
    Ok(hex::encode(hash.finalize()))
}
