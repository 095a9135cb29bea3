//! The real executable and its parts on tiny models: parity with PEFT, gangs, exact resume, commands, wrong input.
#![allow(clippy::unwrap_used)]

mod by_hand;
mod continued;
mod disk;
mod gang;
mod harness;
mod packing;
mod parity;
mod probes;
mod recomputation;
mod resume;
mod resume_everywhere;
mod selection;
mod supervised;
mod wrong_input;
