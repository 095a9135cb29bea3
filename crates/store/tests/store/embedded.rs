//! The private server: kept data, one instance, no orphans.

use std::{
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sqlx::{Connection, Executor, PgConnection};
use tunesmith_store::embedded::{EmbeddedError, EmbeddedPostgres, EmbeddedSettings};

/// Names the folder for the test that plays the instance which is killed.
const VICTIM_VARIABLE: &str = "TUNESMITH_TEST_VICTIM_FOLDER";

fn settings(folder: &Path) -> EmbeddedSettings {
    EmbeddedSettings::new(folder.join("postgres"))
}

async fn write(server: &EmbeddedPostgres, number: i32) {
    let mut connection = PgConnection::connect(&server.url()).await.unwrap();
    connection
        .execute("create table if not exists kept (number integer)")
        .await
        .unwrap();
    sqlx::query("insert into kept values ($1)")
        .bind(number)
        .execute(&mut connection)
        .await
        .unwrap();
}

async fn read(server: &EmbeddedPostgres) -> Vec<i32> {
    let mut connection = PgConnection::connect(&server.url()).await.unwrap();
    sqlx::query_scalar("select number from kept order by number")
        .fetch_all(&mut connection)
        .await
        .unwrap()
}

/// Also false for a process that has ended and that nobody has waited for.
fn is_running(pid: u32) -> bool {
    std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok()
}

#[tokio::test]
async fn data_survive_a_restart_and_a_kill_of_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let server = EmbeddedPostgres::start(&settings(folder.path())).await.unwrap();
    write(&server, 1).await;
    server.stop().await.unwrap();

    let server = EmbeddedPostgres::start(&settings(folder.path())).await.unwrap();
    assert_eq!(read(&server).await, [1]);
    write(&server, 2).await;
    kill(Pid::from_raw(server.pid().cast_signed()), Signal::SIGKILL).unwrap();
    assert!(server.ended().await.contains("signal: 9"));
    drop(server);

    let server = EmbeddedPostgres::start(&settings(folder.path())).await.unwrap();
    assert_eq!(read(&server).await, [1, 2]);
    let password = std::fs::metadata(server.directory().join("password")).unwrap();
    assert_eq!(password.permissions().mode() & 0o777, 0o600);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_second_instance_is_refused_and_the_first_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let server = EmbeddedPostgres::start(&settings(folder.path())).await.unwrap();
    let error = EmbeddedPostgres::start(&settings(folder.path()))
        .await
        .unwrap_err();
    assert!(matches!(error, EmbeddedError::InUse { .. }), "{error}");
    write(&server, 1).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn strangers_need_the_password() {
    let folder = tempfile::tempdir().unwrap();
    let server = EmbeddedPostgres::start(&settings(folder.path())).await.unwrap();
    let (before, after) = server
        .url()
        .split_once('@')
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    let scheme = before.rsplit_once(':').unwrap().0;
    for url in [format!("{scheme}:wrong@{after}"), format!("{scheme}@{after}")] {
        assert!(PgConnection::connect(&url).await.is_err());
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_process_id_file_of_another_program_does_not_keep_it_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    let server = EmbeddedPostgres::start(&settings(folder.path())).await.unwrap();
    write(&server, 1).await;
    let stale = server.directory().join("cluster/postmaster.pid");
    let text = std::fs::read_to_string(&stale).unwrap();
    server.stop().await.unwrap();
    // The machine restarted, and another program (this one) has the number now.
    let rest = text.split_once('\n').unwrap().1;
    std::fs::write(&stale, format!("{}\n{rest}", std::process::id())).unwrap();
    let server = EmbeddedPostgres::start(&settings(folder.path())).await.unwrap();
    assert_eq!(read(&server).await, [1]);
    server.stop().await.unwrap();
}

/// Plays the instance that is killed; does nothing unless the test below starts it.
#[tokio::test]
#[expect(
    clippy::print_stdout,
    reason = "the test that plays the victim is read by another"
)]
async fn victim() {
    let Some(folder) = std::env::var_os(VICTIM_VARIABLE) else {
        return;
    };
    let server = EmbeddedPostgres::start(&settings(Path::new(&folder)))
        .await
        .unwrap();
    write(&server, 1).await;
    println!("\nvictim {}", server.pid());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn the_server_ends_with_an_instance_that_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "embedded::victim", "--nocapture"])
        .env(VICTIM_VARIABLE, folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let line = lines
        .map(Result::unwrap)
        .find(|line| line.starts_with("victim "))
        .unwrap();
    let pid: u32 = line.strip_prefix("victim ").unwrap().parse().unwrap();
    assert!(is_running(pid));
    victim.kill().unwrap();
    victim.wait().unwrap();
    // Starting waits for it to have ended.
    let server = EmbeddedPostgres::start(&settings(folder.path())).await.unwrap();
    while is_running(pid) {
        tokio::task::yield_now().await;
    }
    assert_eq!(read(&server).await, [1]);
    server.stop().await.unwrap();
}
