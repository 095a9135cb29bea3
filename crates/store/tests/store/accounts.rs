//! Accounts, refresh tokens and API keys.

use std::time::Duration;

use tunesmith_store::{
    StoreError, accounts,
    api_keys::{self, NewApiKey},
    refresh_tokens::{self, Rotation},
};
use tunesmith_testing::TestDatabase;
use tunesmith_types::principal::Role;

use crate::fixtures::sign_up;

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn an_email_address_signs_up_once_whatever_its_case() {
    let database = TestDatabase::create().await;
    let store = database.store();
    let (user, organization) = sign_up(store, "Ada@Example.com").await;
    let again = accounts::NewAccount {
        email: "ada@example.COM",
        password_hash: "x",
        organization_name: "y",
    };
    let error = accounts::sign_up(store, &again).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Conflict(conflict) if conflict.code == "email_taken"),
        "{error}"
    );
    let found = accounts::credentials(store, "ADA@example.com")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(found.user_id, user);
    assert!(
        accounts::credentials(store, "eve@example.com")
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(
        accounts::member_role(store, organization, user).await.unwrap(),
        Role::Owner
    );
    assert_eq!(
        accounts::memberships(store, user).await.unwrap()[0]
            .organization
            .id,
        organization
    );
    assert_eq!(accounts::members(store, organization).await.unwrap().len(), 1);
}

#[tokio::test]
async fn there_is_one_default_organization() {
    let database = TestDatabase::create().await;
    let first = accounts::default_organization(database.store()).await.unwrap();
    assert_eq!(
        accounts::default_organization(database.store()).await.unwrap(),
        first
    );
}

#[tokio::test]
async fn a_spent_refresh_token_ends_its_family() {
    let database = TestDatabase::create().await;
    let store = database.store();
    let (user_id, organization_id) = sign_up(store, "ada@example.com").await;
    let token = |number: u8| [number; 32];
    refresh_tokens::issue(store, organization_id, user_id, &token(1), HOUR)
        .await
        .unwrap();
    let rotated = refresh_tokens::rotate(store, &token(1), &token(2), HOUR)
        .await
        .unwrap();
    assert_eq!(
        rotated,
        Rotation::Rotated {
            user_id,
            organization_id
        }
    );
    // Somebody uses the first one again: neither it nor its successor is good any more.
    assert_eq!(
        refresh_tokens::rotate(store, &token(1), &token(3), HOUR)
            .await
            .unwrap(),
        Rotation::Reused
    );
    assert_eq!(
        refresh_tokens::rotate(store, &token(2), &token(4), HOUR)
            .await
            .unwrap(),
        Rotation::Invalid
    );
    // Another login goes on.
    refresh_tokens::issue(store, organization_id, user_id, &token(5), HOUR)
        .await
        .unwrap();
    assert_eq!(
        refresh_tokens::rotate(store, &token(5), &token(6), HOUR)
            .await
            .unwrap(),
        rotated
    );
    refresh_tokens::revoke(store, &token(6)).await.unwrap();
    assert_eq!(
        refresh_tokens::rotate(store, &token(6), &token(7), HOUR)
            .await
            .unwrap(),
        Rotation::Invalid
    );
    refresh_tokens::issue(store, organization_id, user_id, &token(8), Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(
        refresh_tokens::rotate(store, &token(8), &token(9), HOUR)
            .await
            .unwrap(),
        Rotation::Invalid
    );
    assert_eq!(
        refresh_tokens::rotate(store, &token(10), &token(11), HOUR)
            .await
            .unwrap(),
        Rotation::Invalid
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_refresh_token_is_spent_by_one_of_many() {
    let database = TestDatabase::create().await;
    let (user, organization) = sign_up(database.store(), "ada@example.com").await;
    refresh_tokens::issue(database.store(), organization, user, &[0; 32], HOUR)
        .await
        .unwrap();
    let racers: Vec<_> = (1..=6_u8)
        .map(|number| {
            let store = database.store().clone();
            tokio::spawn(async move {
                refresh_tokens::rotate(&store, &[0; 32], &[number; 32], HOUR)
                    .await
                    .unwrap()
            })
        })
        .collect();
    let mut won = 0;
    for racer in racers {
        won += usize::from(matches!(racer.await.unwrap(), Rotation::Rotated { .. }));
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn a_key_works_until_it_ends() {
    let database = TestDatabase::create().await;
    let store = database.store();
    let (user, organization) = sign_up(store, "ada@example.com").await;
    let (_, stranger) = sign_up(store, "eve@example.com").await;
    let new = NewApiKey {
        name: "ci",
        role: Role::Member,
        created_by: Some(user),
        secret_sha256: [7; 32],
        display_prefix: "tsk_abcd",
        expires_at: None,
    };
    let key = api_keys::create(store, organization, &new).await.unwrap();
    let principal = api_keys::authenticate(store, &[7; 32]).await.unwrap().unwrap();
    assert_eq!(principal.organization_id, organization);
    assert_eq!(
        (principal.api_key_id, principal.role),
        (Some(key.id), Role::Member)
    );
    assert!(api_keys::authenticate(store, &[8; 32]).await.unwrap().is_none());
    let listed = api_keys::list(store, organization, &tunesmith_types::list::Page::default())
        .await
        .unwrap()
        .rows;
    assert!(listed[0].last_used_at.is_some());
    let error = api_keys::revoke(store, stranger, key.id).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound(_)), "{error}");
    api_keys::revoke(store, organization, key.id).await.unwrap();
    assert!(api_keys::authenticate(store, &[7; 32]).await.unwrap().is_none());
    let expired = NewApiKey {
        secret_sha256: [9; 32],
        expires_at: Some(key.created_at),
        ..new
    };
    api_keys::create(store, organization, &expired).await.unwrap();
    assert!(api_keys::authenticate(store, &[9; 32]).await.unwrap().is_none());
}
