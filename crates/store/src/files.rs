//! A file in the object store, as rows name it.

use serde::{Deserialize, Serialize};

/// One immutable file; it counts once a committed row holds this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFile {
    /// File name without folders (`adapter_model.safetensors`).
    pub name: String,
    /// Key in the bucket.
    pub key: String,
    /// sha256 of the bytes, 64 hexadecimal digits.
    pub sha256: String,
    /// Length.
    pub bytes: u64,
}

/// Files, or anything else of ours, as a JSON column. Our types always serialise.
pub(crate) fn to_json<T: Serialize + ?Sized>(value: &T) -> serde_json::Value {
    serde_json::to_value(value).expect("invariant: stored types have string keys and serialise")
}
