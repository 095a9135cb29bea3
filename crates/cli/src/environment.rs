//! Every environment variable that is read, and by whom.

/// Address of the API (client commands). Wins over the configuration file.
pub(crate) const API_URL: &str = "TUNESMITH_API_URL";
/// API key (client commands). Wins over a login.
pub(crate) const API_KEY: &str = "TUNESMITH_API_KEY";
/// Folder of `tunesmith up`.
pub(crate) const DATA_DIR: &str = "TUNESMITH_DATA_DIR";
/// The database (`up`, `api`, `worker`, `migrate`).
pub(crate) const DATABASE_URL: &str = "DATABASE_URL";
/// Address of an S3-compatible server (`up`, `api`, `worker`).
pub(crate) const S3_ENDPOINT: &str = "S3_ENDPOINT";
/// The bucket.
pub(crate) const S3_BUCKET: &str = "S3_BUCKET";
/// Its region.
pub(crate) const S3_REGION: &str = "S3_REGION";
/// Key pair for S3; without it Amazon's usual chain is asked.
pub(crate) const AWS_ACCESS_KEY_ID: &str = "AWS_ACCESS_KEY_ID";
/// See [`AWS_ACCESS_KEY_ID`].
pub(crate) const AWS_SECRET_ACCESS_KEY: &str = "AWS_SECRET_ACCESS_KEY";
/// PEM text of the Ed25519 key that signs access tokens (`api`).
pub(crate) const JWT_SIGNING_KEY: &str = "TUNESMITH_JWT_SIGNING_KEY";
/// Path of `tunesmith-trainer`; else it is looked for beside this executable.
pub(crate) const TRAINER: &str = "TUNESMITH_TRAINER";
/// Path of `tunesmith-engine`; else it is looked for beside this executable.
pub(crate) const ENGINE: &str = "TUNESMITH_ENGINE";
/// Filter of the log on stderr (`info`, `tunesmith_gateway=debug`).
pub(crate) const LOG: &str = "TUNESMITH_LOG";

/// A variable that is set to something.
pub(crate) fn read(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
