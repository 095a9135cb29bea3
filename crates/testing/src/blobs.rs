//! An object store per test: the embedded server of `tunesmith up`, in a folder of its own.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tunesmith_blobs::{BlobKey, BlobSettings, Blobs, S3Credentials, embedded::EmbeddedS3};
use uuid::Uuid;

/// A running server with a client; both and all blobs end with this value.
#[derive(Debug)]
pub struct TestBlobs {
    client: Blobs,
    server: EmbeddedS3,
    folder: TempDir,
}

impl TestBlobs {
    /// A new, empty server on loopback.
    ///
    /// # Panics
    /// Where no server can be started; a test cannot go on without.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let credentials = S3Credentials {
            access_key_id: "tests".to_owned(),
            secret_access_key: Uuid::new_v4().simple().to_string(),
        };
        let server = EmbeddedS3::start(folder.path(), credentials, 0)
            .await
            .expect("a server on loopback starts");
        let client = Blobs::connect(&server.settings()).await;
        Self {
            client,
            server,
            folder,
        }
    }

    /// A client.
    #[must_use]
    pub const fn client(&self) -> &Blobs {
        &self.client
    }

    /// What another client, or another process, needs to know.
    #[must_use]
    pub fn settings(&self) -> BlobSettings {
        self.server.settings()
    }

    /// The server's own folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The file in which the server keeps a blob, to be damaged behind its back.
    #[must_use]
    pub fn file_of(&self, key: &BlobKey) -> PathBuf {
        self.folder.path().join("objects").join(key.as_str())
    }
}
