//! Commands of the supervisor, one JSON line each on stdin. The end of stdin means that the supervisor is gone; then
//! this process ends at once, so that it cannot outlive its lease.

use std::io::BufRead;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tunesmith_types::trainer::{StopReason, TrainerCommand};

const GO_ON: u8 = 0;
const DRAIN: u8 = 1;
const CANCEL: u8 = 2;

/// Whether the run has been asked to stop.
#[derive(Debug, Clone, Default)]
pub struct StopRequest(Arc<AtomicU8>);

impl StopRequest {
    /// The strongest command so far.
    #[must_use]
    pub fn reason(&self) -> Option<StopReason> {
        match self.0.load(Ordering::SeqCst) {
            DRAIN => Some(StopReason::Drained),
            CANCEL => Some(StopReason::Cancelled),
            GO_ON | 3.. => None,
        }
    }

    fn raise(&self, command: TrainerCommand) {
        let level = match command {
            TrainerCommand::Cancel => CANCEL,
            TrainerCommand::Drain => DRAIN,
        };
        self.0.fetch_max(level, Ordering::SeqCst);
    }
}

/// Follows stdin on a thread of its own.
///
/// # Errors
/// The thread cannot be started.
pub fn listen() -> std::io::Result<StopRequest> {
    let request = StopRequest::default();
    let raised = request.clone();
    std::thread::Builder::new()
        .name("commands".to_owned())
        .spawn(move || follow(std::io::stdin().lock(), &raised))?;
    Ok(request)
}

fn follow(mut input: impl BufRead, request: &StopRequest) {
    let mut line = String::new();
    loop {
        line.clear();
        match input.read_line(&mut line) {
            Ok(0) | Err(_) => return end_at_once(),
            Ok(_) => {}
        }
        // An unknown command is of a newer supervisor, which must not count on it.
        if let Ok(command) = serde_json::from_str(&line) {
            request.raise(command);
        }
    }
}

/// SIGKILL, not `exit`: LibTorch's destructors must not run beside a thread that is in the middle of a step.
fn end_at_once() {
    let _ = kill(Pid::this(), Signal::SIGKILL);
}
