//! Inference: one base model, many LoRA adapters, vLLM's HTTP protocol.
//!
//! - [`http`]: requests and answers; knows nothing of tensors;
//! - [`engine`]: the thread that owns the model, and its scheduler;
//! - [`logits`], [`sampler`], [`detokenizer`], [`stop`], [`text`]: from logits to text, one sequence at a time;
//! - [`constraint`]: grammars that the text must follow;
//! - [`tool_calls`]: calls of tools in the text, by the form in which a model writes them;
//! - [`adapter`]: names and leases of loaded adapters;
//! - [`serve`]: start, ready file, signals, drain.

pub mod adapter;
mod clock;
pub mod constraint;
pub mod detokenizer;
pub mod engine;
pub mod generation;
pub mod http;
pub mod logits;
pub mod metrics;
pub mod registry;
pub mod sampler;
pub mod serve;
pub mod stop;
pub mod text;
pub mod tool_calls;
