//! `tunesmith-trainer`: exit code 0 when finished or stopped on a command, 1 on failure, 2 on wrong usage.

use std::io::Write;
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

fn main() -> ExitCode {
    let cli = Cli::parse();
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
    match train(args, &stop, &mut reporter) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            reporter.failed(&error);
            ExitCode::FAILURE
        }
    }
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
