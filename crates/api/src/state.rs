//! Everything that a request needs, in one struct that is passed explicitly.

use std::sync::Arc;
use std::time::Duration;

use tunesmith_blobs::Blobs;
use tunesmith_store::Store;
use tunesmith_store::notifications::Notifications;

use crate::auth::{AccessTokens, AttemptLimiter, Passwords, SigningKey};

/// What whoever starts the API decides.
#[derive(Debug, Clone)]
pub struct ApiSettings {
    /// Signs access tokens.
    pub signing_key: SigningKey,
    /// Life of an access token.
    pub access_token_lifetime: Duration,
    /// Life of a refresh token.
    pub refresh_token_lifetime: Duration,
    /// Passwords that are hashed at a time.
    pub parallel_passwords: usize,
    /// Log-in attempts for one account from one address in [`Self::login_window`].
    pub login_attempts_per_account: u32,
    /// Log-in and sign-up attempts from one address in [`Self::login_window`].
    pub login_attempts_per_address: u32,
    /// The window in which attempts are counted.
    pub login_window: Duration,
    /// Life of a presigned download address.
    pub download_link_lifetime: Duration,
}

impl ApiSettings {
    /// The usual values.
    #[must_use]
    pub fn new(signing_key: SigningKey) -> Self {
        Self {
            signing_key,
            access_token_lifetime: Duration::from_secs(600),
            refresh_token_lifetime: Duration::from_secs(30 * 24 * 3600),
            parallel_passwords: std::thread::available_parallelism().map_or(2, std::num::NonZero::get),
            login_attempts_per_account: 10,
            login_attempts_per_address: 200,
            login_window: Duration::from_secs(15 * 60),
            download_link_lifetime: Duration::from_secs(15 * 60),
        }
    }
}

/// What every handler works with. Cheap to clone.
#[derive(Clone)]
pub struct ApiState {
    /// Rows.
    pub store: Store,
    /// Files.
    pub blobs: Blobs,
    /// Access tokens.
    pub tokens: AccessTokens,
    /// Passwords.
    pub passwords: Passwords,
    /// The brakes on guessing.
    pub limits: Arc<LoginLimits>,
    /// Wake-ups of the database.
    pub notifications: Arc<Notifications>,
    /// Datasets that may be validated at this moment.
    pub(crate) validations: Arc<tokio::sync::Semaphore>,
    /// Adapters that are imported at this moment.
    pub(crate) imports: Arc<crate::app::adapter_import::ImportPlaces>,
    /// What whoever starts the API decides.
    pub settings: Arc<ApiSettings>,
}

/// The brakes on guessing passwords.
#[derive(Debug)]
pub struct LoginLimits {
    /// By account and address.
    pub by_account: AttemptLimiter,
    /// By address.
    pub by_address: AttemptLimiter,
}

impl ApiState {
    /// The state of an API on this database and object store.
    #[must_use]
    pub fn new(store: Store, blobs: Blobs, notifications: Arc<Notifications>, settings: ApiSettings) -> Self {
        let limiter = |attempts| AttemptLimiter::new(attempts, settings.login_window);
        Self {
            store,
            blobs,
            tokens: AccessTokens::new(&settings.signing_key, settings.access_token_lifetime),
            passwords: Passwords::new(settings.parallel_passwords),
            limits: Arc::new(LoginLimits {
                by_account: limiter(settings.login_attempts_per_account),
                by_address: limiter(settings.login_attempts_per_address),
            }),
            notifications,
            validations: Arc::new(crate::app::validation::gate()),
            imports: Arc::default(),
            settings: Arc::new(settings),
        }
    }
}
