//! Datasets: from the bytes of a JSONL file to token sequences with the weight of each token in the loss.
//!
//! ```text
//! bytes ──lines──▶ example ──template──▶ text + supervised spans ──tokenizer──▶ tokens + mask ──order, pack──▶ batches
//!            └───▶ validate ──▶ ValidationReport
//! ```
//!
//! No tensors, and no I/O beyond readers and the file that a corpus keeps its tokens in: the API, the worker, the trainer and the engine all use this crate, so a
//! line means the same thing everywhere. Files of users are parsed with typed structs under hard limits, and chat
//! templates (which come with a base model) run with a fuel limit.

pub mod chat;
pub mod corpus;
pub mod encode;
pub mod example;
pub mod fields;
pub mod lines;
pub mod order;
pub mod pack;
pub mod special;
pub mod template;
pub mod tokenizer;
pub mod validate;

pub use corpus::{Corpus, CorpusReport};
pub use encode::{Encoder, Fraction, Sequence};
pub use example::Example;
pub use template::ChatTemplate;
pub use tokenizer::TextTokenizer;
pub use validate::Validator;
