//! Bodies on their way in: to disk, and compared with the checksums that the client declared.

use bytes::Bytes;
use futures::StreamExt;
use s3s::{
    S3Result, TrailingHeaders,
    checksum::ChecksumHasher,
    dto::{Checksum, ChecksumAlgorithm, StreamingBlob},
    s3_error,
};
use tokio::io::AsyncWriteExt;

use super::{
    folder::{Incoming, ObjectFolder},
    service::storage_error,
};

/// A whole body on disk that has no name yet.
pub(super) struct Received {
    pub(super) incoming: Incoming,
    pub(super) bytes: u64,
    pub(super) checksum: Checksum,
}

impl Received {
    /// Names the bytes of a part: their CRC32 and their length, 32 hexadecimal digits.
    pub(super) fn part_etag(&self) -> String {
        let crc32 = self.checksum.checksum_crc32.as_deref().unwrap_or_default();
        let digits: String = crc32.bytes().map(|byte| format!("{byte:02x}")).collect();
        format!("{digits:0<16}{:016x}", self.bytes)
    }
}

/// Writes a body to disk; one that differs from what was declared is refused and leaves nothing.
pub(super) async fn receive(
    folder: &ObjectFolder,
    body: Option<StreamingBlob>,
    declared: Declared,
) -> S3Result<Received> {
    let mut body = body.ok_or_else(|| s3_error!(IncompleteBody))?;
    let incoming = Incoming(folder.incoming_path());
    let mut file = tokio::fs::File::create_new(&incoming.0)
        .await
        .map_err(storage_error)?;
    let mut hasher = declared.hasher();
    let mut bytes = 0;
    while let Some(piece) = body.next().await {
        let piece: Bytes = piece.map_err(|_| s3_error!(IncompleteBody))?;
        hasher.update(&piece);
        bytes += piece.len() as u64;
        file.write_all(&piece).await.map_err(storage_error)?;
    }
    let checksum = hasher.finalize();
    declared.verify(&checksum)?;
    file.flush().await.map_err(storage_error)?;
    file.sync_all().await.map_err(storage_error)?;
    Ok(Received {
        incoming,
        bytes,
        checksum,
    })
}

/// The checksums that a client sent before or behind its body.
pub(super) struct Declared {
    pub(super) algorithm: Option<ChecksumAlgorithm>,
    pub(super) checksum: Checksum,
    pub(super) trailers: Option<TrailingHeaders>,
}

impl Declared {
    /// CRC32 always, because parts are named by it, and whatever else the client declared.
    fn hasher(&self) -> ChecksumHasher {
        let algorithm = self.algorithm.as_ref().map(ChecksumAlgorithm::as_str);
        let given = &self.checksum;
        let wanted =
            |header: &Option<String>, name: &'static str| header.is_some() || algorithm == Some(name);
        let mut hasher = ChecksumHasher {
            crc32: Some(Default::default()),
            ..Default::default()
        };
        if wanted(&given.checksum_crc32c, ChecksumAlgorithm::CRC32C) {
            hasher.crc32c = Some(Default::default());
        }
        if wanted(&given.checksum_sha1, ChecksumAlgorithm::SHA1) {
            hasher.sha1 = Some(Default::default());
        }
        if wanted(&given.checksum_sha256, ChecksumAlgorithm::SHA256) {
            hasher.sha256 = Some(Default::default());
        }
        if wanted(&given.checksum_crc64nvme, ChecksumAlgorithm::CRC64NVME) {
            hasher.crc64nvme = Some(Default::default());
        }
        hasher
    }

    fn verify(self, computed: &Checksum) -> S3Result<()> {
        let trailers = self
            .trailers
            .and_then(|trailers| trailers.take())
            .unwrap_or_default();
        let given = self.checksum;
        let pairs = [
            ("crc32", given.checksum_crc32, &computed.checksum_crc32),
            ("crc32c", given.checksum_crc32c, &computed.checksum_crc32c),
            ("sha1", given.checksum_sha1, &computed.checksum_sha1),
            ("sha256", given.checksum_sha256, &computed.checksum_sha256),
            (
                "crc64nvme",
                given.checksum_crc64nvme,
                &computed.checksum_crc64nvme,
            ),
        ];
        for (name, header, computed) in pairs {
            let trailer = || trailers.get(format!("x-amz-checksum-{name}"))?.to_str().ok();
            let declared = header.or_else(|| trailer().map(str::to_owned));
            if declared.is_some() && declared != *computed {
                return Err(s3_error!(
                    BadDigest,
                    "the {name} checksum does not match the body"
                ));
            }
        }
        Ok(())
    }
}
