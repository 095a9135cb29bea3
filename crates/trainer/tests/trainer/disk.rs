//! A disk that is too small, or becomes full: one job's trouble.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tunesmith_types::hyperparameters::HyperparametersRequest;
use tunesmith_types::trainer::{TrainerCommand, TrainerEvent};

use crate::harness::{GangRun, Job};

/// A file system in memory, unmounted when dropped. None where this process may not mount.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf, size: &str) -> Option<Self> {
        fs::create_dir_all(&path).unwrap();
        let options = format!("size={size}");
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&path);
        let is_mounted = command.output().is_ok_and(|output| output.status.success());
        is_mounted.then_some(Self(path))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}

fn request() -> HyperparametersRequest {
    HyperparametersRequest {
        rank: Some(4),
        eval_fraction: Some(0.0),
        max_steps: Some(100_000),
        batch_size: Some(1),
        checkpoint_every: Some(5),
        ..Default::default()
    }
}

fn failure(event: TrainerEvent) -> String {
    let TrainerEvent::Failed { code, message } = event else {
        panic!("{event:?}")
    };
    assert_eq!(code, "output_unwritable", "{message}");
    message
}

fn fill(folder: &Path) {
    // To the last byte: the write that does not fit is cut short.
    let _ = fs::write(folder.join("filler"), vec![0u8; 64 << 20]);
}

#[test]
#[expect(clippy::print_stderr, reason = "says that the machine does not allow it")]
fn a_disk_that_is_too_small_or_becomes_full_fails_one_job() {
    let mut run = GangRun::new();
    let (tiny, small) = (run.path("tiny"), run.path("small"));
    let disks = [SmallDisk::mount(tiny, "64k"), SmallDisk::mount(small, "4m")];
    let [Some(tiny), Some(small)] = &disks else {
        eprintln!("skipped: this process may not mount a file system");
        return;
    };
    let mut too_small = run.job("too-small", request());
    too_small.checkpoint_dir = Some(tiny.0.join("checkpoints"));
    let mut becomes_full = run.job("becomes-full", request());
    becomes_full.checkpoint_dir = Some(small.0.join("checkpoints"));
    run.spec.jobs = vec![too_small, becomes_full, run.job("neighbour", request())];
    let mut child = run.supervise();
    let is_failed = |event: &TrainerEvent| matches!(event, TrainerEvent::Failed { .. });
    let message = failure(child.until_of("too-small", is_failed));
    assert!(message.contains("MB free"), "{message}");
    child.until_of("becomes-full", |event| {
        matches!(event, TrainerEvent::Checkpoint { .. })
    });
    fill(&small.0);
    let message = failure(child.until_of("becomes-full", is_failed));
    assert!(message.contains("No space left"), "{message}");
    child.until_of("neighbour", |event| matches!(event, TrainerEvent::Step(_)));
    child.send(TrainerCommand::Cancel { job: None });
    child.send(TrainerCommand::Finish);
    child.rest();
    assert_eq!(child.wait().code(), Some(0));
}

#[test]
fn tokens_that_find_no_room_fail_the_job() {
    let mut job = Job::new();
    let line = format!("{{\"text\":\"{}\"}}\n", "x7 ".repeat(300));
    job.set_file("data", &line.repeat(5000));
    let taken = job.path("taken");
    fs::write(&taken, "").unwrap();
    let out = taken.join("out");
    job.set("out", out.to_str().unwrap());
    let event = job
        .supervise()
        .until(|event| matches!(event, TrainerEvent::Failed { .. }));
    let message = failure(event);
    assert!(
        message.contains("cannot be kept in") && message.contains("Not a directory"),
        "{message}"
    );
}
