//! Aliases: moved by compare-and-set, followed by `previous`, protected, and with a history that stays.

use tunesmith_store::{
    StoreError, adapters, alias_history,
    aliases::{self, Alias, Expected, Mover, Target},
};
use tunesmith_types::{
    list::Page,
    version_reference::{AliasName, VersionReference},
};

use crate::fixtures::{Bench, name, sign_up};

fn alias(text: &str) -> AliasName {
    text.parse().unwrap()
}

fn to(version: i32) -> Target {
    Target {
        version,
        protected: None,
    }
}

fn member(bench: &Bench, expected: Expected) -> Mover<'static> {
    Mover {
        expected,
        user: Some(bench.user),
        may_change_protected: false,
        reason: None,
    }
}

fn code(error: &StoreError) -> &str {
    match error {
        StoreError::Conflict(conflict) | StoreError::Forbidden(conflict) => conflict.code,
        other => panic!("{other}"),
    }
}

async fn with_versions(count: i32) -> Bench {
    let bench = Bench::new().await;
    for _ in 0..count {
        bench.publish("tone").await;
    }
    bench
}

async fn set(bench: &Bench, of: &str, version: i32, expected: Expected) -> Result<Alias, StoreError> {
    let (store, organization) = (bench.store(), bench.organization);
    let mover = member(bench, expected);
    aliases::move_alias(store, organization, "tone", &alias(of), &to(version), &mover).await
}

/// `alias: from -> to`, the oldest first.
async fn moves(bench: &Bench, of: Option<&str>) -> Vec<String> {
    let (store, organization) = (bench.store(), bench.organization);
    let of = of.map(alias);
    let rows = alias_history::history(store, organization, "tone", of.as_ref(), &Page::default())
        .await
        .unwrap()
        .rows;
    let shown = |number: Option<i32>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    rows.iter()
        .rev()
        .map(|row| format!("{}: {} -> {}", row.alias, shown(row.from), shown(row.to)))
        .collect()
}

#[tokio::test]
async fn of_racing_movers_exactly_one_wins() {
    let bench = with_versions(2).await;
    set(&bench, "champion", 1, Expected::Absent).await.unwrap();
    for (expected, present) in [(Expected::Version(1), 2), (Expected::Version(2), 1)] {
        let racers = (0..12).map(|_| set(&bench, "champion", present, expected));
        let results = futures_all(racers).await;
        let won = results.iter().filter(|result| result.is_ok()).count();
        assert_eq!(won, 1);
        for error in results.into_iter().filter_map(Result::err) {
            assert_eq!(code(&error), "alias_conflict");
            assert!(
                error.to_string().contains(&format!("version {present}")),
                "{error}"
            );
        }
    }
    let absent = (0..8).map(|_| set(&bench, "night", 1, Expected::Absent));
    let results = futures_all(absent).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert_eq!(moves(&bench, Some("night")).await, ["night: - -> 1"]);
    assert_eq!(
        moves(&bench, Some("champion")).await,
        ["champion: - -> 1", "champion: 1 -> 2", "champion: 2 -> 1"]
    );
}

/// Runs them at once.
async fn futures_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pending: Vec<_> = futures.map(|future| Some(Box::pin(future))).collect();
    let mut done: Vec<Option<F::Output>> = pending.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, output) in pending.iter_mut().zip(&mut done) {
            if let Some(running) = future
                && let std::task::Poll::Ready(value) = running.as_mut().poll(context)
            {
                *output = Some(value);
                *future = None;
            }
        }
        if pending.iter().all(Option::is_none) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done.into_iter().map(Option::unwrap).collect()
}

#[tokio::test]
async fn previous_follows_champion_and_nobody_else() {
    let bench = with_versions(3).await;
    let (store, organization) = (bench.store(), bench.organization);
    set(&bench, "champion", 1, Expected::Anything).await.unwrap();
    let error = aliases::find(store, organization, "tone", &alias("previous"))
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::NotFound("alias")), "{error}");
    set(&bench, "challenger", 3, Expected::Absent).await.unwrap();
    set(&bench, "champion", 2, Expected::Version(1)).await.unwrap();
    // Nothing changes, so nothing is kept.
    set(&bench, "champion", 2, Expected::Version(2)).await.unwrap();
    set(&bench, "champion", 3, Expected::Anything).await.unwrap();
    assert_eq!(
        moves(&bench, None).await,
        [
            "champion: - -> 1",
            "challenger: - -> 3",
            "champion: 1 -> 2",
            "previous: - -> 1",
            "champion: 2 -> 3",
            "previous: 1 -> 2",
        ]
    );
    let previous = aliases::find(store, organization, "tone", &alias("previous"))
        .await
        .unwrap();
    assert_eq!((previous.version, previous.moved_by), (2, Some(bench.user)));
    let error = set(&bench, "previous", 1, Expected::Anything).await.unwrap_err();
    assert_eq!(code(&error), "alias_follows");
    let mover = member(&bench, Expected::Anything);
    let error = aliases::delete(store, organization, "tone", &alias("previous"), &mover)
        .await
        .unwrap_err();
    assert_eq!(code(&error), "alias_follows");
}

#[tokio::test]
async fn a_protected_alias_is_for_admins() {
    let bench = with_versions(2).await;
    let (store, organization) = (bench.store(), bench.organization);
    let champion = alias("champion");
    let member = member(&bench, Expected::Anything);
    let admin = Mover {
        may_change_protected: true,
        reason: Some("passed the review"),
        ..member
    };
    let protected = |version, protected| Target {
        version,
        protected: Some(protected),
    };
    let call = |target: Target, mover: Mover<'static>| {
        let champion = champion.clone();
        async move { aliases::move_alias(store, organization, "tone", &champion, &target, &mover).await }
    };
    let error = call(protected(1, true), member).await.unwrap_err();
    assert_eq!(code(&error), "alias_protected");
    assert!(call(protected(1, true), admin).await.unwrap().protected);
    for target in [to(2), to(1), protected(1, false)] {
        assert_eq!(code(&call(target, member).await.unwrap_err()), "alias_protected");
    }
    let error = aliases::delete(store, organization, "tone", &champion, &member)
        .await
        .unwrap_err();
    assert_eq!(code(&error), "alias_protected");
    assert!(call(to(2), admin).await.unwrap().protected);
    assert!(!call(protected(2, false), admin).await.unwrap().protected);
    aliases::delete(store, organization, "tone", &champion, &member)
        .await
        .unwrap();
    let rows = alias_history::history(store, organization, "tone", Some(&champion), &Page::default())
        .await
        .unwrap()
        .rows;
    let kept: Vec<_> = rows
        .iter()
        .map(|row| (row.from, row.to, row.protected, row.reason.as_deref()))
        .collect();
    let review = Some("passed the review");
    assert_eq!(
        kept,
        [
            (Some(2), None, false, None),
            (Some(2), Some(2), false, review),
            (Some(1), Some(2), true, review),
            (None, Some(1), true, review),
        ]
    );
}

#[tokio::test]
async fn history_never_changes() {
    use sqlx::Connection;
    let bench = with_versions(1).await;
    set(&bench, "champion", 1, Expected::Absent).await.unwrap();
    let mut connection = sqlx::PgConnection::connect(bench.database.url()).await.unwrap();
    for statement in [
        "update adapter_alias_moves set reason = 'never mind'",
        "update adapter_alias_moves set to_version_id = null, from_version_id = to_version_id",
        "update adapter_alias_moves set moved_at = clock_timestamp()",
        "update adapter_versions set digest = repeat('0', 64)",
    ] {
        let error = sqlx::query(statement).execute(&mut connection).await.unwrap_err();
        assert!(error.to_string().contains("never change"), "{statement}: {error}");
    }
    // A person may still be deleted.
    sqlx::query("update adapter_alias_moves set moved_by = null")
        .execute(&mut connection)
        .await
        .unwrap();
}

#[tokio::test]
async fn references_mean_what_they_mean_now() {
    let bench = with_versions(3).await;
    let (store, organization) = (bench.store(), bench.organization);
    set(&bench, "champion", 1, Expected::Absent).await.unwrap();
    let (_, stranger) = sign_up(store, "eve@example.com").await;
    for (text, number) in [("2", 2), ("champion", 1), ("latest", 3)] {
        let reference: VersionReference = text.parse().unwrap();
        let found = adapters::resolve_reference(store, organization, &name("tone"), &reference)
            .await
            .unwrap();
        assert_eq!(found.number, number);
        let error = adapters::resolve_reference(store, stranger, &name("tone"), &reference)
            .await
            .unwrap_err();
        assert!(matches!(error, StoreError::NotFound(_)), "{error}");
    }
    let missing = set(&bench, "champion", 9, Expected::Anything).await.unwrap_err();
    assert!(
        matches!(missing, StoreError::NotFound("adapter version")),
        "{missing}"
    );
    let mover = member(&bench, Expected::Anything);
    let champion = alias("champion");
    for error in [
        aliases::move_alias(store, stranger, "tone", &champion, &to(1), &mover)
            .await
            .unwrap_err(),
        aliases::delete(store, stranger, "tone", &champion, &mover)
            .await
            .unwrap_err(),
        aliases::find(store, stranger, "tone", &champion)
            .await
            .unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::NotFound(_)), "{error}");
    }
    assert_eq!(aliases::list(store, stranger, "tone").await.unwrap(), []);
    let rows = alias_history::history(store, stranger, "tone", None, &Page::default())
        .await
        .unwrap();
    assert_eq!(rows.rows, []);
}
