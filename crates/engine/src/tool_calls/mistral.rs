//! `[TOOL_CALLS] [{"name": "f", "arguments": {…}}, …]`: Mistral 7B v0.3, Nemo, Mixtral and Large of the third tokenizer.

use super::{Next, Opening, find_marker};

pub(super) const OPEN: &str = "[TOOL_CALLS]";

/// The list's bracket is part of the opening.
pub(super) fn opening(text: &str) -> Opening {
    let mut from = 0;
    loop {
        match find_marker(&text[from..], OPEN) {
            Opening::Found { start, end } => {
                let rest = text[from + end..].trim_start();
                if rest.is_empty() {
                    return Opening::Possible(from + start);
                }
                if rest.starts_with('[') {
                    let end = text.len() - rest.len() + 1;
                    return Opening::Found {
                        start: from + start,
                        end,
                    };
                }
                from += end;
            }
            Opening::Possible(start) => return Opening::Possible(from + start),
            Opening::Nowhere => return Opening::Nowhere,
        }
    }
}

pub(super) fn next(text: &str) -> Next {
    let rest = text.trim_start();
    let space = text.len() - rest.len();
    match rest.chars().next() {
        None => Next::Unknown,
        Some(',') => Next::Call(space + 1),
        Some(']') => Next::Text(space + 1),
        Some(_) => Next::Text(0),
    }
}

/// The rule of an answer in Lark: `call` is the rule of a call's object. Newer templates have no space before the list.
pub(super) fn rule(open: &str, several: bool) -> String {
    let more = if several { " (\", \" call)*" } else { "" };
    format!("start: {open} \" \"? \"[\" call{more} \"]\"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_opens_calls() {
        for (text, wanted) in [
            ("[1] no", Opening::Nowhere),
            ("a [TOOL", Opening::Possible(2)),
            ("a [TOOL_CALLS] ", Opening::Possible(2)),
            ("a [TOOL_CALLS] [{", Opening::Found { start: 2, end: 16 }),
            (
                "[TOOL_CALLS] are [TOOL_CALLS][",
                Opening::Found { start: 17, end: 30 },
            ),
        ] {
            assert_eq!(opening(text), wanted, "{text}");
        }
    }

    #[test]
    fn commas_go_on_and_the_bracket_ends() {
        for (text, wanted) in [
            ("", Next::Unknown),
            (" , {", Next::Call(2)),
            ("]", Next::Text(1)),
            ("x", Next::Text(0)),
        ] {
            assert_eq!(next(text), wanted, "{text:?}");
        }
    }
}
