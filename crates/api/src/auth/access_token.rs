//! Access tokens: short-lived JWTs signed with Ed25519 and nothing else (RFC 8725, RFC 9068).

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use tunesmith_types::ids::{OrganizationId, UserId};

/// The `typ` header of an access token.
const TOKEN_TYPE: &str = "at+jwt";
/// Issuer and audience of the tokens of this service.
const ISSUER: &str = "tunesmith";
const AUDIENCE: &str = "tunesmith-api";
/// Clocks of several API processes may differ by this much.
const LEEWAY_SECONDS: u64 = 5;

/// An Ed25519 key pair.
#[derive(Clone)]
pub struct SigningKey {
    pkcs8: Arc<[u8]>,
    public: Arc<[u8]>,
}

/// The bytes are no Ed25519 key, or none could be made.
#[derive(Debug, thiserror::Error)]
pub enum SigningKeyError {
    /// The system gave no random numbers.
    #[error("no key could be generated")]
    Generate(#[source] aws_lc_rs::error::Unspecified),
    /// The bytes are no Ed25519 key in PKCS #8 form.
    #[error("the signing key is not an ed25519 key in pkcs #8 form")]
    Rejected(#[source] aws_lc_rs::error::KeyRejected),
    /// The PEM text is damaged.
    #[error("the signing key is not a pem block labelled PRIVATE KEY")]
    Pem,
}

impl SigningKey {
    /// A new key.
    ///
    /// # Errors
    /// The system gave no random numbers.
    pub fn generate() -> Result<Self, SigningKeyError> {
        let pair = Ed25519KeyPair::generate().map_err(SigningKeyError::Generate)?;
        let document = pair.to_pkcs8v1().map_err(SigningKeyError::Generate)?;
        Self::from_pkcs8(document.as_ref())
    }

    /// A key from PKCS #8 bytes.
    ///
    /// # Errors
    /// The bytes are no Ed25519 key.
    pub fn from_pkcs8(bytes: &[u8]) -> Result<Self, SigningKeyError> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes).map_err(SigningKeyError::Rejected)?;
        Ok(Self {
            pkcs8: bytes.into(),
            public: pair.public_key().as_ref().into(),
        })
    }

    /// A key from a PEM file.
    ///
    /// # Errors
    /// The text is damaged, or holds no Ed25519 key.
    pub fn from_pem(text: &str) -> Result<Self, SigningKeyError> {
        let body = text
            .trim()
            .strip_prefix(PEM_BEGIN)
            .and_then(|rest| rest.strip_suffix(PEM_END));
        let body: String = body.ok_or(SigningKeyError::Pem)?.split_whitespace().collect();
        Self::from_pkcs8(&STANDARD.decode(body).map_err(|_| SigningKeyError::Pem)?)
    }

    /// The key as a PEM file.
    #[must_use]
    pub fn to_pem(&self) -> String {
        format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", STANDARD.encode(&self.pkcs8))
    }
}

const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("SigningKey")
    }
}

/// What an access token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessClaims {
    /// The user.
    pub sub: UserId,
    /// The organization for which the user acts.
    pub org: OrganizationId,
    /// End, in unix seconds.
    pub exp: u64,
    /// Beginning, in unix seconds.
    pub iat: u64,
    iss: String,
    aud: String,
}

/// Why a token is refused, or could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Its `typ` is not that of an access token.
    #[error("the token is of another type")]
    Type,
    /// Its signature, algorithm, issuer, audience, end or claims are wrong.
    #[error("the token is not valid")]
    Invalid(#[source] jsonwebtoken::errors::Error),
}

/// Makes and checks access tokens.
#[derive(Clone)]
pub struct AccessTokens {
    signing: EncodingKey,
    verifying: DecodingKey,
    validation: Validation,
    lifetime: Duration,
}

impl AccessTokens {
    /// Tokens that live for `lifetime`.
    #[must_use]
    pub fn new(key: &SigningKey, lifetime: Duration) -> Self {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.leeway = LEEWAY_SECONDS;
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        Self {
            signing: EncodingKey::from_ed_der(&key.pkcs8),
            verifying: DecodingKey::from_ed_der(&key.public),
            validation,
            lifetime,
        }
    }

    /// Seconds that a token lives.
    #[must_use]
    pub const fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// A token for the user.
    ///
    /// # Errors
    /// The signing key is damaged.
    pub fn issue(&self, user: UserId, organization: OrganizationId) -> Result<String, TokenError> {
        let now = jsonwebtoken::get_current_timestamp();
        let claims = AccessClaims {
            sub: user,
            org: organization,
            iat: now,
            exp: now + self.lifetime.as_secs(),
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
        };
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some(TOKEN_TYPE.to_owned());
        jsonwebtoken::encode(&header, &claims, &self.signing).map_err(TokenError::Invalid)
    }

    /// What a token says, where it is ours, unchanged and not over.
    ///
    /// # Errors
    /// It is not.
    pub fn verify(&self, token: &str) -> Result<AccessClaims, TokenError> {
        let decoded = jsonwebtoken::decode::<AccessClaims>(token, &self.verifying, &self.validation);
        let decoded = decoded.map_err(TokenError::Invalid)?;
        if decoded.header.typ.as_deref() != Some(TOKEN_TYPE) {
            return Err(TokenError::Type);
        }
        Ok(decoded.claims)
    }
}

#[cfg(test)]
#[path = "access_token_tests.rs"]
mod tests;
