//! What is drawn for people.

pub(crate) mod loss_curve;
pub(crate) mod progress;
pub(crate) mod prompt;
pub(crate) mod text;
pub(crate) mod training;
