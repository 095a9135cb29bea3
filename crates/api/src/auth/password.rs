//! Passwords: argon2id, off the async threads, a bounded number at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use rand::RngCore;
use tokio::sync::Semaphore;

/// Memory in KiB, passes and lanes: the least that OWASP's ASVS takes for argon2id.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// Requests that may wait for a processor before the next one is turned away.
const QUEUE: usize = 32;

/// Why a password could not be hashed or compared.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// Too many others wait.
    #[error("the password queue is full")]
    Busy,
    /// argon2 refused its parameters, or a stored hash is damaged.
    #[error("argon2 failed: {0}")]
    Hash(argon2::password_hash::Error),
    /// The hashing thread panicked.
    #[error("the hashing thread ended early")]
    Thread(#[source] tokio::task::JoinError),
}

/// Hashes and compares passwords.
#[derive(Debug, Clone)]
pub struct Passwords {
    processors: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    stand_in: Arc<str>,
}

impl Passwords {
    /// At most `parallel` hashes at a time.
    #[must_use]
    pub fn new(parallel: usize) -> Self {
        let stand_in = hash("no user has this password").expect("invariant: the parameters above are valid");
        Self {
            processors: Arc::new(Semaphore::new(parallel.max(1))),
            waiting: Arc::default(),
            stand_in: stand_in.into(),
        }
    }

    /// The hash to store, in PHC form.
    ///
    /// # Errors
    /// The queue is full, or argon2 failed.
    pub async fn hash(&self, password: String) -> Result<String, PasswordError> {
        self.run(move || hash(&password)).await
    }

    /// Whether the password belongs to the stored hash. Without a hash (no such user) the same work is done for
    /// nothing, so that the time tells nothing.
    ///
    /// # Errors
    /// The queue is full, or the stored hash is damaged.
    pub async fn verify(&self, password: String, stored: Option<String>) -> Result<bool, PasswordError> {
        let known = stored.is_some();
        let stored = stored.unwrap_or_else(|| self.stand_in.to_string());
        let matches = self.run(move || verify(&password, &stored)).await?;
        Ok(known && matches)
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, argon2::password_hash::Error> + Send + 'static,
    ) -> Result<T, PasswordError> {
        let place = Place::take(&self.waiting).ok_or(PasswordError::Busy)?;
        let permit = Arc::clone(&self.processors).acquire_owned().await;
        let permit = permit.expect("invariant: the semaphore is never closed");
        drop(place);
        let finished = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        finished
            .await
            .map_err(PasswordError::Thread)?
            .map_err(PasswordError::Hash)
    }
}

/// A place in the queue, given back on drop.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(waiting: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Self(Arc::clone(waiting));
        let before = waiting.fetch_add(1, Ordering::AcqRel);
        (before < QUEUE).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn argon2() -> Argon2<'static> {
    let params =
        Params::new(MEMORY_KIB, PASSES, LANES, None).expect("invariant: the constants are in argon2's range");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

fn hash(password: &str) -> Result<String, argon2::password_hash::Error> {
    let mut bytes = [0_u8; 16];
    rand::rng().fill_bytes(&mut bytes);
    let salt = SaltString::encode_b64(&bytes)?;
    Ok(argon2().hash_password(password.as_bytes(), &salt)?.to_string())
}

fn verify(password: &str, stored: &str) -> Result<bool, argon2::password_hash::Error> {
    let parsed = PasswordHash::new(stored)?;
    match argon2().verify_password(password.as_bytes(), &parsed) {
        Ok(()) => Ok(true),
        Err(argon2::password_hash::Error::Password) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn the_right_password_matches_and_others_do_not() {
        let passwords = Passwords::new(2);
        let stored = passwords.hash("correct horse".to_owned()).await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        assert!(
            passwords
                .verify("correct horse".to_owned(), Some(stored.clone()))
                .await
                .unwrap()
        );
        assert!(
            !passwords
                .verify("wrong horse".to_owned(), Some(stored))
                .await
                .unwrap()
        );
        assert!(
            !passwords
                .verify("no user has this password".to_owned(), None)
                .await
                .unwrap()
        );
    }

    #[tokio::test]
    async fn a_flood_is_turned_away() {
        let passwords = Passwords::new(1);
        let all = (0..64).map(|_| passwords.hash("x".to_owned()));
        let results = futures::future::join_all(all).await;
        assert!(
            results
                .iter()
                .any(|result| matches!(result, Err(PasswordError::Busy)))
        );
        assert!(results.iter().filter(|result| result.is_ok()).count() >= QUEUE);
    }
}
