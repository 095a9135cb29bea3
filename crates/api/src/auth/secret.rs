//! Random secrets: API keys with a checksum that is checked before any query, and refresh tokens.
//!
//! An API key is `tsk_`, 43 base62 characters (256 bits), and the CRC-32 of those characters in 6 base62 digits, so
//! that scanners find leaked keys and typing errors are refused offline. Only the sha256 of a secret is stored.

use rand::Rng;
use sha2::{Digest, Sha256};

/// What every API key begins with.
pub const API_KEY_PREFIX: &str = "tsk_";
/// What every refresh token begins with.
pub const REFRESH_TOKEN_PREFIX: &str = "tsr_";

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const RANDOM_LENGTH: usize = 43;
const CHECKSUM_LENGTH: usize = 6;
const HINT_LENGTH: usize = 8;

/// A new API key.
#[must_use]
pub fn new_api_key() -> String {
    with_checksum(API_KEY_PREFIX, &random_characters())
}

/// A new refresh token, in the same form as an API key.
#[must_use]
pub fn new_refresh_token() -> String {
    with_checksum(REFRESH_TOKEN_PREFIX, &random_characters())
}

/// Whether `text` has the form and the checksum of a secret with this prefix.
#[must_use]
pub fn is_well_formed(prefix: &str, text: &str) -> bool {
    let Some(rest) = text.strip_prefix(prefix) else {
        return false;
    };
    let plain =
        rest.len() == RANDOM_LENGTH + CHECKSUM_LENGTH && rest.bytes().all(|b| b.is_ascii_alphanumeric());
    plain && rest[RANDOM_LENGTH..] == checksum(&rest[..RANDOM_LENGTH])
}

/// The sha256 of a secret, which is what the database holds.
#[must_use]
pub fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// The first characters of a key, enough for a person to tell keys apart.
#[must_use]
pub fn hint(secret: &str) -> String {
    format!("{}…", secret.get(..HINT_LENGTH).unwrap_or(secret))
}

fn random_characters() -> String {
    let mut generator = rand::rng();
    (0..RANDOM_LENGTH)
        .map(|_| char::from(ALPHABET[generator.random_range(0..ALPHABET.len())]))
        .collect()
}

fn with_checksum(prefix: &str, characters: &str) -> String {
    format!("{prefix}{characters}{}", checksum(characters))
}

fn checksum(characters: &str) -> String {
    let mut rest = u64::from(crc32fast::hash(characters.as_bytes()));
    let mut digits = [b'0'; CHECKSUM_LENGTH];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[usize::try_from(rest % 62).expect("a remainder of 62 fits")];
        rest /= 62;
    }
    digits.iter().map(|digit| char::from(*digit)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_is_well_formed_and_unlike_the_last() {
        let (one, other) = (new_api_key(), new_api_key());
        assert_eq!(one.len(), 4 + 43 + 6);
        assert!(is_well_formed(API_KEY_PREFIX, &one));
        assert!(!is_well_formed(REFRESH_TOKEN_PREFIX, &one));
        assert_ne!(one, other);
    }

    #[test]
    fn any_changed_character_is_noticed() {
        let key = new_api_key();
        for position in 4..key.len() {
            let mut bytes = key.clone().into_bytes();
            bytes[position] = if bytes[position] == b'a' { b'b' } else { b'a' };
            let changed = String::from_utf8_lossy(&bytes).into_owned();
            assert!(!is_well_formed(API_KEY_PREFIX, &changed), "{changed}");
        }
        for wrong in ["", "tsk_", "tsk_ä", &key[..key.len() - 1], &format!("{key}0")] {
            assert!(!is_well_formed(API_KEY_PREFIX, wrong), "{wrong}");
        }
    }
}
