#![allow(clippy::unwrap_used)]
use super::*;
use tch::{Kind, TchError};
use tunesmith_dataset::{Corpus, Sequence};

fn documents(lengths: &[usize]) -> Documents {
    let mut corpus = Corpus::default();
    for (index, length) in lengths.iter().enumerate() {
        corpus
            .push(&Sequence {
                tokens: vec![index as u32; *length],
                supervised: vec![true; *length],
                fractions: Vec::new(),
            })
            .unwrap();
    }
    Documents::gather(&corpus, 0..lengths.len()).unwrap()
}

/// A memory of `room` tokens with all they keep, or of `recomputed_room` with their inputs. Remembers the passes: for each segment its dropout key and the tokens of its documents.
struct Device {
    room: usize,
    recomputed_room: usize,
    passes: Vec<Vec<(DropoutKey, Vec<usize>)>>,
}

impl Device {
    fn pass(&mut self, segments: &[Segment<'_>], keep: Keep) -> Result<Vec<Scores>, ModelError> {
        let lengths = |segment: &Segment<'_>| -> Vec<usize> {
            segment
                .documents
                .iter()
                .map(|document| document.tokens.len())
                .collect()
        };
        let tokens: usize = segments.iter().flat_map(lengths).sum();
        let room = match keep {
            Keep::All => self.room,
            Keep::Inputs => self.recomputed_room,
        };
        if tokens > room {
            return Err(TchError::Torch("CUDA out of memory. Tried to allocate".to_owned()).into());
        }
        self.passes.push(
            segments
                .iter()
                .map(|segment| (segment.dropout.unwrap(), lengths(segment)))
                .collect(),
        );
        segments
            .iter()
            .map(|segment| {
                let _ = segment.gradient.unwrap().shallow_clone().f_add_scalar_(1.0)?;
                Ok(Scores {
                    loss_sum: Tensor::from(lengths(segment).iter().sum::<usize>() as f64),
                    correct: Tensor::from(0i64),
                })
            })
            .collect()
    }
}

/// As [`run_within`], without a bound on what keeps everything; returns the budget in the end.
fn run(
    jobs: &[(f64, &[usize])],
    budget: usize,
    device: &mut Device,
) -> Result<(Vec<f64>, Vec<f64>, usize), PassFailure> {
    let mut limits = Limits {
        budget,
        whole: usize::MAX,
    };
    let (losses, gradients) = run_within(jobs, &mut limits, device)?;
    Ok((losses, gradients, limits.budget))
}

/// Runs jobs with (dropout, lengths of documents); returns losses and gradients.
fn run_within(
    jobs: &[(f64, &[usize])],
    limits: &mut Limits,
    device: &mut Device,
) -> Result<(Vec<f64>, Vec<f64>), PassFailure> {
    let works: Vec<Documents> = jobs.iter().map(|(_, lengths)| documents(lengths)).collect();
    let gradients: Vec<Tensor> = jobs
        .iter()
        .map(|_| Tensor::full([1], 7.0, (Kind::Float, tch::Device::Cpu)))
        .collect();
    let contributions: Vec<Contribution<'_>> = jobs
        .iter()
        .zip(&works)
        .zip(&gradients)
        .enumerate()
        .map(|(seed, (((dropout, _), documents), gradient))| Contribution {
            adapter: None,
            gradient,
            dropout: *dropout,
            seed: seed as u64,
            step: 3,
            documents,
        })
        .collect();
    let losses = accumulate(&contributions, limits, &mut |segments, keep| {
        device.pass(segments, keep)
    })?;
    let read = |tensors: &[Tensor]| {
        tensors
            .iter()
            .map(|tensor| tensor.sum(Kind::Double).double_value(&[]))
            .collect()
    };
    Ok((read(&losses), read(&gradients)))
}

fn device(room: usize) -> Device {
    Device {
        room,
        recomputed_room: room,
        passes: Vec::new(),
    }
}

/// The groups of one job, by number.
fn groups_of(device: &Device, seed: u64) -> Vec<(u64, Vec<usize>)> {
    let mut groups: Vec<(u64, Vec<usize>)> = device
        .passes
        .iter()
        .flatten()
        .filter(|(key, _)| key.seed == seed)
        .map(|(key, lengths)| (key.micro_batch, lengths.clone()))
        .collect();
    groups.sort();
    groups
}

#[test]
fn jobs_share_passes_and_keep_their_groups() {
    let jobs: [(f64, &[usize]); 3] = [(0.1, &[40, 30, 50, 20]), (0.0, &[10, 10]), (0.5, &[60, 5])];
    let mut together = device(100);
    let (losses, gradients, budget) = run(&jobs, 100, &mut together).unwrap();
    assert_eq!(losses, [140.0, 20.0, 65.0]);
    assert_eq!(budget, 100);
    assert_eq!(
        together.passes.len(),
        3,
        "225 tokens in passes of 100: {:?}",
        together.passes
    );
    assert_eq!(gradients, [2.0, 1.0, 1.0], "zeroed, then added to by each group");
    let mut alone = device(100);
    run(&jobs[..1], 100, &mut alone).unwrap();
    assert_eq!(groups_of(&alone, 0), groups_of(&together, 0));
}

#[test]
fn masks_do_not_depend_on_a_roomy_budget() {
    let lengths = [3000, 3000, 2000, 1000, 500];
    let jobs: [(f64, &[usize]); 1] = [(0.1, &lengths)];
    let (mut small, mut large) = (device(1 << 20), device(1 << 20));
    run(&jobs, 4096, &mut small).unwrap();
    run(&jobs, 65_536, &mut large).unwrap();
    assert_eq!(groups_of(&small, 0), groups_of(&large, 0));
    assert!(small.passes.len() > large.passes.len());
    let without: [(f64, &[usize]); 1] = [(0.0, &lengths)];
    let mut whole = device(1 << 20);
    run(&without, 65_536, &mut whole).unwrap();
    assert_eq!(groups_of(&whole, 0).len(), 1);
}

#[test]
fn a_pass_that_does_not_fit_is_tried_again_with_half_the_budget() {
    let jobs: [(f64, &[usize]); 2] = [(0.0, &[40, 40]), (0.0, &[30])];
    let mut device = device(60);
    let (losses, gradients, budget) = run(&jobs, 100, &mut device).unwrap();
    assert_eq!((losses, budget), (vec![80.0, 30.0], 50));
    assert_eq!(gradients, [2.0, 1.0], "nothing of the first attempt is left");
}

#[test]
fn a_single_document_that_does_not_fit_is_tried_again_with_recomputation() {
    let jobs: [(f64, &[usize]); 2] = [(0.0, &[90]), (0.0, &[30, 40])];
    let mut limits = Limits {
        budget: 90,
        whole: usize::MAX,
    };
    let mut device = Device {
        recomputed_room: 200,
        ..device(60)
    };
    let (losses, gradients) = run_within(&jobs, &mut limits, &mut device).unwrap();
    assert_eq!((losses, gradients), (vec![90.0, 70.0], vec![1.0, 1.0]));
    let expected = Limits {
        budget: 90,
        whole: 45,
    };
    assert_eq!(limits, expected);
}

#[test]
fn only_passes_beyond_the_bound_recompute() {
    let mut limits = Limits {
        budget: 60,
        whole: 60,
    };
    let mut kept = Vec::new();
    let works = documents(&[90, 30, 20]);
    let gradient = Tensor::zeros([1], (Kind::Float, tch::Device::Cpu));
    let contributions = [Contribution {
        adapter: None,
        gradient: &gradient,
        dropout: 0.0,
        seed: 0,
        step: 0,
        documents: &works,
    }];
    let mut roomy = device(100);
    accumulate(&contributions, &mut limits, &mut |segments, keep| {
        kept.push((segments[0].documents.len(), keep));
        roomy.pass(segments, keep)
    })
    .unwrap();
    kept.sort_by_key(|(documents, _)| *documents);
    assert_eq!(kept, [(1, Keep::Inputs), (2, Keep::All)]);
}

#[test]
fn the_second_time_it_fails_and_says_whose_pass_it_was() {
    let jobs: [(f64, &[usize]); 3] = [(0.0, &[10]), (0.0, &[90]), (0.0, &[5])];
    let failure = run(&jobs, 100, &mut device(60)).unwrap_err();
    assert!(failure.is_out_of_memory());
    assert_eq!(failure.members, [1]);
}

#[test]
fn other_failures_are_not_tried_again() {
    let works = documents(&[4]);
    let gradient = Tensor::zeros([1], (Kind::Float, tch::Device::Cpu));
    let contributions = [Contribution {
        adapter: None,
        gradient: &gradient,
        dropout: 0.0,
        seed: 0,
        step: 0,
        documents: &works,
    }];
    let mut calls = 0;
    let mut limits = Limits {
        budget: 100,
        whole: 100,
    };
    let failure = accumulate(&contributions, &mut limits, &mut |_, _| {
        calls += 1;
        Err(TchError::Torch("CUDA error: an illegal memory access".to_owned()).into())
    })
    .unwrap_err();
    assert_eq!((calls, failure.is_out_of_memory()), (1, false));
}
