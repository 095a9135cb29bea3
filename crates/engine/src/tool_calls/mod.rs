//! Finding the calls of tools in a model's text while it comes, and grammars that force a call.
//!
//! Models write calls in forms of their own; there is one file for each, which knows where a call may begin and what
//! follows one. The call itself is a JSON object in all of them (`reader.rs`).

mod forced;
mod hermes;
mod llama;
mod mistral;
mod reader;

use tunesmith_dataset::template::CallSyntax;

pub use forced::forced_grammar;
use reader::{CallReader, Step};

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text for the reader.
    Text(String),
    /// A call begins.
    Call {
        /// Its place among the calls.
        index: usize,
        /// The function.
        name: String,
    },
    /// More of a call's arguments, which are JSON once they are complete.
    Arguments {
        /// The call's place.
        index: usize,
        /// The piece.
        json: String,
    },
}

/// Where a call may begin in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opening {
    /// The bytes from `start` to `end` open a call, whose object comes next.
    Found { start: usize, end: usize },
    /// What is there from this byte on may become an opening.
    Possible(usize),
    /// Nowhere.
    Nowhere,
}

/// What follows a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Another call, after this many bytes.
    Call(usize),
    /// Text, after this many bytes.
    Text(usize),
    /// That cannot be told yet.
    Unknown,
}

fn opening(syntax: CallSyntax, text: &str, at_start: bool) -> Opening {
    match syntax {
        CallSyntax::Hermes => hermes::opening(text),
        CallSyntax::Llama => llama::opening(text, at_start),
        CallSyntax::Mistral => mistral::opening(text),
    }
}

fn next(syntax: CallSyntax, text: &str) -> Next {
    match syntax {
        CallSyntax::Hermes => hermes::next(text),
        CallSyntax::Llama => llama::next(text),
        CallSyntax::Mistral => mistral::next(text),
    }
}

/// Splits an answer into text and calls while it comes. Text that turns out to be no call of an offered function is
/// given as text, nothing of it lost.
#[derive(Debug)]
pub struct CallParser {
    syntax: CallSyntax,
    offered: Vec<String>,
    most: usize,
    state: State,
    /// Text that came and is not used yet.
    held: String,
    /// Nothing was given yet.
    at_start: bool,
    calls: usize,
}

#[derive(Debug)]
enum State {
    Text,
    Call(CallReader),
    AfterCall,
}

impl CallParser {
    /// A parser for answers in `syntax` that may call the functions `offered`. Calls after the first `most` are left out.
    #[must_use]
    pub fn new(syntax: CallSyntax, offered: Vec<String>, most: usize) -> Self {
        Self {
            syntax,
            offered,
            most,
            state: State::Text,
            held: String::new(),
            at_start: true,
            calls: 0,
        }
    }

    /// Whether a call was found.
    #[must_use]
    pub fn has_calls(&self) -> bool {
        self.calls > 0
    }

    /// Adds text and gives what is certain.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        self.held.push_str(text);
        let mut parts = Vec::new();
        while self.step(&mut parts) {}
        parts
    }

    /// What was held back, once no more text comes.
    pub fn finish(&mut self) -> Vec<Part> {
        let mut parts = Vec::new();
        let held = std::mem::take(&mut self.held);
        match std::mem::replace(&mut self.state, State::Text) {
            // White space around calls is part of their form.
            State::Text if self.has_calls() => self.give_text(held.trim_end().to_owned(), &mut parts),
            State::Text => self.give_text(held, &mut parts),
            State::Call(reader) => self.give_text(reader.into_text(), &mut parts),
            // White space and the beginning of a closing mark.
            State::AfterCall => {}
        }
        parts
    }

    /// Goes on as far as one state leads; whether there is more to do.
    fn step(&mut self, parts: &mut Vec<Part>) -> bool {
        match std::mem::replace(&mut self.state, State::Text) {
            State::Text => self.read_text(parts),
            State::Call(reader) => self.read_call(reader, parts),
            State::AfterCall => match next(self.syntax, &self.held) {
                Next::Call(length) => {
                    self.state = State::Call(CallReader::after(self.take(length)));
                    true
                }
                Next::Text(length) => {
                    self.take(length);
                    !self.held.is_empty()
                }
                Next::Unknown => {
                    self.state = State::AfterCall;
                    false
                }
            },
        }
    }

    fn read_text(&mut self, parts: &mut Vec<Part>) -> bool {
        let (certain, opening_end) = match opening(self.syntax, &self.held, self.at_start) {
            Opening::Found { start, end } => (start, Some(end)),
            Opening::Possible(start) => (start, None),
            Opening::Nowhere => (self.held.len(), None),
        };
        // White space before a call is part of the call's form, and no text.
        let shown = self.held[..certain].trim_end().len();
        let text = self.take(shown);
        self.give_text(text, parts);
        let Some(end) = opening_end else {
            return false;
        };
        self.state = State::Call(CallReader::after(self.take(end - shown)));
        true
    }

    fn read_call(&mut self, mut reader: CallReader, parts: &mut Vec<Part>) -> bool {
        let mut read = 0;
        let mut end = None;
        for letter in self.held.chars() {
            let step = reader.push(letter, &self.offered);
            if step != Step::Refused {
                read += letter.len_utf8();
            }
            if step != Step::More {
                end = Some(step);
                break;
            }
        }
        self.take(read);
        self.give_call(&mut reader, parts);
        match end {
            None => {
                self.state = State::Call(reader);
                return false;
            }
            Some(_) if reader.began() => self.state = State::AfterCall,
            Some(_) => self.give_text(reader.into_text(), parts),
        }
        true
    }

    fn give_call(&mut self, reader: &mut CallReader, parts: &mut Vec<Part>) {
        let news = reader.news();
        if let Some(name) = news.name {
            self.calls += 1;
            self.at_start = false;
            if self.calls <= self.most {
                let index = self.calls - 1;
                parts.push(Part::Call { index, name });
            }
        }
        if !news.arguments.is_empty() && self.calls <= self.most {
            parts.push(Part::Arguments {
                index: self.calls - 1,
                json: news.arguments,
            });
        }
    }

    fn give_text(&mut self, text: String, parts: &mut Vec<Part>) {
        if text.is_empty() {
            return;
        }
        self.at_start = false;
        match parts.last_mut() {
            Some(Part::Text(last)) => last.push_str(&text),
            _ => parts.push(Part::Text(text)),
        }
    }

    fn take(&mut self, length: usize) -> String {
        let rest = self.held.split_off(length);
        std::mem::replace(&mut self.held, rest)
    }
}

/// Where `marker` is in `text`, or its beginning at the end of `text`.
fn find_marker(text: &str, marker: &str) -> Opening {
    if let Some(start) = text.find(marker) {
        let end = start + marker.len();
        return Opening::Found { start, end };
    }
    let mut lengths = (1..marker.len()).rev();
    match lengths.find(|length| text.ends_with(&marker[..*length])) {
        Some(length) => Opening::Possible(text.len() - length),
        None => Opening::Nowhere,
    }
}

#[cfg(test)]
mod tests;
