//! What the gang loop hears: commands of the supervisor, one JSON line each on stdin, and jobs that are ready. The end of
//! stdin means that the supervisor is gone; then this process ends at once, so that it cannot outlive its lease.

use std::io::BufRead;
use std::sync::mpsc::Sender;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tunesmith_types::trainer::TrainerCommand;

use crate::error::TrainError;
use crate::preparation::Prepared;

/// A message to the gang loop.
#[derive(Debug)]
pub enum Message {
    /// The supervisor wants something.
    Command(TrainerCommand),
    /// The supervisor said something that is no command.
    Unreadable {
        /// The job that it wanted to join, if so.
        job: Option<String>,
        /// What is wrong.
        reason: String,
    },
    /// A preparation has ended.
    Prepared {
        /// Its number.
        number: u64,
        /// What came out.
        result: Box<Result<Prepared, TrainError>>,
    },
}

/// Follows stdin on a thread of its own.
///
/// # Errors
/// The thread cannot be started.
pub fn listen(messages: Sender<Message>) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name("commands".to_owned())
        .spawn(move || follow(std::io::stdin().lock(), &messages))?;
    Ok(())
}

fn follow(mut input: impl BufRead, messages: &Sender<Message>) {
    let mut line = String::new();
    loop {
        line.clear();
        match input.read_line(&mut line) {
            Ok(0) | Err(_) => return end_at_once(),
            Ok(_) if line.trim().is_empty() => {}
            Ok(_) => {
                // Nobody listens any more once the loop has ended; the process is about to.
                let _ = messages.send(parse(&line));
            }
        }
    }
}

/// An unknown command may be one of a newer supervisor, so it is answered and not fatal.
fn parse(line: &str) -> Message {
    match serde_json::from_str(line) {
        Ok(command) => Message::Command(command),
        Err(error) => {
            let value: Value = serde_json::from_str(line).unwrap_or_default();
            let joins = value["command"] == "join";
            Message::Unreadable {
                job: value["job"]["id"]
                    .as_str()
                    .filter(|_| joins)
                    .map(ToOwned::to_owned),
                reason: error.to_string(),
            }
        }
    }
}

/// SIGKILL, not `exit`: LibTorch's destructors must not run beside a thread that is in the middle of a step.
fn end_at_once() {
    let _ = kill(Pid::this(), Signal::SIGKILL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands_or_say_whose_they_are() {
        assert!(matches!(
            parse("{\"command\":\"pause\",\"job\":\"a\"}\n"),
            Message::Command(TrainerCommand::Pause { job: Some(job) }) if job == "a"
        ));
        let broken =
            r#"{"command":"join","job":{"id":"b","data":"d","out":"o","hyperparameters":{"ranks":3}}}"#;
        assert!(matches!(
            parse(broken),
            Message::Unreadable { job: Some(job), reason } if job == "b" && reason.contains("ranks")
        ));
        for line in ["{\"command\":\"dance\"}", "hello"] {
            assert!(matches!(parse(line), Message::Unreadable { job: None, .. }));
        }
    }
}
