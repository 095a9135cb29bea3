//! Migrations, and schemas that are not ours.

use sqlx::{Connection, PgConnection};
use tunesmith_store::{Store, StoreError, StoreSettings};
use tunesmith_testing::TestDatabase;

#[tokio::test]
async fn a_schema_of_a_newer_build_is_refused() {
    let database = TestDatabase::create().await;
    let store = database.store();
    store.migrate().await.unwrap();
    store.check_schema().await.unwrap();
    store.ping().await.unwrap();
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    sqlx::query(
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
         values (9999, 'from the future', true, 'x', 0)",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    for result in [store.migrate().await, store.check_schema().await] {
        assert!(
            matches!(result, Err(StoreError::SchemaTooNew { found: 9999, .. })),
            "{result:?}"
        );
    }
    sqlx::query("delete from _sqlx_migrations where version > 1")
        .execute(&mut connection)
        .await
        .unwrap();
    assert!(matches!(
        store.check_schema().await,
        Err(StoreError::SchemaTooOld { found: 1, .. })
    ));
}

#[tokio::test]
async fn a_database_that_is_not_there_is_unavailable() {
    let error = Store::connect(&StoreSettings::new("postgres://nobody@127.0.0.1:1/none"))
        .await
        .unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    let error = Store::connect(&StoreSettings::new("not a url"))
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Url(_)), "{error:?}");
}
