//! The HTTP API.
//!
//! ```text
//! routes/<resource>.rs  extract, call, convert
//!   └▶ app/<resource>.rs  the rules
//!        └▶ store, blobs, dataset
//! ```
//!
//! [`application()`] gives the whole service, with what the gateway contributes behind the same authentication, and
//! [`serve`](serve::serve) runs it. What can go wrong is one enum, [`ApiError`], which becomes a status in one place.

pub mod app;
mod application;
pub mod auth;
pub mod error;
pub mod extract;
pub mod middleware;
pub mod pages;
mod routes;
pub mod serve;
pub mod state;

pub use app::bootstrap;
pub use app::validation::take_up as take_up_validations;
pub use application::{application, openapi};
pub use error::ApiError;
pub use serve::serve;
pub use state::{ApiSettings, ApiState};
