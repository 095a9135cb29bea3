//! Why runs fail: a stable code, a sentence for the job's owner, and whether another attempt may go better.

use std::{error::Error, os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

use tunesmith_blobs::BlobError;
use tunesmith_store::{
    jobs::JobError,
    queue::{Blame, RunFailure},
};

/// Codes of the trainer's `failed` event that no other attempt would change: the data, the model or the
/// hyperparameters are at fault. Any other code is tried again.
const FINAL_TRAINER_CODES: [&str; 23] = [
    "chat_template_failed",
    "chat_template_missing",
    "chat_template_refused",
    "chat_template_without_tools",
    "example_too_long",
    "invalid_dataset",
    "invalid_hyperparameter",
    "invalid_specification",
    "layer_out_of_range",
    "lora_invalid",
    "model_config_invalid",
    "model_weights_invalid",
    "model_weights_missing",
    "non_finite_loss",
    "nothing_supervised",
    "rank_too_large",
    "target_modules_match_nothing",
    "tokenizer_invalid",
    "tokenizer_mismatch",
    "tokenizer_missing",
    "unsupported_adapter",
    "unsupported_architecture",
    "unsupported_model_feature",
];
/// What one job says, but several have brought about.
const OUT_OF_MEMORY: &str = "out_of_memory";
/// Codes that say that the checkpoint, not the job, is at fault.
const CHECKPOINT_CODES: [&str; 2] = ["checkpoint_invalid", "checkpoint_mismatch"];
/// Exit code of a trainer that does not understand its arguments.
const EXIT_USAGE: i32 = 2;
const SIGKILL: i32 = 9;

/// Why a run failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) retryable: bool,
    pub(crate) blame: Blame,
}

impl Failure {
    pub(crate) fn retryable(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
            retryable: true,
            blame: Blame::Own,
        }
    }

    pub(crate) fn last(code: &str, message: impl Into<String>) -> Self {
        Self {
            retryable: false,
            ..Self::retryable(code, message)
        }
    }

    /// The trainer itself said what is wrong.
    pub(crate) fn reported(code: String, message: String) -> Self {
        let retryable = !FINAL_TRAINER_CODES.contains(&code.as_str());
        Self {
            code,
            message,
            retryable,
            blame: Blame::Own,
        }
    }

    /// The same, as somebody else's fault.
    pub(crate) fn blame(self, blame: Blame) -> Self {
        Self { blame, ..self }
    }

    /// The trainer ended without a word.
    pub(crate) fn exited(status: ExitStatus) -> Self {
        match (status.signal(), status.code()) {
            (Some(SIGKILL), _) => Self::retryable(
                "trainer_killed",
                "The trainer was killed, most likely because the machine ran out of memory. Lower `batch_size`, \
                 `max_seq_len` or `rank`, or use a worker with more memory.",
            ),
            (Some(signal), _) => Self::retryable(
                "trainer_crashed",
                format!(
                    "The trainer crashed with signal {signal}. The end of its log is in the job's events."
                ),
            ),
            (None, Some(EXIT_USAGE)) => Self::last(
                "trainer_usage",
                "The trainer does not understand the worker: they are of different versions. Install both from one \
                 release.",
            ),
            (None, code) => Self::retryable(
                "trainer_exited",
                format!(
                    "The trainer ended with exit code {} before it was done. The end of its log is in the job's \
                     events.",
                    code.map_or_else(|| "unknown".to_owned(), |code| code.to_string())
                ),
            ),
        }
    }

    pub(crate) fn no_progress(silence: Duration) -> Self {
        Self::retryable(
            "no_progress",
            format!(
                "The trainer made no step for {} seconds and was stopped.",
                silence.as_secs()
            ),
        )
    }

    pub(crate) fn not_started(error: &std::io::Error) -> Self {
        Self::retryable(
            "trainer_not_started",
            format!("The trainer cannot be started on this worker: {error}."),
        )
    }

    pub(crate) fn protocol(what: &str) -> Self {
        Self::retryable(
            "trainer_protocol",
            format!("The trainer broke the protocol with its worker: {what}."),
        )
    }

    /// Something on the way to or from the object store; `what` names it to the owner.
    pub(crate) fn blob(what: &str, error: &BlobError) -> Self {
        if error.is_disk_full() {
            return Self::retryable(
                "worker_disk_full",
                format!("The worker's disk is full; {what} did not fit."),
            );
        }
        match error {
            BlobError::NotFound { .. } => {
                Self::last("blob_missing", format!("The object store no longer has {what}."))
            }
            BlobError::DigestMismatch { .. } => Self::retryable(
                "blob_corrupt",
                format!(
                    "The object store's bytes of {what} are not those that were stored: the sha256 differs."
                ),
            ),
            _ => Self::retryable(
                "object_store_unavailable",
                format!("The object store failed while {what} was transferred."),
            ),
        }
    }

    pub(crate) fn disk(action: &str, error: &std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::StorageFull {
            return Self::retryable(
                "worker_disk_full",
                format!("The worker's disk is full; it could not {action}."),
            );
        }
        Self::retryable("worker_disk", format!("The worker could not {action}."))
    }

    /// What the trainer said of a job that was not alone in it: memory that ran out was taken by all of them.
    pub(crate) fn in_company(self) -> Self {
        if self.code == OUT_OF_MEMORY {
            self.blame(Blame::Shared)
        } else {
            self
        }
    }

    /// Whether a run that began from a checkpoint should try an older one.
    pub(crate) fn blames_checkpoint(&self) -> bool {
        CHECKPOINT_CODES.contains(&self.code.as_str())
    }

    pub(crate) fn to_row(&self) -> RunFailure {
        RunFailure {
            error: JobError {
                code: self.code.clone(),
                message: self.message.clone(),
            },
            retryable: self.retryable,
            blame: self.blame,
        }
    }
}

/// An error with all its causes, for the log.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_errors_are_final_and_crashes_are_not() {
        assert!(!Failure::reported("nothing_supervised".into(), String::new()).retryable);
        assert!(Failure::reported("out_of_memory".into(), String::new()).retryable);
        let memory = Failure::reported("out_of_memory".into(), String::new());
        assert_eq!(memory.clone().blame, Blame::Own);
        assert_eq!(memory.in_company().blame, Blame::Shared);
        let loss = Failure::reported("non_finite_loss".into(), String::new());
        assert_eq!(loss.in_company().blame, Blame::Own);
        assert!(Failure::exited(ExitStatus::from_raw(11)).retryable);
        assert_eq!(Failure::exited(ExitStatus::from_raw(9)).code, "trainer_killed");
        assert!(!Failure::exited(ExitStatus::from_raw(2 << 8)).retryable);
        assert_eq!(
            Failure::exited(ExitStatus::from_raw(1 << 8)).code,
            "trainer_exited"
        );
    }
}
