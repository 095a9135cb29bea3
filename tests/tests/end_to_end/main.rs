//! What a user does, through the real executables: real PostgreSQL, real S3 protocol, real training on a tiny model.

#![allow(clippy::unwrap_used)]

mod support;

mod bench;
mod isolation;
mod kill;
mod openapi;
mod restart;
mod tool_calls;
mod upload;
mod whole_path;
mod wrong_input;
