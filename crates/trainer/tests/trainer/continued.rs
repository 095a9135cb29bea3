//! Training an adapter further: it begins where its parent ended, alone and in a gang, and resumes to the same bytes.

use serde_json::Value;
use tunesmith_types::hyperparameters::HyperparametersRequest;
use tunesmith_types::trainer::{JobSpec, TrainerEvent};

use crate::harness::{GangRun, Job, golden};

/// More than there are examples, so that one step takes them all.
const ALL: u32 = 1024;

/// A finished job, whose end was scored on the very examples that it learnt from.
fn parent() -> (Job, f64) {
    let mut job = Job::new();
    let data = golden("llama").join("training/train.jsonl");
    job.set("eval", data.to_str().unwrap()).set("eval-every", "0");
    job.set("max-steps", "8").set("batch-size", "5").set("rank", "4");
    job.finish();
    let steps = job.steps();
    let loss = steps.iter().rev().find_map(|line| line["eval_loss"].as_f64());
    (job, loss.unwrap())
}

fn child(parent: &Job) -> Job {
    let mut job = Job::new();
    job.set("init-adapter", parent.path("out").to_str().unwrap());
    job
}

fn assert_same_loss(first: f64, parent: f64) {
    assert!((first - parent).abs() < 1e-5 * parent, "{first} and {parent}");
}

#[test]
fn the_first_step_finds_the_loss_that_the_parent_ended_with() {
    let (parent, evaluated) = parent();
    let mut alone = child(&parent);
    alone.set("max-steps", "2").set("batch-size", &ALL.to_string());
    alone.set("schedule", "constant").set("warmup-ratio", "0");
    alone.finish();
    let steps: Vec<Value> = alone.steps();
    let loss = |place: usize| steps[place]["loss"].as_f64().unwrap();
    assert_same_loss(loss(0), evaluated);
    assert!(loss(1) < loss(0), "{} then {}", loss(0), loss(1));

    let mut run = GangRun::new();
    let asked = |rank| HyperparametersRequest {
        rank: Some(rank),
        max_steps: Some(2),
        batch_size: Some(ALL),
        eval_fraction: Some(0.0),
        learning_rate: Some(0.01),
        ..Default::default()
    };
    let continued = |id: &str| JobSpec {
        init_adapter: Some(parent.path("out")),
        ..run.job(id, asked(4))
    };
    let jobs = vec![continued("one"), run.job("fresh", asked(2)), continued("two")];
    run.spec.jobs = jobs;
    let output = run.run();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for id in ["one", "two"] {
        assert_same_loss(run.losses(id)[0], evaluated);
    }
    assert!(run.losses("fresh")[0] > 1.1 * evaluated);
}

#[test]
fn a_killed_child_ends_with_the_bytes_of_an_unbroken_one() {
    let (parent, _) = parent();
    let job = || {
        let mut job = child(&parent);
        job.set("max-steps", "9")
            .set("batch-size", "3")
            .set("dropout", "0.1");
        job.set("checkpoint-every", "2").set("keep-checkpoints", "0");
        job
    };
    let unbroken = job();
    unbroken.finish();
    let mut broken = job();
    let mut running = broken.supervise();
    running.until(|event| matches!(event, TrainerEvent::Checkpoint { step: 4, .. }));
    running.kill();
    let checkpoints = broken.path("out/checkpoints");
    broken.set("resume", checkpoints.to_str().unwrap());
    let mut running = broken.supervise();
    running.until(
        |event| matches!(event, TrainerEvent::Started { resumed_from_step, .. } if *resumed_from_step >= 4),
    );
    running.until(|event| matches!(event, TrainerEvent::Finished { .. }));
    assert!(running.wait().success());
    assert_eq!(unbroken.adapter_bytes(), broken.adapter_bytes());
    // A checkpoint of this job is none of a job that began elsewhere.
    let mut other = job();
    other
        .remove("init-adapter")
        .set("resume", checkpoints.to_str().unwrap());
    let output = other.run();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("subject"), "{said}");
}

#[test]
fn whole_models_do_not_begin_with_an_adapter() {
    let mut job = Job::new();
    let adapter = golden("llama").join("adapter");
    job.set("init-adapter", adapter.to_str().unwrap()).flag("full");
    let output = job.run();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("--init-adapter") && said.contains("--full"),
        "{said}"
    );
}
