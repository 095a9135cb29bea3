//! Documents whose activations do not fit into memory: their passes recompute, and nothing else changes.

use std::fs;
use std::num::NonZeroU64;
use std::sync::mpsc::channel;

use tunesmith_model::Keep;
use tunesmith_trainer::assignment::Assignment;
use tunesmith_trainer::base::Base;
use tunesmith_trainer::gang::Gang;
use tunesmith_trainer::job::Job;
use tunesmith_trainer::passes::{Limits, accumulate};
use tunesmith_trainer::preparation::{BaseText, Preparations, Prepared};
use tunesmith_trainer::report::{Audience, Reporter};
use tunesmith_types::hyperparameters::HyperparametersRequest;
use tunesmith_types::trainer::JobSpec;

use crate::harness::{GangRun, Job as CommandLine};

fn job(run: &GangRun, id: &str, rank: u32) -> JobSpec {
    let asked = HyperparametersRequest {
        rank: Some(rank),
        dropout: Some(0.1),
        learning_rate: Some(0.01),
        eval_fraction: Some(0.0),
        max_steps: Some(4),
        batch_size: Some(6),
        ..Default::default()
    };
    run.job(id, asked)
}

fn begin(base: &Base, spec: JobSpec) -> Job {
    let text = BaseText::new(base.folder.clone(), base.model.config());
    let prepared = Prepared::new(Assignment::from(spec), &text).unwrap();
    Job::begin(base, prepared, Reporter::new(Audience::Nobody, None)).unwrap()
}

/// Trains a job as a gang of one; returns its adapter's file.
fn train(run: &GangRun, base: &Base, id: &str) -> Vec<u8> {
    let (messages, inbox) = channel();
    let text = BaseText::new(base.folder.clone(), base.model.config());
    let preparations = Preparations::new(text, messages);
    let mut gang = Gang::new(base, Audience::Nobody, preparations, inbox);
    gang.join(Assignment::from(job(run, id, 8)));
    gang.close();
    assert_eq!(gang.run().unwrap(), 0);
    fs::read(run.path(id).join("adapter_model.safetensors")).unwrap()
}

#[test]
fn a_job_whose_documents_do_not_fit_trains_with_recomputation() {
    let mut run = GangRun::new();
    run.spec.threads = Some(1);
    tch::set_num_threads(1);
    let mut base = Base::load(&run.spec).unwrap();
    let mut probe = begin(&base, job(&run, "probe", 8));
    let longest = probe.longest();
    let roomy = base.whole_tokens(probe.adapter());
    let small = begin(&base, job(&run, "small", 2));
    assert!(base.whole_tokens(small.adapter()) > roomy);
    assert!(longest > 2 && roomy > longest, "{longest} {roomy}");
    let expected = train(&run, &base, "roomy");

    let per_token = base
        .model
        .training_bytes_per_token(probe.adapter().unwrap().ranks_per_block(), Keep::All);
    base.activations = per_token * (longest as i64 / 2);
    let whole = base.whole_tokens(probe.adapter());
    assert_eq!(whole, longest / 2);
    let found = train(&run, &base, "scarce");
    assert!(found == expected, "recomputation changed a delivered adapter");

    // Every document alone: those beyond the bound recompute, and only those.
    let input = probe.next_input().unwrap();
    let mut limits = Limits { budget: 1, whole };
    let mut kept = Vec::new();
    accumulate(
        &[probe.contribution(&input.documents)],
        &mut limits,
        &mut |segments, keep| {
            kept.push((segments[0].documents[0].tokens.len() > whole, keep));
            base.model.train_pass_keeping(segments, keep)
        },
    )
    .unwrap();
    assert_eq!(kept.len(), input.documents.len());
    assert!(kept.iter().any(|(is_long, _)| *is_long), "{kept:?}");
    for (is_long, keep) in kept {
        assert_eq!(is_long, keep == Keep::Inputs);
    }
}

#[test]
fn the_bound_on_activations_can_be_set() {
    let mut run = GangRun::new();
    run.spec.micro_batch_tokens = None;
    let base = Base::load(&run.spec).unwrap();
    let per_token = base.model.training_bytes_per_token(256, Keep::All);
    run.spec.activation_bytes = NonZeroU64::new(200 * per_token as u64);
    let bounded = Base::load(&run.spec).unwrap();
    assert_eq!(bounded.activations, 200 * per_token);
    assert_eq!(bounded.budget, 200);
    assert!(base.budget > 200);
    run.spec.activation_bytes = Some(NonZeroU64::MAX);
    assert_eq!(Base::load(&run.spec).unwrap().activations, i64::MAX);
}

/// A short training at the command line, of an adapter or of all weights, with a bound on the activations where there is
/// one. Returns what it said, and what it delivered.
fn by_hand(is_full: bool, bytes: Option<&str>) -> (String, Vec<u8>) {
    let mut job = CommandLine::new();
    job.set("max-steps", "3")
        .set("micro-batch-tokens", "150")
        .set("threads", "1");
    if is_full {
        job.flag("full");
    }
    if let Some(bytes) = bytes {
        job.set("activation-bytes", bytes);
    }
    let output = job.run();
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{words}");
    let name = if is_full {
        "model.safetensors"
    } else {
        "adapter_model.safetensors"
    };
    (words, fs::read(job.path("out").join(name)).unwrap())
}

#[test]
fn a_bound_at_the_command_line_recomputes_and_changes_no_result() {
    for is_full in [false, true] {
        let (words, roomy) = by_hand(is_full, None);
        assert!(!words.contains("recompute"), "{words}");
        let (words, scarce) = by_hand(is_full, Some("100000"));
        assert!(words.contains("recompute the rest"), "{words}");
        assert!(roomy == scarce, "the bound changed what was delivered");
    }
}

#[test]
fn the_file_of_a_gang_can_set_the_bound_and_the_environment_wins() {
    let mut run = GangRun::new();
    run.spec.activation_bytes = NonZeroU64::new(100_000);
    let words = |run: &GangRun| {
        let output = run.run();
        let words = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{words}");
        words
    };
    run.spec.jobs = vec![job(&run, "by-file", 4)];
    assert!(words(&run).contains("recompute the rest"));
    run.spec.jobs = vec![job(&run, "by-environment", 4)];
    run.environment = vec![("TUNESMITH_ACTIVATION_BYTES", "1000000000")];
    assert!(!words(&run).contains("recompute"));
}
