//! `tunesmith-trainer`: exit code 0 when finished or stopped on a command, 1 on failure, 2 on wrong usage. A supervised
//! gang ends with 0 even where single jobs have failed: its events tell of them.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use tunesmith_torch_ext::{CudaLibrary, keep_freed_memory, load_cuda, wait_politely};
use tunesmith_trainer::cli::{Cli, Command};
use tunesmith_trainer::device::set_threads;
use tunesmith_trainer::error::TrainError;
use tunesmith_trainer::init::init;
use tunesmith_trainer::merge::merge;
use tunesmith_trainer::process::{gang, train};
use tunesmith_trainer::vocabulary::make_tokenizer;

/// LibTorch asks for huge pages for its larger tensors where this is 1: fewer page faults, and quicker products.
const HUGE_PAGES: (&str, &str) = ("THP_MEM_ALLOC_ENABLE", "1");

fn main() -> ExitCode {
    let cli = Cli::parse();
    if matches!(cli.command, Command::Train(_) | Command::Gang(_)) {
        wait_politely(&[HUGE_PAGES]);
        keep_freed_memory();
    }
    // Before the first tensor: LibTorch registers its CUDA kernels when the library is loaded.
    let cuda = load_cuda();
    match cli.command {
        Command::Train(args) => exit_code(train(&args, cuda_problem(cuda))),
        Command::Gang(args) => exit_code(gang(&args, cuda_problem(cuda))),
        Command::Merge(args) => {
            set_threads(args.threads);
            by_hand(merge(&args).map(|verification| {
                let verified = serde_json::to_string(&verification).unwrap_or_default();
                // The folder says the same; nobody may be listening.
                let _ = writeln!(std::io::stdout(), "{verified}");
            }))
        }
        Command::Init(args) => {
            set_threads(None);
            by_hand(init(&args))
        }
        Command::Tokenizer(args) => by_hand(make_tokenizer(&args)),
    }
}

fn cuda_problem(cuda: CudaLibrary) -> Option<String> {
    match cuda {
        CudaLibrary::Failed { path, reason } => Some(format!(
            "{} cannot be loaded, so there is no GPU: {reason}",
            path.display()
        )),
        _ => None,
    }
}

fn exit_code(has_succeeded: bool) -> ExitCode {
    if has_succeeded {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
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
