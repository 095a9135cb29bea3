//! Checkpoints whose blobs were damaged are never used.

use std::time::Duration;

use serde_json::{Value, json};
use tunesmith_store::checkpoints::{self, Checkpoint};
use tunesmith_types::{ids::JobId, states::JobState};

use crate::support::Platform;

fn script() -> Value {
    json!({
        "total": 8,
        "fresh": [["start"], ["steps", 2], ["checkpoint"], ["obey"]],
        "resumed": [["start"], ["steps", 5], ["checkpoint"], ["obey"]],
    })
}

/// A job that two workers have worked on and drained: checkpoints at steps 2 and 3, 5 and 6.
async fn drained_twice(platform: &Platform) -> (JobId, Vec<Checkpoint>) {
    let job = platform.queue(script()).await;
    for (worker, checkpoints) in [("first", 1), ("second", 3)] {
        let running = platform.work(platform.settings(worker));
        while saved(platform, job).await.len() < checkpoints {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        running.drain().await;
    }
    let found = saved(platform, job).await;
    assert_eq!(
        found.iter().map(|checkpoint| checkpoint.step).collect::<Vec<_>>(),
        [6, 5, 3, 2]
    );
    (job, found)
}

async fn saved(platform: &Platform, job: JobId) -> Vec<Checkpoint> {
    checkpoints::list(platform.store(), platform.organization, job, 10)
        .await
        .unwrap()
}

async fn finish_with_a_third(platform: &Platform, job: JobId) -> Option<i64> {
    let running = platform.work(platform.settings("third"));
    let row = platform
        .until(job, |job| {
            job.worker.as_deref() == Some("third") && job.total_steps.is_some()
        })
        .await;
    assert_eq!(row.state, JobState::Running);
    let resumed = loop {
        if let Some(step) = platform.runs(job).await.last().unwrap().resumed_from_step {
            break step;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    running.drain().await;
    Some(resumed)
}

fn damage(platform: &Platform, checkpoint: &Checkpoint, file: usize) {
    let path = platform
        .blobs
        .file_of(&checkpoint.files[file].key.parse().unwrap());
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_or_a_missing_file_means_the_checkpoint_before() {
    let platform = Platform::start().await;
    let (job, found) = drained_twice(&platform).await;
    damage(&platform, &found[0], 2);
    let missing = found[1].files[3].key.parse().unwrap();
    platform.blobs.client().delete(&missing).await.unwrap();
    let good = found[2].step;
    assert_eq!(finish_with_a_third(&platform, job).await, Some(good));
    let codes = platform.event_codes(job).await;
    assert_eq!(
        codes.iter().filter(|code| *code == "checkpoint_unusable").count(),
        2,
        "{codes:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_good_checkpoint_training_begins_again() {
    let platform = Platform::start().await;
    let (job, found) = drained_twice(&platform).await;
    for checkpoint in &found {
        damage(&platform, checkpoint, 0);
    }
    assert_eq!(finish_with_a_third(&platform, job).await, Some(0));
    assert!(platform.event_codes(job).await.contains(&"restarted".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_drained_before_it_began_keeps_the_checkpoint_that_it_had() {
    let platform = Platform::start().await;
    let script = json!({
        "total": 8,
        "fresh": [["start"], ["steps", 2], ["say_pid"], ["obey"]],
        "resumed": [["say_company"], ["obey_before_start"]],
    });
    let job = platform.queue(script).await;
    for (worker, message) in [("first", "pid "), ("second", "1 jobs")] {
        let running = platform.work(platform.settings(worker));
        while !platform
            .events(job)
            .await
            .iter()
            .any(|event| event.message.starts_with(message))
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        running.drain().await;
        let row = platform.job(job).await;
        assert_eq!((row.state, row.attempts), (JobState::Queued, 0));
        let steps: Vec<_> = saved(&platform, job)
            .await
            .iter()
            .map(|saved| saved.step)
            .collect();
        assert_eq!(steps, [3]);
    }
}
