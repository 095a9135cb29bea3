//! Processes, seen from outside through /proc: the tests end only what they started.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// An executable of this build, which lies two folders above the test.
pub(crate) fn executable(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join(name);
    assert!(
        path.exists(),
        "{} is missing; run `make test`, which builds it",
        path.display()
    );
    path
}

/// SIGKILL.
pub(crate) fn kill_hard(pid: u32) {
    kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGKILL).unwrap();
}

/// SIGTERM.
pub(crate) fn terminate(pid: u32) {
    kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGTERM).unwrap();
}

/// Whether a process lives; a zombie does not.
pub(crate) fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(") ").next().unwrap_or("").starts_with('Z'))
}

/// Direct children of `pid` whose command line contains `part`.
pub(crate) fn children_of(pid: u32, part: &str) -> Vec<u32> {
    all_processes()
        .into_iter()
        .filter(|child| {
            let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            let parent = stat
                .rsplit(") ")
                .next()
                .unwrap_or("")
                .split(' ')
                .nth(1)
                .unwrap_or("")
                .to_owned();
            parent == pid.to_string() && command_line(*child).contains(part)
        })
        .collect()
}

/// Processes whose command line mentions `folder`.
pub(crate) fn processes_in(folder: &Path) -> Vec<(u32, String)> {
    let folder = folder.to_str().unwrap();
    all_processes()
        .into_iter()
        .map(|pid| (pid, command_line(pid)))
        .filter(|(pid, line)| *pid != std::process::id() && line.contains(folder) && is_alive(*pid))
        .collect()
}

/// Resident memory of a process in bytes.
pub(crate) fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn all_processes() -> Vec<u32> {
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

fn command_line(pid: u32) -> String {
    String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default())
        .replace('\0', " ")
}

/// Polls until `ready` gives a value; `what` names it in the failure.
pub(crate) async fn wait_until<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut ready: impl FnMut() -> F,
) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = ready().await {
            return value;
        }
        assert!(
            begin.elapsed() < Duration::from_secs(180),
            "waited three minutes for {what}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
