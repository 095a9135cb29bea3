//! The states of the long-lived things, each with who moves it on.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

macro_rules! states {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// As stored and shown.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = UnknownState;

            fn from_str(text: &str) -> Result<Self, UnknownState> {
                match text {
                    $($text => Ok(Self::$variant),)*
                    _ => Err(UnknownState { text: text.to_owned(), known: &[$($text),*] }),
                }
            }
        }
    )*};
}

/// A text that names no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not one of {known:?}")]
pub struct UnknownState {
    text: String,
    known: &'static [&'static str],
}

states! {
    /// A training job.
    JobState {
        /// Waits for a worker; a cancel request ends it at once.
        Queued = "queued",
        /// A worker holds its lease; the worker, or the reaper after the lease ran out, moves it on.
        Running = "running",
        /// Its adapter version is in the registry. Final.
        Succeeded = "succeeded",
        /// Its error says why. Final.
        Failed = "failed",
        /// Stopped on request. Final.
        Cancelled = "cancelled",
    }
    /// An export of an adapter version.
    ExportState {
        /// Waits for a worker.
        Queued = "queued",
        /// A worker holds its lease.
        Running = "running",
        /// It was made and verified. Final.
        Succeeded = "succeeded",
        /// Its error says why. Asking for it again tries again.
        Failed = "failed",
    }
    /// In which form an adapter version is exported.
    ExportFormat {
        /// An archive of a folder that `peft` loads, with a model card.
        Peft = "peft",
        /// The base model's weights with the adapter folded in.
        Merged = "merged",
        /// A LoRA file for llama.cpp.
        Gguf = "gguf",
    }
    /// The number format of exported weights.
    ExportDtype {
        /// What the form has by itself: the base model's format for merged weights, float32 for adapters.
        Auto = "auto",
        /// 32 bits.
        Float32 = "float32",
        /// 16 bits, 11 of them precise.
        Float16 = "float16",
        /// 16 bits, 8 of them precise.
        Bfloat16 = "bfloat16",
    }
    /// A dataset.
    DatasetState {
        /// Bytes are in S3; the validator has not finished.
        Validating = "validating",
        /// Can be trained on. Final.
        Valid = "valid",
        /// Kept with its report, cannot be trained on. Final.
        Invalid = "invalid",
    }
    /// A base model.
    BaseModelState {
        /// Files are being uploaded.
        Pending = "pending",
        /// Complete, digests known. Final.
        Ready = "ready",
        /// Its files do not make a model that can be trained; the error says why. Final.
        Failed = "failed",
    }
    /// A revision of a deployment.
    RevisionState {
        /// Replicas are being made ready; requests still go to the active revision.
        Pending = "pending",
        /// Answers requests. At most one per deployment.
        Active = "active",
        /// Was active, or was overtaken before it became so. Final.
        Superseded = "superseded",
        /// Could not be made ready; the reason says why. Final.
        Failed = "failed",
    }
    /// What made a revision of a deployment.
    RevisionKind {
        /// The deployment's first.
        Create = "create",
        /// One version for all requests.
        Promote = "promote",
        /// Shares for several versions.
        Split = "split",
        /// A step of a canary.
        Canary = "canary",
        /// Back to what answered before.
        Rollback = "rollback",
        /// An alias that the revision before follows has moved.
        Alias = "alias",
    }
    /// A roll-out by steps.
    CanaryState {
        /// Goes from step to step.
        Running = "running",
        /// The candidate has all requests, and passed its last step too. Final.
        Completed = "completed",
        /// A gate failed, and requests go where they went before; the reason says which. Final.
        Stopped = "stopped",
        /// A person ended it, and requests go where they went before. Final.
        Aborted = "aborted",
        /// Another revision was made. Final.
        Superseded = "superseded",
    }
    /// How a request to a model ended.
    RequestStatus {
        /// Answered to its end.
        Ok = "ok",
        /// Failed on our side.
        Error = "error",
        /// Refused: the request was wrong, or there were too many.
        Rejected = "rejected",
        /// The caller left.
        Cancelled = "cancelled",
        /// A mirrored request for which there was no room.
        Dropped = "dropped",
    }
    /// How a run ended.
    RunOutcome {
        /// Published its adapter version.
        Succeeded = "succeeded",
        /// Ended with an error; the job may have been queued again.
        Failed = "failed",
        /// Stopped on request.
        Cancelled = "cancelled",
        /// Gave the job back on a drain.
        Released = "released",
        /// Lost its lease and was rescued by the reaper.
        LeaseLost = "lease_lost",
    }
    /// How much an event matters.
    EventLevel {
        /// As expected.
        Info = "info",
        /// Worth a look.
        Warn = "warn",
        /// Something failed.
        Error = "error",
    }
}

impl JobState {
    /// Whether the job will never change again.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}
