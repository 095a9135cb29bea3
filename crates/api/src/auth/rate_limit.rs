//! A brake on guessing: so many attempts of one key in a fixed window, in the memory of this process.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Most keys that are remembered; beyond that the windows that have ended are forgotten.
const MOST_KEYS: usize = 100_000;

/// Counts attempts.
#[derive(Debug)]
pub struct AttemptLimiter {
    limit: u32,
    window: Duration,
    windows: Mutex<HashMap<String, Window>>,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    ends: Instant,
    attempts: u32,
}

/// Whether an attempt may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// It may, and has been counted.
    Allowed,
    /// It may not before so much time has passed.
    Refused(Duration),
}

impl AttemptLimiter {
    /// At most `limit` attempts of one key per `window`.
    #[must_use]
    pub fn new(limit: u32, window: Duration) -> Self {
        Self {
            limit,
            window,
            windows: Mutex::default(),
        }
    }

    /// Counts an attempt of `key` at the time `now`.
    pub fn attempt(&self, key: &str, now: Instant) -> Attempt {
        let mut windows = self.lock();
        if windows.len() >= MOST_KEYS {
            windows.retain(|_, window| window.ends > now);
        }
        let fresh = Window {
            ends: now + self.window,
            attempts: 0,
        };
        let window = windows.entry(key.to_owned()).or_insert(fresh);
        if window.ends <= now {
            *window = fresh;
        }
        if window.attempts >= self.limit {
            return Attempt::Refused(window.ends - now);
        }
        window.attempts += 1;
        Attempt::Allowed
    }

    /// Forgets the attempts of `key`: it has shown that it knows the secret.
    pub fn forget(&self, key: &str) {
        self.lock().remove(key);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Window>> {
        self.windows
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_opens_again() {
        let limiter = AttemptLimiter::new(2, Duration::from_secs(60));
        let begin = Instant::now();
        assert_eq!(limiter.attempt("a", begin), Attempt::Allowed);
        assert_eq!(limiter.attempt("a", begin), Attempt::Allowed);
        assert_eq!(
            limiter.attempt("a", begin),
            Attempt::Refused(Duration::from_secs(60))
        );
        assert_eq!(limiter.attempt("b", begin), Attempt::Allowed);
        assert_eq!(
            limiter.attempt("a", begin + Duration::from_secs(60)),
            Attempt::Allowed
        );
    }

    #[test]
    fn success_clears_the_count() {
        let limiter = AttemptLimiter::new(1, Duration::from_secs(60));
        let now = Instant::now();
        limiter.attempt("a", now);
        limiter.forget("a");
        assert_eq!(limiter.attempt("a", now), Attempt::Allowed);
    }
}
