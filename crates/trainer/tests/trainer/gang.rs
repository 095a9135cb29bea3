//! Several jobs in one process: each must fare as if it were alone.

use std::fs;
use std::path::{Path, PathBuf};

use tch::{Device, Tensor, no_grad_guard};
use tunesmith_model::{Adapter, ModelConfig};
use tunesmith_types::hyperparameters::{HyperparametersRequest, Schedule, TargetModulesRequest};
use tunesmith_types::trainer::{JobSpec, StopReason, TrainerCommand, TrainerEvent};

use crate::harness::{GangRun, Supervised, adapter_difference, golden};

/// Promise 8, the float tolerance: of each step's loss, and of each final tensor (Frobenius), relative.
const LOSS_TOLERANCE: f64 = 1e-4;
const ADAPTER_TOLERANCE: f64 = 1e-3;

fn request(rank: u32) -> HyperparametersRequest {
    HyperparametersRequest {
        rank: Some(rank),
        learning_rate: Some(0.005),
        eval_fraction: Some(0.0),
        checkpoint_every: Some(0),
        max_steps: Some(12),
        ..Default::default()
    }
}

/// Jobs that differ in all that may differ, some with several groups a step.
fn different_jobs(run: &GangRun) -> Vec<JobSpec> {
    let names = ["q_proj", "v_proj", "down_proj"].map(ToOwned::to_owned).to_vec();
    let dropping = HyperparametersRequest {
        dropout: Some(0.2),
        batch_size: Some(10),
        seed: Some(7),
        schedule: Some(Schedule::Linear),
        ..request(4)
    };
    let narrow = HyperparametersRequest {
        target_modules: Some(TargetModulesRequest::Names(names)),
        loraplus_lr_ratio: Some(4.0),
        batch_size: Some(2),
        max_steps: Some(20),
        eval_fraction: Some(0.2),
        eval_every: Some(5),
        weight_decay: Some(0.1),
        ..request(2)
    };
    let by_tokens = HyperparametersRequest {
        batch_tokens: Some(500),
        max_seq_len: Some(40),
        schedule: Some(Schedule::WarmupStableDecay),
        use_rslora: Some(true),
        epochs: Some(4),
        max_steps: None,
        dropout: Some(0.1),
        ..request(8)
    };
    vec![
        run.job("dropping", dropping),
        run.job("narrow", narrow),
        run.job("by-tokens", by_tokens),
    ]
}

fn assert_same(found: &GangRun, wanted: &GangRun, id: &str) {
    let (losses, alone) = (found.losses(id), wanted.losses(id));
    assert_eq!(losses.len(), alone.len(), "{id}");
    for (step, (loss, alone)) in losses.iter().zip(&alone).enumerate() {
        let relative = (loss - alone).abs() / alone;
        assert!(relative < LOSS_TOLERANCE, "{id} step {step}: {loss} {alone}");
    }
    let difference = adapter_difference(&found.path(id), &wanted.path(id));
    assert!(difference < ADAPTER_TOLERANCE, "{id}: {difference}");
}

/// Each job by itself.
fn alone(jobs: impl Fn(&GangRun) -> Vec<JobSpec>) -> GangRun {
    let mut run = GangRun::new();
    for job in jobs(&run) {
        run.spec.jobs = vec![job];
        let output = run.run();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    run
}

fn is_finished(event: &TrainerEvent) -> bool {
    matches!(event, TrainerEvent::Finished { .. })
}

fn is_step(event: &TrainerEvent) -> bool {
    matches!(event, TrainerEvent::Step(_))
}

fn join(child: &mut Supervised, job: JobSpec) {
    child.send(TrainerCommand::Join { job: Box::new(job) });
}

/// A job that would go on for hours.
fn endless(run: &GangRun, id: &str) -> JobSpec {
    let asked = HyperparametersRequest {
        max_steps: Some(1_000_000),
        batch_size: Some(1),
        ..request(2)
    };
    run.job(id, asked)
}

#[test]
fn a_gang_changes_nothing() {
    let wanted = alone(different_jobs);
    let mut together = GangRun::new();
    together.spec.jobs = different_jobs(&together);
    let output = together.run();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    for id in ["dropping", "narrow", "by-tokens"] {
        assert!(words.contains(&format!("[{id}] done")), "{words}");
        assert_same(&together, &wanted, id);
    }
    assert_ne!(together.losses("dropping"), together.losses("narrow"));
}

#[test]
fn jobs_join_and_leave_and_gangs_follow_one_another_on_one_base() {
    let wanted = alone(different_jobs);
    let run = GangRun::new();
    let mut jobs = different_jobs(&run).into_iter();
    let mut child = run.supervise();
    let ready = child.line().unwrap();
    assert!(
        ready.job.is_none() && matches!(ready.event, TrainerEvent::Ready { .. }),
        "{ready:?}"
    );
    join(&mut child, jobs.next().unwrap());
    child.until_of("dropping", is_step);
    join(&mut child, jobs.next().unwrap());
    child.until_of("narrow", is_finished);
    // The first gang is over, or nearly so; the next job finds the base still loaded.
    join(&mut child, jobs.next().unwrap());
    child.until_of("by-tokens", is_finished);
    child.send(TrainerCommand::Finish);
    assert!(
        child
            .rest()
            .iter()
            .all(|line| !matches!(line.event, TrainerEvent::Ready { .. }))
    );
    assert_eq!(child.wait().code(), Some(0));
    for id in ["dropping", "narrow", "by-tokens"] {
        assert_same(&run, &wanted, id);
    }
}

/// An adapter in PEFT layout whose values make the loss overflow.
fn exploding_adapter(folder: &Path) -> PathBuf {
    let _guard = no_grad_guard();
    let config = ModelConfig::from_folder(&golden("llama").join("base")).unwrap();
    let initial = golden("llama").join("training/init-adapter");
    let adapter = Adapter::load(&initial, &config, Device::Cpu).unwrap();
    let _: Tensor = adapter.flat().shallow_clone().fill_(1e30);
    let path = folder.join("exploding-initial");
    fs::create_dir_all(&path).unwrap();
    adapter.save(&path, "tiny").unwrap();
    path
}

#[test]
fn what_goes_wrong_in_one_job_ends_that_job_alone() {
    let wanted = alone(|run| different_jobs(run).drain(..1).collect());
    let mut run = GangRun::new();
    let mut exploding = run.job("exploding", request(2));
    exploding.init_adapter = Some(exploding_adapter(run.folder.path()));
    let mut broken = run.job("broken", request(2));
    broken.data = run.path("broken-data.jsonl");
    fs::write(&broken.data, "{oops\n").unwrap();
    let wide = run.job("wide", request(1000));
    run.spec.jobs = vec![exploding, different_jobs(&run).remove(0), broken, wide];
    let mut child = run.supervise();
    child.send(TrainerCommand::Finish);
    let lines = child.rest();
    assert_eq!(
        child.wait().code(),
        Some(0),
        "single failures are told, the child itself did its work"
    );
    for (id, wanted_code) in [
        ("exploding", "non_finite_loss"),
        ("broken", "invalid_dataset"),
        ("wide", "invalid_hyperparameter"),
    ] {
        let last = lines
            .iter()
            .rfind(|line| line.job.as_deref() == Some(id))
            .unwrap();
        assert!(
            matches!(&last.event, TrainerEvent::Failed { code, .. } if code == wanted_code),
            "{last:?}"
        );
        assert!(!run.path(id).join("adapter_model.safetensors").exists());
    }
    assert_same(&run, &wanted, "dropping");
}

#[test]
fn commands_reach_one_job_or_all() {
    let mut run = GangRun::new();
    run.spec.jobs = ["a", "b", "c"].map(|id| endless(&run, id)).to_vec();
    let mut child = run.supervise();
    for id in ["a", "b", "c"] {
        child.until_of(id, is_step);
    }
    let of = |id: &str| Some(id.to_owned());
    child.send(TrainerCommand::Pause { job: of("a") });
    child.send(TrainerCommand::Cancel { job: of("b") });
    let stopped = child.until_of("b", |event| matches!(event, TrainerEvent::Stopped { .. }));
    assert!(
        matches!(
            &stopped,
            TrainerEvent::Stopped {
                reason: StopReason::Cancelled,
                checkpoint: None,
                ..
            }
        ),
        "{stopped:?}"
    );
    for _ in 0..20 {
        let line = child.line().unwrap();
        assert_eq!(line.job.as_deref(), Some("c"), "a is paused, b is gone: {line:?}");
    }
    child.send(TrainerCommand::Drain { job: of("c") });
    let drained = child.until_of("c", |event| matches!(event, TrainerEvent::Stopped { .. }));
    let TrainerEvent::Stopped {
        step,
        checkpoint: Some(checkpoint),
        ..
    } = drained
    else {
        panic!("{drained:?}")
    };
    assert!(checkpoint.ends_with(&format!("step-{step:08}")), "{checkpoint}");
    child.send(TrainerCommand::Resume { job: None });
    child.until_of("a", is_step);
    let mut next = endless(&run, "c");
    next.resume = Some(checkpoint.into());
    join(&mut child, next);
    let started = child.until_of("c", |event| matches!(event, TrainerEvent::Started { .. }));
    assert!(matches!(started, TrainerEvent::Started { resumed_from_step, .. } if resumed_from_step == step));
    child.send(TrainerCommand::Finish);
    child.send(TrainerCommand::Cancel { job: None });
    let stopped = child.rest();
    let stopped = stopped
        .iter()
        .filter(|line| matches!(line.event, TrainerEvent::Stopped { .. }));
    assert_eq!(stopped.count(), 2);
    assert_eq!(child.wait().code(), Some(0));
}

#[test]
fn what_cannot_be_obeyed_is_answered() {
    let run = GangRun::new();
    let mut child = run.supervise();
    child.send_line("dance");
    let is_warning = |event: &TrainerEvent| matches!(event, TrainerEvent::Warning { .. });
    child.until(is_warning);
    join(&mut child, endless(&run, "a"));
    join(&mut child, endless(&run, "a"));
    let TrainerEvent::Warning { message } = child.until(is_warning) else {
        unreachable!()
    };
    assert!(message.contains("a job `a` is already here"), "{message}");
    child.send_line(
        r#"{"command":"join","job":{"id":"b","data":"d","out":"o","hyperparameters":{"ranks":3}}}"#,
    );
    let failed = |event: &TrainerEvent| matches!(event, TrainerEvent::Failed { code, .. } if code == "invalid_specification");
    child.until_of("b", failed);
    child.send(TrainerCommand::Finish);
    join(&mut child, endless(&run, "late"));
    child.until_of("late", failed);
    child.send(TrainerCommand::Cancel { job: None });
    child.until_of("a", |event| matches!(event, TrainerEvent::Stopped { .. }));
    assert!(child.rest().is_empty());
    assert_eq!(child.wait().code(), Some(0));
}

#[test]
fn a_specification_that_cannot_be_read_fails_the_process() {
    let run = GangRun::new();
    let file = run.path("spec.json");
    fs::write(&file, r#"{"base": "x", "jobs": [{}]}"#).unwrap();
    let output = crate::harness::executable()
        .arg("gang")
        .arg(&file)
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(
        words.contains("[invalid_specification]") && words.contains("spec.json"),
        "{words}"
    );
}
