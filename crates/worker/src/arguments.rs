//! The command line of `tunesmith-trainer train` for a job.

use std::{ffi::OsString, path::Path};

use tunesmith_store::queue::ClaimedJob;
use tunesmith_types::hyperparameters::{Duration, Hyperparameters, OverLong, Schedule, TrainingDtype};

use crate::scratch::RunDirectory;

/// Local checkpoints that the trainer keeps.
const KEEP_CHECKPOINTS: u32 = 3;

/// Everything after the program's name. Floats are written so that they parse to the same bits. Nothing that the child
/// writes may depend on the run, so it is told the base model's name in place of the staged folder's.
pub(crate) fn train_arguments(
    directory: &RunDirectory,
    job: &ClaimedJob,
    resume: Option<&Path>,
    device: &str,
    threads: Option<u32>,
) -> Vec<OsString> {
    let hyperparameters = &job.hyperparameters;
    let mut arguments = Arguments(vec!["train".into()]);
    arguments.path("--base", &directory.base());
    arguments.text("--base-name", &job.base_model.name);
    arguments.path("--data", &directory.data());
    arguments.path("--out", &directory.out());
    arguments.path("--checkpoint-dir", &directory.checkpoints());
    arguments.path("--steps-log", &directory.steps_log());
    if let Some(checkpoint) = resume {
        arguments.path("--resume", checkpoint);
    }
    adapter_arguments(&mut arguments, hyperparameters);
    optimizer_arguments(&mut arguments, hyperparameters);
    data_arguments(&mut arguments, hyperparameters);
    arguments.text("--dtype", dtype(hyperparameters.dtype));
    arguments.text("--device", device);
    if let Some(threads) = threads {
        arguments.text("--threads", threads);
    }
    arguments.text("--checkpoint-every", hyperparameters.checkpoint_every.get());
    arguments.text("--keep-checkpoints", KEEP_CHECKPOINTS);
    arguments.flag("--supervised");
    arguments.0
}

fn adapter_arguments(arguments: &mut Arguments, hyperparameters: &Hyperparameters) {
    arguments.text("--rank", hyperparameters.rank.get());
    arguments.text("--alpha", hyperparameters.alpha.get());
    arguments.text("--dropout", hyperparameters.dropout.get());
    let layers = hyperparameters.target_modules.layers();
    let names: Vec<&str> = layers.iter().map(|layer| layer.as_str()).collect();
    arguments.text("--targets", names.join(","));
    if hyperparameters.use_rslora {
        arguments.flag("--rslora");
    }
}

fn optimizer_arguments(arguments: &mut Arguments, hyperparameters: &Hyperparameters) {
    arguments.text("--lr", hyperparameters.learning_rate.get());
    arguments.text("--schedule", schedule(hyperparameters.schedule));
    arguments.text("--warmup-ratio", hyperparameters.warmup_ratio.get());
    arguments.text("--weight-decay", hyperparameters.weight_decay.get());
    arguments.text("--max-grad-norm", hyperparameters.max_grad_norm.get());
    match hyperparameters.duration {
        Duration::Epochs(epochs) => arguments.text("--epochs", epochs.get()),
        Duration::MaxSteps(steps) => arguments.text("--max-steps", steps.get()),
    }
    arguments.text("--batch-size", hyperparameters.batch_size.get());
    arguments.text("--seed", hyperparameters.seed.get());
}

fn data_arguments(arguments: &mut Arguments, hyperparameters: &Hyperparameters) {
    arguments.text("--max-seq-len", hyperparameters.max_seq_len.get());
    if hyperparameters.over_long != OverLong::default() {
        arguments.text("--over-long", over_long(hyperparameters.over_long));
    }
    arguments.text("--eval-fraction", hyperparameters.eval_fraction.get());
    if let Some(steps) = hyperparameters.eval_every {
        arguments.text("--eval-every", steps.get());
    }
}

struct Arguments(Vec<OsString>);

impl Arguments {
    fn flag(&mut self, name: &str) {
        self.0.push(name.into());
    }

    fn text(&mut self, name: &str, value: impl ToString) {
        self.0.push(name.into());
        self.0.push(value.to_string().into());
    }

    fn path(&mut self, name: &str, value: &Path) {
        self.0.push(name.into());
        self.0.push(value.into());
    }
}

const fn schedule(schedule: Schedule) -> &'static str {
    match schedule {
        Schedule::Constant => "constant",
        Schedule::Linear => "linear",
        Schedule::Cosine => "cosine",
    }
}

const fn dtype(dtype: TrainingDtype) -> &'static str {
    match dtype {
        TrainingDtype::Auto => "auto",
        TrainingDtype::Float32 => "float32",
        TrainingDtype::Bfloat16 => "bfloat16",
    }
}

const fn over_long(over_long: OverLong) -> &'static str {
    match over_long {
        OverLong::Truncate => "truncate",
        OverLong::Drop => "drop",
        OverLong::Fail => "fail",
    }
}
