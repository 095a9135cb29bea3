//! A running platform, a client of its API, and small inputs.

mod client;
mod inputs;
mod parts;
mod platform;
mod processes;

pub(crate) use client::Client;
pub(crate) use inputs::{chat_lines, tiny_base_model, train_request};
pub(crate) use parts::Parts;
pub(crate) use platform::Platform;
pub(crate) use processes::{
    children_of, executable, is_alive, kill_hard, processes_in, resident_bytes, terminate, wait_until,
};
