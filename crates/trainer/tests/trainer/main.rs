//! The real executable on tiny models: parity with PEFT, exact resume, commands, wrong input.
#![allow(clippy::unwrap_used)]

mod by_hand;
mod harness;
mod parity;
mod resume;
mod supervised;
mod wrong_input;
