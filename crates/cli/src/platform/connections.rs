//! Database and object store that somebody else runs.

use anyhow::Context;
use tunesmith_blobs::{BlobSettings, Blobs, S3Credentials};
use tunesmith_store::{Store, StoreSettings};

use crate::{
    args::platform::{DatabaseArgs, ObjectStoreArgs},
    environment,
};

/// The database of `DATABASE_URL`.
pub(crate) async fn database(args: &DatabaseArgs) -> anyhow::Result<Store> {
    let url = args.database_url.as_deref().filter(|url| !url.is_empty());
    let url = url.context(
        "DATABASE_URL is not set; it names the PostgreSQL database, as in postgres://user:password@host/name",
    )?;
    connect(url).await
}

pub(crate) async fn connect(url: &str) -> anyhow::Result<Store> {
    Store::connect(&StoreSettings::new(url))
        .await
        .context("cannot connect to the database")
}

/// The object store that the environment names.
pub(crate) async fn object_store(args: &ObjectStoreArgs) -> anyhow::Result<Blobs> {
    let bucket = args.s3_bucket.clone().filter(|bucket| !bucket.is_empty());
    let bucket =
        bucket.context("S3_BUCKET is not set; it names the bucket for datasets, models and adapters")?;
    let key = environment::read(environment::AWS_ACCESS_KEY_ID)
        .zip(environment::read(environment::AWS_SECRET_ACCESS_KEY));
    let settings = BlobSettings {
        endpoint: args.s3_endpoint.clone().filter(|endpoint| !endpoint.is_empty()),
        bucket,
        region: args
            .s3_region
            .clone()
            .filter(|region| !region.is_empty())
            .unwrap_or_else(|| "us-east-1".to_owned()),
        credentials: key.map(|(access_key_id, secret_access_key)| S3Credentials {
            access_key_id,
            secret_access_key,
        }),
    };
    open_bucket(&settings).await
}

/// Connects and makes the bucket where it is missing.
pub(crate) async fn open_bucket(settings: &BlobSettings) -> anyhow::Result<Blobs> {
    let blobs = Blobs::connect(settings).await;
    blobs
        .ensure_bucket()
        .await
        .with_context(|| format!("cannot use the bucket `{}`", settings.bucket))?;
    Ok(blobs)
}
