//! `<tool_call>\n{"name": "f", "arguments": {…}}\n</tool_call>`, once for each call: Hermes, Qwen 2.5, Qwen 3.

use super::{Next, Opening, find_marker};

pub(super) const OPEN: &str = "<tool_call>";
pub(super) const CLOSE: &str = "</tool_call>";

pub(super) fn opening(text: &str) -> Opening {
    find_marker(text, OPEN)
}

pub(super) fn next(text: &str) -> Next {
    let rest = text.trim_start();
    let space = text.len() - rest.len();
    if rest.starts_with(CLOSE) {
        Next::Text(space + CLOSE.len())
    } else if CLOSE.starts_with(rest) {
        Next::Unknown
    } else {
        Next::Text(0)
    }
}

/// The rule of an answer in Lark: `call` is the rule of a call's object.
pub(super) fn rule(open: &str, close: &str, several: bool) -> String {
    let more = if several { " (\"\\n\" marked)*" } else { "" };
    format!("start: marked{more}\nmarked: {open} \"\\n\" call \"\\n\" {close}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openings_are_found_and_awaited() {
        for (text, wanted) in [
            ("hi", Opening::Nowhere),
            ("a <", Opening::Possible(2)),
            ("a <tool_cal", Opening::Possible(2)),
            ("a <tool_call>{", Opening::Found { start: 2, end: 13 }),
            ("a <tool_bar", Opening::Nowhere),
        ] {
            assert_eq!(opening(text), wanted, "{text}");
        }
    }

    #[test]
    fn the_closing_mark_ends_a_call() {
        for (text, wanted) in [
            ("", Next::Unknown),
            ("\n</tool", Next::Unknown),
            ("\n</tool_call>\n", Next::Text(13)),
            (" and", Next::Text(0)),
        ] {
            assert_eq!(next(text), wanted, "{text:?}");
        }
    }
}
