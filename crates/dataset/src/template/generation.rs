//! `{% generation %}`: the tag by which a template says what the model writes.
//!
//! minijinja has no custom tags, so the tag becomes a filter block, which leaves white-space control as it was. The
//! filter puts a mark before and after; the marks are taken out of the rendered text and give the byte ranges. They
//! are Unicode non-characters that the conversation does not contain.

use minijinja::{State, Value};

use super::Rendered;

pub(super) const FILTER: &str = "tunesmith_generation";
const OPEN: &str = "tunesmith_generation_open";
const CLOSE: &str = "tunesmith_generation_close";

/// The characters around what the model writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marks {
    open: char,
    close: char,
}

impl Marks {
    /// The first pair of non-characters (U+FDD0 to U+FDEF) of which neither is in `text`; the last pair if all are.
    pub(super) fn absent_from(text: &str) -> Self {
        let pairs = (0xFDD0..0xFDF0u32).step_by(2).filter_map(|first| {
            Some(Self {
                open: char::from_u32(first)?,
                close: char::from_u32(first + 1)?,
            })
        });
        let mut last = Self {
            open: '\u{FDEE}',
            close: '\u{FDEF}',
        };
        for marks in pairs {
            last = marks;
            if !text.contains([marks.open, marks.close]) {
                break;
            }
        }
        last
    }
}

/// The template with its generation tags as filter blocks, and whether it has any.
pub(super) fn translate(source: &str) -> (String, bool) {
    let mut translated = String::with_capacity(source.len());
    let mut rest = source;
    let mut found = false;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        translated.push_str(before);
        let Some(length) = tag.find("%}").map(|end| end + 2) else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(length);
        let word = tag[2..length - 2]
            .trim_matches(|letter: char| letter.is_ascii_whitespace() || letter == '-' || letter == '+');
        match word {
            "generation" => translated.push_str(&tag.replacen("generation", &format!("filter {FILTER}"), 1)),
            "endgeneration" => translated.push_str(&tag.replacen("endgeneration", "endfilter", 1)),
            _ => translated.push_str(tag),
        }
        found |= word == "generation";
        rest = after;
    }
    translated.push_str(rest);
    (translated, found)
}

/// The marks as variables of the template.
pub(super) fn context(marks: Marks) -> Value {
    Value::from_pairs([(OPEN, marks.open.to_string()), (CLOSE, marks.close.to_string())])
}

/// The filter.
pub(super) fn mark(state: &State, body: &str) -> String {
    let text = |name| state.lookup(name).unwrap_or_default();
    format!("{}{body}{}", text(OPEN), text(CLOSE))
}

/// Takes the marks out of a rendered text.
pub(super) fn split(text: &str, marks: Marks) -> Rendered {
    let mut rendered = Rendered {
        text: String::with_capacity(text.len()),
        generated: Vec::new(),
    };
    let mut open = None;
    for part in text.split_inclusive([marks.open, marks.close]) {
        let kept = part.trim_end_matches([marks.open, marks.close]);
        rendered.text.push_str(kept);
        if part.ends_with(marks.open) {
            open = Some(rendered.text.len());
        } else if part.ends_with(marks.close)
            && let Some(start) = open.take()
            && start < rendered.text.len()
        {
            rendered.generated.push(start..rendered.text.len());
        }
    }
    rendered
}
