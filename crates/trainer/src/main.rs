//! `tunesmith-trainer`: exit code 0 when finished or stopped on a command, 1 on failure, 2 on wrong usage.

use std::any::Any;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;
use tunesmith_torch_ext::{CudaLibrary, load_cuda};
use tunesmith_trainer::cli::{Cli, Command, TrainArgs};
use tunesmith_trainer::commands::{StopRequest, listen};
use tunesmith_trainer::device::set_threads;
use tunesmith_trainer::error::TrainError;
use tunesmith_trainer::init::init;
use tunesmith_trainer::report::Reporter;
use tunesmith_trainer::run::train;
use tunesmith_trainer::vocabulary::make_tokenizer;

/// OpenMP reads these when the process begins.
const WAIT_SETTINGS: [&str; 2] = ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"];
/// Rounds that a thread waits actively before it sleeps: about the time between two operations.
const SPIN_COUNT: &str = "2000";

fn main() -> ExitCode {
    let cli = Cli::parse();
    if matches!(cli.command, Command::Train(_)) {
        wait_politely();
    }
    // Before the first tensor: LibTorch registers its CUDA kernels when the library is loaded.
    let cuda = load_cuda();
    match cli.command {
        Command::Train(args) => run_training(&args, cuda),
        Command::Init(args) => {
            set_threads(None);
            by_hand(init(&args))
        }
        Command::Tokenizer(args) => by_hand(make_tokenizer(&args)),
    }
}

/// Starts this program anew, in the same process, with OpenMP threads that soon sleep when they wait. By default they
/// spin: on cores that are busy with something else, that makes a training of a small model ten times slower.
fn wait_politely() {
    if WAIT_SETTINGS.iter().any(|name| std::env::var_os(name).is_some()) {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        // Only returns on failure, and then the training goes on as it is.
        let _ = std::process::Command::new(program)
            .args(std::env::args_os().skip(1))
            .env(WAIT_SETTINGS[1], SPIN_COUNT)
            .exec();
    }
}

fn run_training(args: &TrainArgs, cuda: CudaLibrary) -> ExitCode {
    set_threads(args.threads);
    let mut reporter = Reporter::new(args.supervised);
    if let CudaLibrary::Failed { path, reason } = cuda {
        reporter.warning(format!(
            "{} cannot be loaded, so there is no GPU: {reason}",
            path.display()
        ));
    }
    let stop = if args.supervised {
        match listen() {
            Ok(stop) => stop,
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "error: cannot listen for commands: {error}");
                return ExitCode::FAILURE;
            }
        }
    } else {
        StopRequest::default()
    };
    // Some of LibTorch's refusals arrive as panics; the supervisor must hear of them too.
    let guarded = AssertUnwindSafe(|| train(args, &stop, &mut reporter));
    let result = catch_unwind(guarded).unwrap_or_else(|panic| Err(TrainError::Internal(words_of(&*panic))));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            reporter.failed(&error);
            ExitCode::FAILURE
        }
    }
}

fn words_of(panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<String>().map(String::as_str);
    let words = words.or_else(|| panic.downcast_ref::<&str>().copied());
    words.unwrap_or("a panic").to_owned()
}

fn by_hand(result: Result<(), TrainError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error} [{}]", error.code());
            ExitCode::FAILURE
        }
    }
}
