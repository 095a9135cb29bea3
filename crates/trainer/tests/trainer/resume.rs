//! A run that was killed and resumed gives the bytes of the unbroken one.

use std::fs;

use tunesmith_types::trainer::TrainerEvent;

use crate::harness::Job;

/// Twelve steps over two epochs, shuffled, with dropout, each step in several micro-batches, with evaluation.
fn job() -> Job {
    let mut job = Job::new();
    job.set("max-steps", "12").set("batch-size", "3").set("rank", "4");
    job.set("dropout", "0.1")
        .set("seed", "7")
        .set("eval-fraction", "0.1");
    job.set("micro-batch-tokens", "150").set("checkpoint-every", "3");
    job.set("keep-checkpoints", "0");
    job
}

fn step_of(event: &TrainerEvent) -> Option<u64> {
    match event {
        TrainerEvent::Step(step) => Some(step.step),
        _ => None,
    }
}

#[test]
fn killed_at_any_point_and_resumed_equals_unbroken() {
    let unbroken = job();
    unbroken.finish();
    let again = job();
    again.finish();
    assert_eq!(
        unbroken.adapter_bytes(),
        again.adapter_bytes(),
        "the same command twice"
    );
    let losses = |job: &Job| -> Vec<(u64, f64)> {
        let steps = job.steps().into_iter();
        steps
            .filter_map(|line| Some((line["step"].as_u64()?, line["loss"].as_f64()?)))
            .collect()
    };
    for kill_after in [3, 5, 9] {
        let mut broken = job();
        let mut child = broken.supervise();
        child.until(|event| step_of(event) == Some(kill_after));
        if kill_after % 3 == 0 {
            child.until(|event| matches!(event, TrainerEvent::Checkpoint { .. }));
        }
        child.kill();
        let checkpoints = broken.path("out/checkpoints");
        broken.set("resume", checkpoints.to_str().unwrap());
        let mut child = broken.supervise();
        let started = child.until(|event| matches!(event, TrainerEvent::Started { .. }));
        let TrainerEvent::Started {
            resumed_from_step, ..
        } = started
        else {
            unreachable!()
        };
        // The child may have gone on until it was killed, but not past the next checkpoints by much.
        assert!(resumed_from_step >= kill_after / 3 * 3 && resumed_from_step % 3 == 0);
        child.until(|event| matches!(event, TrainerEvent::Finished { .. }));
        assert!(child.wait().success());
        assert_eq!(
            unbroken.adapter_bytes(),
            broken.adapter_bytes(),
            "killed after {kill_after}"
        );
        assert_eq!(losses(&unbroken), losses(&broken));
    }
}

#[test]
fn full_training_resumes_exactly() {
    let full = || {
        let mut job = job();
        job.flag("full").set("dropout", "0").set("weight-decay", "0.1");
        job.set("save-dtype", "float32").set("max-steps", "6");
        job
    };
    let unbroken = full();
    unbroken.finish();
    let mut broken = full();
    let first = unbroken.path("out/checkpoints/step-00000003");
    broken.set("resume", first.to_str().unwrap());
    broken.finish();
    let read = |job: &Job| fs::read(job.path("out/model.safetensors")).unwrap();
    assert_eq!(read(&unbroken), read(&broken));
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        assert!(unbroken.path("out").join(name).exists(), "{name}");
    }
}

#[test]
fn checkpoints_are_pruned_and_whole() {
    let mut job = job();
    job.set("keep-checkpoints", "2").set("checkpoint-every", "2");
    job.finish();
    let mut names: Vec<_> = fs::read_dir(job.path("out/checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["step-00000010", "step-00000012"]);
    let mut files: Vec<_> = fs::read_dir(job.path("out/checkpoints/step-00000012"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(
        files,
        [
            "adapter_config.json",
            "adapter_model.safetensors",
            "optimizer.safetensors",
            "probes.json",
            "state.json"
        ]
    );
}
