//! Why somebody did something, in his own words.

use crate::error::ParameterError;

/// Most characters of a [`Reason`].
pub const MAX_REASON_LENGTH: usize = 1000;

/// 1 to 1000 characters that are no control characters, but for line ends and tabs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason(String);

impl Reason {
    /// Parses the value of the field `param`; space around it is cut off, and nothing but space is no reason.
    ///
    /// # Errors
    /// It is too long, or has control characters.
    pub fn parse(param: &str, text: Option<&str>) -> Result<Option<Self>, ParameterError> {
        let text = text.unwrap_or_default().trim();
        let length = text.chars().count();
        if length > MAX_REASON_LENGTH {
            let message = format!("`{param}` may have {MAX_REASON_LENGTH} characters; it has {length}.");
            return Err(ParameterError::new(param, message));
        }
        if text
            .chars()
            .any(|character| character.is_control() && !matches!(character, '\n' | '\r' | '\t'))
        {
            let message = format!("`{param}` must not contain control characters.");
            return Err(ParameterError::new(param, message));
        }
        Ok((length > 0).then(|| Self(text.to_owned())))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_reason_is_a_text_that_can_be_stored() {
        let parse = |text: &str| Reason::parse("reason", Some(text));
        assert_eq!(parse("  better\n").unwrap().unwrap().as_str(), "better");
        assert_eq!(parse(" ").unwrap(), None);
        assert_eq!(Reason::parse("reason", None).unwrap(), None);
        assert!(parse(&"ä".repeat(1000)).unwrap().is_some());
        assert!(parse(&"ä".repeat(1001)).is_err());
        assert!(parse("a\0b").is_err());
    }
}
