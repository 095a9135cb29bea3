//! Events and commands.

use std::os::unix::process::ExitStatusExt;

use tunesmith_types::trainer::{StopReason, TrainerCommand, TrainerEvent};

use crate::harness::Job;

fn endless() -> Job {
    let mut job = Job::new();
    job.set("max-steps", "1000000")
        .set("batch-size", "1")
        .set("rank", "2");
    job
}

fn is_step(event: &TrainerEvent) -> bool {
    matches!(event, TrainerEvent::Step(_))
}

fn is_stopped(event: &TrainerEvent) -> bool {
    matches!(event, TrainerEvent::Stopped { .. })
}

#[test]
fn events_of_a_whole_run() {
    let mut job = Job::new();
    job.set("epochs", "2")
        .set("batch-size", "8")
        .set("eval-fraction", "0.2");
    let mut child = job.supervise();
    let mut names = Vec::new();
    while let Some(event) = child.event() {
        names.push(match event {
            TrainerEvent::Ready { device, dtype, .. } => {
                assert_eq!((device.as_str(), dtype.as_str()), ("cpu", "float32"));
                "ready"
            }
            TrainerEvent::Started {
                total_steps,
                train_examples,
                eval_examples,
                ..
            } => {
                assert_eq!((total_steps, train_examples, eval_examples), (4, 16, 4));
                "started"
            }
            TrainerEvent::Step(step) => {
                assert!(step.loss.is_finite() && step.tokens > step.supervised_tokens);
                assert!((step.epoch - step.step as f64 / 2.0).abs() < 1e-9);
                "step"
            }
            TrainerEvent::Evaluation { token_accuracy, .. } => {
                assert!((0.0..=1.0).contains(&token_accuracy));
                "evaluation"
            }
            TrainerEvent::Checkpoint { .. } => "checkpoint",
            TrainerEvent::Finished { steps, .. } => {
                assert_eq!(steps, 4);
                "finished"
            }
            other => panic!("{other:?}"),
        });
    }
    let wanted = "ready started step step evaluation step step evaluation checkpoint finished";
    assert_eq!(names.join(" "), wanted);
    assert_eq!(child.wait().code(), Some(0));
}

#[test]
fn cancel_stops_after_the_present_step() {
    let mut job = endless();
    let mut child = job.supervise();
    child.until(is_step);
    child.send(TrainerCommand::Cancel { job: None });
    let TrainerEvent::Stopped {
        reason, checkpoint, ..
    } = child.until(is_stopped)
    else {
        unreachable!()
    };
    assert_eq!((reason, checkpoint), (StopReason::Cancelled, None));
    assert_eq!(child.wait().code(), Some(0));
}

#[test]
fn drain_leaves_a_checkpoint_of_the_last_step() {
    let mut job = endless();
    let mut child = job.supervise();
    child.until(is_step);
    child.send(TrainerCommand::Drain { job: None });
    let TrainerEvent::Stopped {
        step,
        reason,
        checkpoint,
    } = child.until(is_stopped)
    else {
        unreachable!()
    };
    assert_eq!(reason, StopReason::Drained);
    let checkpoint = checkpoint.unwrap();
    assert!(checkpoint.ends_with(&format!("step-{step:08}")), "{checkpoint}");
    assert_eq!(child.wait().code(), Some(0));
    job.set("resume", &checkpoint);
    let mut child = job.supervise();
    let started = child.until(|event| matches!(event, TrainerEvent::Started { .. }));
    assert!(matches!(started, TrainerEvent::Started { resumed_from_step, .. } if resumed_from_step == step));
}

#[test]
fn end_of_stdin_ends_the_process() {
    let mut job = endless();
    let mut child = job.supervise();
    child.until(is_step);
    child.close_stdin();
    assert_eq!(child.wait().signal(), Some(9));
}
