//! Llama-shaped causal language models on LibTorch, LoRA adapters on them, and their files.
//!
//! - [`ModelConfig`], [`CausalLm`]: read a Hugging Face folder, run it, save it;
//! - [`PackedBatch`] with [`CausalLm::hidden`] and [`CausalLm::logits`]: the forward pass of training, documents of
//!   any length laid end to end, no padding;
//! - [`KvCache`] with [`CausalLm::step`]: the forward pass of inference, each sequence with its own adapter;
//! - [`Adapter`]: `y = W x + s · B (A x)`, made fresh, or read from and written to a PEFT folder;
//! - [`digest`]: what names a base model, a tokenizer and a chat template for good.
//!
//! [`CausalLm::train_pass`] computes the gradients of adapters by a backward pass that is written out; whole models are
//! trained through LibTorch's autograd, where memory is short block by block ([`RecomputedPass`]). Everything that
//! allocates returns a [`ModelError`].

mod adapter;
mod attention;
mod batch;
mod cache;
mod causal_lm;
mod config;
mod config_file;
mod decode;
pub mod digest;
mod dropout;
mod error;
mod explicit;
mod families;
mod hidden;
mod init;
mod layer;
mod linear;
mod lora;
mod merge;
mod merged;
mod modules;
mod norm;
mod parameters;
mod peft;
mod random;
mod rope;
mod rotation;
mod rows;
mod save;
mod serving;
mod step;
mod targets;
mod training;
mod weights;

pub use adapter::{Adapter, LoraPair, LoraSettings};
pub use batch::PackedBatch;
pub use cache::KvCache;
pub use causal_lm::{CausalLm, Precision};
pub use config::{Activation, ModelConfig};
pub use decode::DecodeGraphs;
pub use dropout::DropoutKey;
pub use error::ModelError;
pub use explicit::Keep;
pub use families::Family;
pub use hidden::RecomputedPass;
pub use merge::merge_folder;
pub use merged::MergedWeights;
pub use modules::{Module, Projection, Site};
pub use rope::{RopeScaling, RopeSettings};
pub use save::SHARD_BYTES;
pub use step::SequenceStep;
pub use training::{Document, Scores, Segment};
pub use weights::expected_tensors;
