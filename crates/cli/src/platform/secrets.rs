//! The secrets of a data folder, made at its first start and kept in a file of mode 0600. PostgreSQL's password lies
//! in PostgreSQL's own folder.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context;
use rand::{Rng, distr::Alphanumeric};
use serde::{Deserialize, Serialize};
use tunesmith_api::auth::SigningKey;
use tunesmith_blobs::S3Credentials;

use crate::config::write_private;

/// Contents of `secrets.json`.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Secrets {
    s3_access_key_id: String,
    s3_secret_access_key: String,
    /// Ed25519, PKCS #8 in PEM.
    jwt_signing_key: String,
    /// An owner's key of the default organization.
    pub(crate) owner_api_key: Option<String>,
    #[serde(skip)]
    path: PathBuf,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Secrets")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Secrets {
    /// Reads `secrets.json` of `folder`, or makes it.
    pub(crate) fn open(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("secrets.json");
        match fs::read(&path) {
            Ok(text) => {
                let secrets: Self = serde_json::from_slice(&text)
                    .with_context(|| format!("{} is damaged", path.display()))?;
                Ok(Self { path, ..secrets })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let secrets = Self::generate(path)?;
                secrets.save()?;
                Ok(secrets)
            }
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn generate(path: PathBuf) -> anyhow::Result<Self> {
        let signing_key = SigningKey::generate().context("cannot make a signing key")?;
        Ok(Self {
            s3_access_key_id: random(20),
            s3_secret_access_key: random(40),
            jwt_signing_key: signing_key.to_pem(),
            owner_api_key: None,
            path,
        })
    }

    /// Writes the file, whole or not at all.
    pub(crate) fn save(&self) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(self).context("cannot serialise the secrets")?;
        write_private(&self.path, &text).with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// For the embedded object store.
    pub(crate) fn s3(&self) -> S3Credentials {
        S3Credentials {
            access_key_id: self.s3_access_key_id.clone(),
            secret_access_key: self.s3_secret_access_key.clone(),
        }
    }

    /// Signs access tokens.
    pub(crate) fn signing_key(&self) -> anyhow::Result<SigningKey> {
        let key = SigningKey::from_pem(&self.jwt_signing_key);
        key.with_context(|| format!("the signing key in {} is damaged", self.path.display()))
    }
}

fn random(length: usize) -> String {
    rand::rng()
        .sample_iter(Alphanumeric)
        .take(length)
        .map(char::from)
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn secrets_stay_the_same_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = Secrets::open(folder.path()).unwrap();
        first.owner_api_key = Some("tsk_x".to_owned());
        first.save().unwrap();
        let second = Secrets::open(folder.path()).unwrap();
        assert_eq!(first.s3(), second.s3());
        assert_eq!(second.owner_api_key.as_deref(), Some("tsk_x"));
        second.signing_key().unwrap();
        let mode = fs::metadata(folder.path().join("secrets.json"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
