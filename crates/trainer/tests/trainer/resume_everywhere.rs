//! Killed after any of 200 steps and resumed, a run goes on bit by bit as the unbroken one, with dropout, accumulation,
//! packing, several epochs, evaluations and the best adapter in play.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tch::Tensor;
use tunesmith_trainer::assignment::Assignment;
use tunesmith_trainer::base::Base;
use tunesmith_trainer::job::{Job, StepNumbers};
use tunesmith_trainer::passes::{Limits, accumulate};
use tunesmith_trainer::preparation::{BaseText, Prepared};
use tunesmith_trainer::report::{Audience, Reporter};
use tunesmith_types::hyperparameters::HyperparametersRequest;
use tunesmith_types::trainer::{JobSpec, TrainerEvent};

use crate::harness::GangRun;

const STEPS: u64 = 200;

fn job(run: &GangRun, id: &str) -> JobSpec {
    let asked = HyperparametersRequest {
        rank: Some(2),
        dropout: Some(0.1),
        learning_rate: Some(0.01),
        max_steps: Some(STEPS),
        batch_size: Some(4),
        seed: Some(3),
        eval_fraction: Some(0.1),
        eval_every: Some(7),
        early_stopping_patience: Some(1000),
        load_best_model_at_end: Some(true),
        checkpoint_every: Some(1),
        ..Default::default()
    };
    JobSpec {
        keep_checkpoints: 0,
        steps_log: None,
        ..run.job(id, asked)
    }
}

fn gang() -> GangRun {
    let mut run = GangRun::new();
    // Memory, where there is some: 200 kill points write 200 checkpoints, each synced.
    if let Ok(folder) = tempfile::tempdir_in("/dev/shm") {
        run.folder = folder;
    }
    // Below the tokens of four examples, so that a step is several groups in several passes.
    run.spec.micro_batch_tokens = Some(150);
    run.spec.threads = Some(1);
    run
}

/// One step, as the gang loop takes it.
fn step(base: &Base, job: &mut Job) -> usize {
    let input = job.next_input().unwrap();
    let mut limits = Limits {
        budget: base.budget,
        whole: base.budget,
    };
    let mut passes = 0;
    let losses = accumulate(
        &[job.contribution(&input.documents)],
        &mut limits,
        &mut |segments, keep| {
            passes += 1;
            base.model.train_pass_keeping(segments, keep)
        },
    )
    .unwrap();
    let numbers = [&losses[0], &job.gradient_norm().unwrap()].map(|scalar: &Tensor| scalar.double_value(&[]));
    let numbers = StepNumbers {
        loss_sum: numbers[0],
        grad_norm: numbers[1],
        seconds: 0.0,
    };
    job.step(base, base.budget, &input, numbers).unwrap();
    passes
}

fn begin(base: &Base, spec: JobSpec) -> Job {
    let text = BaseText::new(base.folder.clone(), base.model.config());
    let prepared = Prepared::new(Assignment::from(spec), &text).unwrap();
    Job::begin(base, prepared, Reporter::new(Audience::Nobody, None)).unwrap()
}

/// Name and content of each file of a checkpoint.
fn files(checkpoint: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = fs::read_dir(checkpoint)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            (
                path.file_name().unwrap().to_str().unwrap().to_owned(),
                fs::read(path).unwrap(),
            )
        })
        .collect();
    files.sort();
    files
}

fn checkpoint(run: &GangRun, id: &str, step: u64) -> PathBuf {
    run.path(id).join(format!("checkpoints/step-{step:08}"))
}

#[test]
fn every_one_of_200_kill_points() {
    tch::set_num_threads(1);
    let run = gang();
    let base = Base::load(&run.spec).unwrap();
    let mut unbroken = begin(&base, job(&run, "unbroken"));
    let passes: usize = (0..STEPS).map(|_| step(&base, &mut unbroken)).sum();
    assert!(passes > 2 * STEPS as usize, "{passes} passes accumulate nothing");
    assert!(
        files(&checkpoint(&run, "unbroken", STEPS))
            .iter()
            .any(|(name, _)| name == "best.safetensors")
    );
    for killed_after in 1..STEPS {
        let id = format!("killed-{killed_after}");
        let mut spec = job(&run, &id);
        spec.resume = Some(checkpoint(&run, "unbroken", killed_after));
        let mut resumed = begin(&base, spec);
        // Most take one step, which is all that the next one depends on; some go on to the end.
        let last = if killed_after % 67 == 0 {
            STEPS
        } else {
            killed_after + 1
        };
        for now in killed_after + 1..=last {
            step(&base, &mut resumed);
            let (found, wanted) = (checkpoint(&run, &id, now), checkpoint(&run, "unbroken", now));
            assert!(
                files(&found) == files(&wanted),
                "killed after {killed_after}, step {now}"
            );
        }
        fs::remove_dir_all(run.path(&id)).unwrap();
    }
}

/// The update comes after the check, so the checkpoint that is then written is the state of the step before.
#[test]
fn a_step_that_is_not_finite_changes_nothing() {
    tch::set_num_threads(1);
    let run = gang();
    let base = Base::load(&run.spec).unwrap();
    let mut spec = job(&run, "poisoned");
    spec.hyperparameters.checkpoint_every = Some(0);
    let mut sound = begin(&base, job(&run, "sound"));
    let mut poisoned = begin(&base, spec);
    for _ in 0..2 {
        step(&base, &mut sound);
        step(&base, &mut poisoned);
    }
    let input = poisoned.next_input().unwrap();
    for (loss_sum, grad_norm, what) in [(f64::NAN, 1.0, "loss"), (1.0, f64::INFINITY, "gradient")] {
        let numbers = StepNumbers {
            loss_sum,
            grad_norm,
            seconds: 0.0,
        };
        let error = poisoned.step(&base, base.budget, &input, numbers).unwrap_err();
        assert_eq!(error.code(), "non_finite_loss");
        let words = error.to_string();
        assert!(
            words.starts_with(&format!("step 3: the {what} is not finite")),
            "{words}"
        );
        assert!(words.contains("step-00000002"), "{words}");
    }
    assert!(files(&checkpoint(&run, "poisoned", 2)) == files(&checkpoint(&run, "sound", 2)));
}

/// The real process under SIGKILL, again and again, until it has finished.
#[test]
fn a_process_that_is_killed_again_and_again() {
    let mut run = gang();
    run.spec.jobs = vec![job(&run, "unbroken")];
    let output = run.run();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    run.spec.jobs = vec![job(&run, "killed")];
    let mut kills = 0;
    loop {
        let mut child = run.supervise();
        child.send(tunesmith_types::trainer::TrainerCommand::Finish);
        let mut steps = 0;
        let event = child.until(|event| {
            steps += u64::from(matches!(event, TrainerEvent::Step(_)));
            steps > 45 || matches!(event, TrainerEvent::Finished { .. } | TrainerEvent::Failed { .. })
        });
        if let TrainerEvent::Finished { .. } = event {
            break;
        }
        assert!(matches!(event, TrainerEvent::Step(_)), "{event:?}");
        // Somewhere in the middle of things.
        std::thread::sleep(Duration::from_millis(3 + 7 * kills));
        child.kill();
        kills += 1;
        run.spec.jobs[0].resume = Some(run.path("killed/checkpoints"));
    }
    assert!(kills >= 3, "{kills}");
    for name in ["adapter_model.safetensors", "adapter_config.json"] {
        let read = |id: &str| fs::read(run.path(id).join(name)).unwrap();
        assert_eq!(read("killed"), read("unbroken"));
    }
    let last = |id: &str| files(&checkpoint(&run, id, STEPS));
    assert!(last("killed") == last("unbroken"));
}
