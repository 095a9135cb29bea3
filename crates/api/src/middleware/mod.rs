//! What every request passes through, from the outside in: request id, panic guard, authentication, idempotency.

pub mod authenticate;
pub mod idempotency;
pub mod request_id;
