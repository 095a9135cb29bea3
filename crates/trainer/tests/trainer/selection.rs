//! Early stopping, and the adapter of the best evaluation.

use std::fs;
use std::path::Path;

use tunesmith_types::trainer::TrainerEvent;

use crate::harness::Job;

/// A learning rate at which the held-out examples soon get worse.
fn overfitting() -> Job {
    let mut job = Job::new();
    job.set("eval-fraction", "0.3")
        .set("eval-every", "2")
        .set("batch-size", "4");
    job.set("lr", "0.02")
        .set("schedule", "constant")
        .set("warmup-ratio", "0");
    job.set("max-steps", "60")
        .set("checkpoint-every", "2")
        .set("keep-checkpoints", "1");
    job
}

struct Outcome {
    evaluations: Vec<(u64, f64)>,
    steps: u64,
    delivered_step: u64,
    stopped_early: bool,
}

fn run(job: &mut Job) -> Outcome {
    let mut child = job.supervise();
    let mut evaluations = Vec::new();
    while let Some(event) = child.event() {
        match event {
            TrainerEvent::Evaluation { step, loss, .. } => evaluations.push((step, loss)),
            TrainerEvent::Finished {
                steps,
                delivered_step,
                stopped_early,
                ..
            } => {
                return Outcome {
                    evaluations,
                    steps,
                    delivered_step,
                    stopped_early,
                };
            }
            TrainerEvent::Failed { message, .. } => panic!("{message}"),
            _ => {}
        }
    }
    panic!("it did not finish");
}

fn best(evaluations: &[(u64, f64)]) -> u64 {
    let least = evaluations.iter().min_by(|one, other| one.1.total_cmp(&other.1));
    least.unwrap().0
}

fn tensors(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("adapter_model.safetensors")).unwrap()
}

#[test]
fn patience_ends_a_job_and_the_best_adapter_is_delivered() {
    let mut job = overfitting();
    job.set("early-stopping-patience", "3")
        .flag("load-best-model-at-end");
    let outcome = run(&mut job);
    assert!(
        outcome.stopped_early && outcome.steps < 60,
        "{} steps",
        outcome.steps
    );
    assert_eq!(outcome.delivered_step, best(&outcome.evaluations));
    assert_eq!(
        outcome.delivered_step + 6,
        outcome.steps,
        "three evaluations without improvement"
    );
    let checkpoints = job.path("out/checkpoints");
    let mut names: Vec<_> = fs::read_dir(&checkpoints)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["best".to_owned(), format!("step-{:08}", outcome.steps)]);
    assert_eq!(tensors(&job.path("out")), tensors(&checkpoints.join("best")));
    let last = checkpoints.join(format!("step-{:08}", outcome.steps));
    assert_ne!(tensors(&job.path("out")), tensors(&last));

    // The checkpoint knows that it was the end, and which adapter was the best.
    let delivered = tensors(&job.path("out"));
    job.set("resume", last.to_str().unwrap());
    let again = run(&mut job);
    assert!(again.evaluations.is_empty() && again.stopped_early);
    assert_eq!(
        (again.steps, again.delivered_step),
        (outcome.steps, outcome.delivered_step)
    );
    assert_eq!(tensors(&job.path("out")), delivered);
}

#[test]
fn without_patience_all_steps_are_taken_and_the_last_adapter_is_delivered() {
    let mut job = overfitting();
    job.set("max-steps", "30");
    let outcome = run(&mut job);
    assert_eq!(
        (outcome.steps, outcome.delivered_step, outcome.stopped_early),
        (30, 30, false)
    );
    assert!(!job.path("out/checkpoints/best").exists());
    job.flag("load-best-model-at-end");
    fs::remove_dir_all(job.path("out")).unwrap();
    let outcome = run(&mut job);
    assert_eq!((outcome.steps, outcome.stopped_early), (30, false));
    assert_eq!(outcome.delivered_step, best(&outcome.evaluations));
}
