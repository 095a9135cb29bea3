//! `{"name": "f", "parameters": {…}}` as the whole answer: Llama 3.1, 3.2 and 3.3. Their templates take one call; some
//! models write several with `;` between.
//!
//! An object may begin a call where the answer begins, or a line. Whether it does shows in its name.

use super::{Next, Opening};

/// Some models put it first. It is a special token, but may come as text.
const PYTHON_TAG: &str = "<|python_tag|>";

pub(super) fn opening(text: &str, at_start: bool) -> Opening {
    let starts = text.match_indices('\n').map(|(place, _)| place + 1);
    let starts = at_start.then_some(0).into_iter().chain(starts);
    for start in starts {
        let mut rest = text[start..].trim_start();
        if !rest.is_empty() && PYTHON_TAG.starts_with(rest) {
            return Opening::Possible(start);
        }
        rest = rest.strip_prefix(PYTHON_TAG).unwrap_or(rest).trim_start();
        if rest.is_empty() {
            return Opening::Possible(start);
        }
        if rest.starts_with('{') {
            let end = text.len() - rest.len();
            return Opening::Found { start, end };
        }
    }
    Opening::Nowhere
}

pub(super) fn next(text: &str) -> Next {
    let rest = text.trim_start();
    let space = text.len() - rest.len();
    match rest.chars().next() {
        None => Next::Unknown,
        Some(';') => Next::Call(space + 1),
        Some(_) => Next::Text(0),
    }
}

/// The rule of an answer in Lark: `call` is the rule of a call's object.
pub(super) fn rule() -> String {
    "start: call\n".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_open_calls_where_a_line_begins() {
        for (text, at_start, wanted) in [
            ("", true, Opening::Possible(0)),
            ("{", true, Opening::Found { start: 0, end: 0 }),
            (" \n {", true, Opening::Found { start: 0, end: 3 }),
            ("{", false, Opening::Nowhere),
            ("<|pyth", true, Opening::Possible(0)),
            ("<|python_tag|>", true, Opening::Possible(0)),
            ("<|python_tag|> {", true, Opening::Found { start: 0, end: 15 }),
            ("Sure: {", true, Opening::Nowhere),
            ("Sure:\n", true, Opening::Possible(6)),
            ("Sure:\n{", true, Opening::Found { start: 6, end: 6 }),
        ] {
            assert_eq!(opening(text, at_start), wanted, "{text:?}");
        }
    }

    #[test]
    fn a_semicolon_joins_calls() {
        for (text, wanted) in [
            (" ", Next::Unknown),
            (" ; {", Next::Call(2)),
            ("\nok", Next::Text(0)),
        ] {
            assert_eq!(next(text), wanted, "{text:?}");
        }
    }
}
