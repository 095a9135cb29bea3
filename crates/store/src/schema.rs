//! The embedded migrations, and the refusal to work on a schema that this build does not know.

use sqlx::{
    PgConnection, PgPool,
    migrate::{Migrate, MigrateError, Migrator},
};

use crate::error::StoreError;

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations");

/// Number of the newest migration of this build.
fn known_version() -> i64 {
    MIGRATIONS
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0)
}

/// The first digits of every migration's checksum, folded into 16 hexadecimal digits.
pub(crate) fn fingerprint() -> String {
    let mut folded = [0_u8; 8];
    for migration in MIGRATIONS.iter() {
        for (place, byte) in folded.iter_mut().zip(migration.checksum.iter()) {
            *place = place.rotate_left(3) ^ byte;
        }
    }
    folded.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Number of the newest applied migration; 0 on an empty database.
async fn applied_version(connection: &mut PgConnection) -> Result<i64, StoreError> {
    let table = &MIGRATIONS.table_name;
    connection
        .ensure_migrations_table(table)
        .await
        .map_err(StoreError::Migration)?;
    let applied = connection
        .list_applied_migrations(table)
        .await
        .map_err(StoreError::Migration)?;
    Ok(applied
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0))
}

pub(crate) async fn migrate(pool: &PgPool) -> Result<(), StoreError> {
    match MIGRATIONS.run(pool).await {
        Ok(()) => Ok(()),
        Err(MigrateError::VersionMissing(found)) => Err(StoreError::SchemaTooNew {
            found,
            known: known_version(),
        }),
        Err(source) => Err(StoreError::Migration(source)),
    }
}

pub(crate) async fn check(pool: &PgPool) -> Result<(), StoreError> {
    let mut connection = pool.acquire().await?;
    let found = applied_version(&mut connection).await?;
    let known = known_version();
    match found.cmp(&known) {
        std::cmp::Ordering::Less => Err(StoreError::SchemaTooOld { found, known }),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(StoreError::SchemaTooNew { found, known }),
    }
}
