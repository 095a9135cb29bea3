//! A running API, its clients, and things to play with.

mod app;
mod client;
mod fixtures;

pub(crate) use app::App;
pub(crate) use client::{Answer, Client};
pub(crate) use fixtures::{claim, example_lines, finish_job, finish_job_as, metric, tiny_model};
