//! From a public model name to a replica and back: the inference half of the API, and the reconciler that keeps the
//! replicas as the deployments ask.
//!
//! A request names a deployment or a base model of its organization. `resolve` finds the version that answers,
//! `fleet` the replica that holds it, `proxy` forwards an allow-listed body under the replica's own name for the
//! version and writes the public name back into every answer and every streamed chunk. `reconciler` works from the
//! other side: what ought to be loaded against what each replica says of itself. Each base model has a `board` of what
//! is known; rounds (`reconcile_base`) decide from it and start tasks: `observe` asks a replica, `load` brings an adapter,
//! `drain` takes one off. Beside it, `metering` writes down every request, `shadow` sends copies to versions on trial,
//! and `rollout` moves canaries from step to step.

mod board;
mod capacity;
mod catalogue;
mod companions;
mod drain;
mod error;
mod fleet;
mod gates;
mod golden;
mod load;
mod local_engines;
mod lora_metrics;
mod metering;
mod models;
mod observe;
mod plain_adapter;
mod probe;
mod proxy;
mod reconcile_base;
mod reconciler;
mod replica;
mod request;
mod request_meter;
mod resolve;
mod rollout;
mod routes;
mod settings;
mod shadow;
mod slots;
mod snapshot;
mod source;
mod staging;
mod sticky;
mod stream;
mod sweep;
mod upstream_error;

pub use error::GatewayError;
pub use local_engines::LocalEngines;
pub use models::{Model, ModelList};
pub use reconciler::Reconciler;
pub use routes::{Gateway, openapi, router};
pub use settings::{GatewaySettings, LocalEngineSettings, ReplicaSecret, StaticReplica};
pub use source::ReplicaSource;
pub use tunesmith_store::replicas::ReplicaKind;
