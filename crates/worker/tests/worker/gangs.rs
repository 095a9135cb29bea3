//! Jobs that one trainer trains together: what they share, and what each keeps for itself.

use std::{collections::HashSet, time::Duration};

use serde_json::{Value, json};
use tunesmith_store::jobs;
use tunesmith_types::{
    ids::JobId,
    states::{JobState, RunOutcome},
};

use crate::support::{BaseModelFiles, Platform, is_alive, pid};

/// Trains until somebody stops it.
fn endless() -> Value {
    json!({"total": 1_000_000, "fresh": [["start"], ["say_pid"], ["step_until_told"]]})
}

/// Says where it is trained, and finishes once `company` jobs have been there.
fn sociable(company: usize) -> Value {
    json!({"total": 3, "fresh": [["start"], ["say_pid"], ["wait_for_company", company], ["finish"]]})
}

async fn process_of(platform: &Platform, job: JobId) -> u32 {
    pid(&platform.until_event(job, "trainer_warning").await)
}

async fn cancel(platform: &Platform, job: JobId) {
    jobs::request_cancel(platform.store(), platform.organization, job)
        .await
        .unwrap();
}

async fn cancel_and_end(platform: &Platform, job: JobId) {
    cancel(platform, job).await;
    assert_eq!(platform.ended(job).await.state, JobState::Cancelled);
}

/// Waits until the job has made another step.
async fn goes_on(platform: &Platform, job: JobId) {
    let step = platform.job(job).await.step;
    platform.until(job, |row| row.step > step).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_wait_together_share_one_trainer() {
    let platform = Platform::start().await;
    let mut jobs = Vec::new();
    for _ in 0..3 {
        jobs.push(platform.queue(sociable(3)).await);
    }
    let worker = platform.work(platform.settings("one"));
    let mut processes = HashSet::new();
    for job in jobs {
        let row = platform.ended(job).await;
        assert_eq!((row.state, row.attempts, row.step), (JobState::Succeeded, 0, 3));
        assert_eq!(platform.runs(job).await.len(), 1);
        processes.insert(process_of(&platform, job).await);
    }
    assert_eq!(processes.len(), 1);
    assert_eq!(platform.versions().await.len(), 3);
    platform.run_directories_are_gone("one").await;
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gang_stays_within_its_bounds() {
    let platform = Platform::start().await;
    let count = json!({"total": 1, "fresh": [["start"], ["wait", 0.3], ["say_company"], ["finish"]]});
    for (most_jobs, most_rank) in [(1, 512), (8, 3)] {
        let mut jobs = Vec::new();
        for _ in 0..3 {
            jobs.push(platform.queue(count.clone()).await);
        }
        let mut settings = platform.settings(&format!("{most_jobs}"));
        settings.gang.most_jobs = most_jobs;
        // Each has rank 2.
        settings.gang.most_rank = most_rank;
        let worker = platform.work(settings);
        for job in jobs {
            assert_eq!(platform.ended(job).await.state, JobState::Succeeded);
            let event = platform.until_event(job, "trainer_warning").await;
            assert_eq!(event.message, "1 jobs");
        }
        worker.drain().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_joins_while_others_train() {
    let platform = Platform::start().await;
    let worker = platform.work(platform.settings("one"));
    let first = platform.queue(sociable(2)).await;
    let process = process_of(&platform, first).await;
    let second = platform.queue(sociable(2)).await;
    for job in [first, second] {
        assert_eq!(platform.ended(job).await.state, JobState::Succeeded);
    }
    assert_eq!(process_of(&platform, second).await, process);
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_base_model_has_another_trainer_and_its_turn() {
    let platform = Platform::start().await;
    let other = platform.another_base_model().await;
    let mut settings = platform.settings("one");
    settings.gang.patience = Duration::ZERO;
    let worker = platform.work(settings);
    let first = platform.queue(endless()).await;
    let first_process = platform.until_event(first, "trainer_warning").await;
    let waiting = platform.queue_on(other, sociable(1)).await;
    let late = platform.queue(sociable(1)).await;
    // Time enough to join, were it not for the one that waits.
    tokio::time::sleep(Duration::from_millis(600)).await;
    for job in [waiting, late] {
        assert_eq!(platform.job(job).await.state, JobState::Queued);
    }
    cancel_and_end(&platform, first).await;
    for job in [waiting, late] {
        assert_eq!(platform.ended(job).await.state, JobState::Succeeded);
    }
    assert!(!is_alive(&first_process), "there is one trainer on a device");
    let (waiting, late) = (platform.job(waiting).await, platform.job(late).await);
    assert!(waiting.finished_at < late.started_at);
    let processes = [
        pid(&first_process),
        process_of(&platform, waiting.id).await,
        process_of(&platform, late.id).await,
    ];
    assert_eq!(processes.iter().collect::<HashSet<_>>().len(), 3);
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_fails_or_is_cancelled_leaves_the_others_alone() {
    let platform = Platform::start().await;
    let goes = platform.queue(endless()).await;
    let message = "No example has a token to learn from.";
    let fails = json!({"total": 4, "fresh": [
        ["log", "said by another job"], ["wait_for_company", 3], ["start"], ["fail", "nothing_supervised", message],
    ]});
    let fails = platform.queue(fails).await;
    let cancelled = platform.queue(endless()).await;
    let worker = platform.work(platform.settings("one"));

    let row = platform.ended(fails).await;
    assert_eq!((row.state, row.attempts), (JobState::Failed, 1));
    assert_eq!(row.error.unwrap().code, "nothing_supervised");
    let codes = platform.event_codes(fails).await;
    assert!(
        !codes.contains(&"trainer_log".to_owned()),
        "others' lines may be in it"
    );
    let process = process_of(&platform, cancelled).await;
    cancel_and_end(&platform, cancelled).await;
    goes_on(&platform, goes).await;
    assert_eq!(process_of(&platform, goes).await, process);
    assert_eq!(platform.runs(goes).await.len(), 1);
    cancel_and_end(&platform, goes).await;
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_lease_is_lost_leaves_the_others_alone() {
    let platform = Platform::start().await;
    let mut settings = platform.settings("one");
    settings.queue.takeover_grace = Duration::from_millis(100);
    settings.timings.renew = Duration::from_millis(500);
    let [stays, lost] = [platform.queue(endless()).await, platform.queue(endless()).await];
    let worker = platform.work(settings);
    let process = platform.until_event(stays, "trainer_warning").await;
    platform.until_event(lost, "trainer_warning").await;
    platform.database.end_lease(lost.uuid()).await;
    // It is rescued, and joins the same trainer again.
    while platform.runs(lost).await.len() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    goes_on(&platform, stays).await;
    goes_on(&platform, lost).await;
    assert!(is_alive(&process));
    let runs = platform.runs(lost).await;
    assert_eq!(runs[0].outcome, Some(RunOutcome::LeaseLost));
    assert_eq!(platform.runs(stays).await.len(), 1);
    for job in [stays, lost] {
        cancel_and_end(&platform, job).await;
    }
    platform.run_directories_are_gone("one").await;
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_a_killed_trainer_go_on_from_their_checkpoints() {
    let platform = Platform::start().await;
    let script = json!({
        "total": 6,
        "fresh": [["start"], ["steps", 3], ["checkpoint"], ["say_pid"], ["hang"]],
        "resumed": [["start"], ["say_company"], ["finish"]],
    });
    let jobs = [platform.queue(script.clone()).await, platform.queue(script).await];
    let worker = platform.work(platform.settings("one"));
    let mut process = 0;
    for job in jobs {
        process = process_of(&platform, job).await;
        platform.until_event(job, "checkpoint").await;
    }
    let killed = std::process::Command::new("kill")
        .args(["-9", &process.to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    for job in jobs {
        let row = platform.ended(job).await;
        assert_eq!((row.state, row.attempts, row.step), (JobState::Succeeded, 0, 6));
        let runs = platform.runs(job).await;
        assert_eq!(runs.len(), 2);
        assert_eq!(runs[0].error.as_ref().unwrap().code, "trainer_killed");
        assert_eq!(runs[1].resumed_from_step, Some(3));
        let events = platform.events(job).await;
        assert!(
            events.iter().any(|event| event.message == "1 jobs"),
            "nobody knows which of them it was, so each trains alone"
        );
    }
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_kills_its_trainers_shows_itself() {
    let platform = Platform::start().await;
    let script = |end: &str| {
        json!({
            "total": 6,
            "fresh": [["start"], ["steps", 3], ["checkpoint"], ["wait_for_company", 2], ["wait", 1], [end]],
            "resumed": [["start"], [end]],
        })
    };
    let innocent = platform.queue(script("finish")).await;
    let mut guilty = script("crash");
    guilty["fresh"][4][1] = json!(0.5);
    let guilty = platform.queue_with_attempts(guilty, 1).await;
    let worker = platform.work(platform.settings("one"));
    let row = platform.ended(innocent).await;
    assert_eq!((row.state, row.attempts), (JobState::Succeeded, 0));
    let row = platform.ended(guilty).await;
    assert_eq!((row.state, row.attempts), (JobState::Failed, 1));
    assert_eq!(row.error.unwrap().code, "trainer_crashed");
    assert_eq!(platform.runs(guilty).await.len(), 2);
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_stands_still_costs_the_others_no_attempt() {
    let platform = Platform::start().await;
    let goes = platform.queue(endless()).await;
    let stands = json!({"total": 4, "fresh": [["start"], ["steps", 2], ["hang"]]});
    let stands = platform.queue_with_attempts(stands, 1).await;
    let mut settings = platform.settings("one");
    settings.timings.progress_least = Duration::from_secs(4);
    settings.timings.cancel_grace = Duration::from_millis(300);
    let worker = platform.work(settings);
    let row = platform.ended(stands).await;
    assert_eq!((row.state, row.attempts), (JobState::Failed, 1));
    assert_eq!(row.error.unwrap().code, "no_progress");
    // The trainer did not obey, so it was killed, and the other job began again.
    while platform.runs(goes).await.len() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let runs = platform.runs(goes).await;
    assert_eq!(runs[0].error.as_ref().unwrap().code, "trainer_killed");
    goes_on(&platform, goes).await;
    assert_eq!(platform.job(goes).await.attempts, 0);
    cancel_and_end(&platform, goes).await;
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_trainer_is_killed() {
    let platform = Platform::start().await;
    let script = json!({
        "total": 4,
        "fresh": [["start"], ["steps", 2], ["checkpoint"], ["say_pid"], ["hang"]],
        "resumed": [["start"], ["finish"]],
    });
    let jobs = [platform.queue(script.clone()).await, platform.queue(script).await];
    let mut settings = platform.settings("one");
    settings.timings.progress_least = Duration::from_secs(2);
    let worker = platform.work(settings);
    for job in jobs {
        let row = platform.ended(job).await;
        assert_eq!((row.state, row.attempts), (JobState::Succeeded, 0));
        let runs = platform.runs(job).await;
        assert_eq!(runs[0].error.as_ref().unwrap().code, "no_progress");
        assert_eq!(runs[1].resumed_from_step, Some(2));
    }
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_serves_one_gang_after_another_and_ends_when_nobody_comes() {
    let platform = Platform::start().await;
    let mut settings = platform.settings("one");
    settings.gang.idle = Duration::from_secs(2);
    let worker = platform.work(settings);
    let mut processes = HashSet::new();
    let mut last = None;
    for _ in 0..3 {
        let job = platform.queue(sociable(1)).await;
        assert_eq!(platform.ended(job).await.state, JobState::Succeeded);
        let event = platform.until_event(job, "trainer_warning").await;
        processes.insert(pid(&event));
        last = Some(event);
    }
    assert_eq!(processes.len(), 1);
    let last = last.unwrap();
    while is_alive(&last) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let job = platform.queue(sociable(1)).await;
    assert_eq!(platform.ended(job).await.state, JobState::Succeeded);
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_saves_every_job_and_ends_the_trainer() {
    let platform = Platform::start().await;
    let script = json!({
        "total": 6,
        "fresh": [["start"], ["steps", 2], ["say_pid"], ["obey"]],
        "resumed": [["start"], ["finish"]],
    });
    let jobs = [platform.queue(script.clone()).await, platform.queue(script).await];
    let first = platform.work(platform.settings("first"));
    let mut process = None;
    for job in jobs {
        process = Some(platform.until_event(job, "trainer_warning").await);
    }
    first.drain().await;
    assert!(!is_alive(&process.unwrap()));
    for job in jobs {
        let row = platform.job(job).await;
        assert_eq!((row.state, row.attempts, row.rescues), (JobState::Queued, 0, 0));
    }
    let second = platform.work(platform.settings("second"));
    for job in jobs {
        assert_eq!(platform.ended(job).await.state, JobState::Succeeded);
        assert_eq!(platform.runs(job).await[1].resumed_from_step, Some(3));
    }
    second.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_cancelled_while_its_base_model_is_loaded() {
    let loading = json!([["log", "loading"], ["hang"]]);
    let platform = Platform::start_with(BaseModelFiles::scripted(&loading)).await;
    let mut settings = platform.settings("one");
    settings.timings.exit_grace = Duration::from_millis(200);
    let worker = platform.work(settings);
    let job = platform.queue(endless()).await;
    platform.until(job, |job| job.state == JobState::Running).await;
    let runs = platform.folder.path().join("one/worker/trainers");
    while std::fs::read_dir(&runs).unwrap().count() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    cancel_and_end(&platform, job).await;
    worker.drain().await;
    while std::fs::read_dir(&runs).unwrap().count() > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_load_delays_the_jobs_and_a_failed_one_fails_them() {
    let loading = json!([["wait", 1]]);
    let platform = Platform::start_with(BaseModelFiles::scripted(&loading)).await;
    let worker = platform.work(platform.settings("slow"));
    let jobs = [
        platform.queue(sociable(2)).await,
        platform.queue(sociable(2)).await,
    ];
    for job in jobs {
        assert_eq!(platform.ended(job).await.state, JobState::Succeeded);
    }
    worker.drain().await;

    let loading = json!([["give_up", "model_weights_invalid", "The weights are cut short."]]);
    let platform = Platform::start_with(BaseModelFiles::scripted(&loading)).await;
    let jobs = [
        platform.queue(sociable(2)).await,
        platform.queue(sociable(2)).await,
    ];
    let worker = platform.work(platform.settings("broken"));
    for job in jobs {
        let row = platform.ended(job).await;
        assert_eq!((row.state, row.attempts), (JobState::Failed, 1));
        assert_eq!(row.error.unwrap().message, "The weights are cut short.");
    }
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_never_share_a_job() {
    let platform = Platform::start().await;
    let mut jobs = Vec::new();
    for _ in 0..12 {
        jobs.push(
            platform
                .queue(json!({"total": 2, "fresh": [["start"], ["finish"]]}))
                .await,
        );
    }
    let mut settings = [platform.settings("first"), platform.settings("second")];
    for settings in &mut settings {
        settings.gang.most_jobs = 3;
    }
    let workers = settings.map(|settings| platform.work(settings));
    for job in jobs {
        let row = platform.ended(job).await;
        assert_eq!((row.state, row.attempts), (JobState::Succeeded, 0));
        assert_eq!(platform.runs(job).await.len(), 1);
    }
    assert_eq!(platform.versions().await.len(), 12);
    for worker in workers {
        worker.drain().await;
    }
}
