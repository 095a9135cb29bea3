//! A running platform, a client of its API, and small inputs.

mod client;
mod inputs;
mod platform;
mod processes;

pub use client::{Answer, Client};
pub use inputs::{chat_lines, tiny_base_model, train_request};
pub use platform::{Parts, Platform};
pub use processes::{children_of, executable, is_alive, kill_hard, processes_in, resident_bytes, terminate, wait_until};
