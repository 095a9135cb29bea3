//! A training process from its specification to its end: `train` and `gang`.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc;
use std::time::Instant;

use tunesmith_torch_ext::gpu::prepare_kernels;
use tunesmith_types::trainer::{GangSpec, TrainerEvent};

use crate::arguments::{TRAIN, specification};
use crate::assignment::Assignment;
use crate::base::Origin;
use crate::checkpoint;
use crate::cli::{GangArgs, TrainArgs};
use crate::commands::listen;
use crate::device::{device_name, kind_name, set_threads};
use crate::error::{TrainError, words_of};
use crate::gang::Gang;
use crate::preparation::{Loading, Preparations};
use crate::report::{Audience, Reporter};

/// `train`: a gang of one. `problem`: what is wrong with this machine's GPU, if so. Returns whether it succeeded.
#[must_use]
pub fn train(args: &TrainArgs, problem: Option<String>) -> bool {
    let audience = if args.supervised {
        Audience::Supervisor
    } else {
        Audience::Person
    };
    let result = specification(args).and_then(|(spec, job)| {
        let process = Process {
            audience,
            is_supervised: args.supervised,
            stays_open: false,
        };
        process.run(&spec, vec![job], problem)
    });
    match result {
        Ok(failures) => failures == 0,
        // There is one job, and it has failed with the process.
        Err(error) => fail(audience, Some(TRAIN), &error),
    }
}

/// `gang`. Returns whether it succeeded.
#[must_use]
pub fn gang(args: &GangArgs, problem: Option<String>) -> bool {
    let audience = if args.supervised {
        Audience::Supervisor
    } else {
        Audience::PersonOfMany
    };
    let result = read_spec(&args.spec).and_then(|mut spec| {
        let jobs = std::mem::take(&mut spec.jobs);
        spec.activation_bytes = args.activations.activation_bytes.or(spec.activation_bytes);
        let process = Process {
            audience,
            is_supervised: args.supervised,
            stays_open: args.supervised,
        };
        process.run(&spec, jobs.into_iter().map(Assignment::from).collect(), problem)
    });
    match result {
        Ok(failures) => failures == 0 || args.supervised,
        Err(error) => fail(audience, None, &error),
    }
}

fn fail(audience: Audience, job: Option<&str>, error: &TrainError) -> bool {
    Reporter::new(audience, job).failed(error);
    false
}

fn read_spec(path: &Path) -> Result<GangSpec, TrainError> {
    let wrong = |reason: String| TrainError::Specification(format!("{}: {reason}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))
}

/// How a process is run.
struct Process {
    audience: Audience,
    is_supervised: bool,
    /// Whether jobs may join until the supervisor says `finish`.
    stays_open: bool,
}

impl Process {
    /// Returns how many jobs failed. Some of LibTorch's refusals arrive as panics; whoever listens must hear of them too.
    fn run(
        &self,
        spec: &GangSpec,
        jobs: Vec<Assignment>,
        problem: Option<String>,
    ) -> Result<u64, TrainError> {
        let guarded = AssertUnwindSafe(|| self.run_unguarded(spec, jobs, problem));
        catch_unwind(guarded).unwrap_or_else(|panic| Err(TrainError::Internal(words_of(&*panic))))
    }

    fn run_unguarded(
        &self,
        spec: &GangSpec,
        jobs: Vec<Assignment>,
        problem: Option<String>,
    ) -> Result<u64, TrainError> {
        let begun = Instant::now();
        set_threads(spec.threads);
        let (sender, inbox) = mpsc::channel();
        if self.is_supervised {
            listen(sender.clone())
                .map_err(|error| TrainError::Internal(format!("cannot listen for commands: {error}")))?;
        }
        let mut reporter = Reporter::new(self.audience, None);
        if let Some(problem) = problem {
            reporter.warning(problem);
        }
        let origin = origin(spec, &jobs)?;
        let mut preparations = Preparations::new(origin.text()?, sender);
        // Data is read beside the weights.
        let loading: Vec<Loading> = jobs.into_iter().map(|job| preparations.start(job)).collect();
        let base = origin.load()?;
        if base.device.is_cuda()
            && let Err(error) = prepare_kernels(base.device)
        {
            reporter.warning(format!("training is slower than it could be: {error}"));
        }
        reporter.tell(TrainerEvent::Ready {
            device: device_name(base.device),
            dtype: kind_name(base.kind).to_owned(),
            seconds: begun.elapsed().as_secs_f64(),
        });
        let mut gang = Gang::new(&base, self.audience, preparations, inbox);
        for job in loading {
            gang.expect(job);
        }
        if !self.stays_open {
            gang.close();
        }
        gang.run()
    }
}

/// Frozen, or, for the one job that trains all weights, trainable.
fn origin<'a>(spec: &'a GangSpec, jobs: &[Assignment]) -> Result<Origin<'a>, TrainError> {
    let Some(job) = jobs.iter().find(|job| job.extras.full.is_some()) else {
        return Ok(Origin::frozen(spec));
    };
    let checkpoint = job.spec.resume.as_deref().map(checkpoint::find).transpose()?;
    Ok(Origin::trainable(spec, checkpoint))
}
