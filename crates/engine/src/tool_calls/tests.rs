#![allow(clippy::unwrap_used)]
use super::*;

const SYNTAXES: [CallSyntax; 3] = [CallSyntax::Hermes, CallSyntax::Llama, CallSyntax::Mistral];

/// Text, and calls with their arguments, each joined.
type Read = (String, Vec<(String, String)>);

fn parser(syntax: CallSyntax, most: usize) -> CallParser {
    CallParser::new(syntax, vec!["weather".to_owned(), "add".to_owned()], most)
}

fn join(parts: Vec<Part>) -> Read {
    let mut read = Read::default();
    for part in parts {
        match part {
            Part::Text(text) => read.0.push_str(&text),
            Part::Call { index, name } => {
                assert_eq!(index, read.1.len());
                read.1.push((name, String::new()));
            }
            Part::Arguments { index, json } => read.1[index].1.push_str(&json),
        }
    }
    read
}

fn read_in(syntax: CallSyntax, most: usize, pieces: &[&str]) -> Read {
    let mut parser = parser(syntax, most);
    let mut parts: Vec<Part> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    parts.extend(parser.finish());
    join(parts)
}

/// The answer is read alike whole, split in two and in three at every place, and letter by letter.
#[track_caller]
fn check(syntax: CallSyntax, answer: &str, text: &str, calls: &[(&str, &str)]) {
    let owned = |(name, arguments): &(&str, &str)| ((*name).to_owned(), (*arguments).to_owned());
    let wanted = (text.to_owned(), calls.iter().map(owned).collect::<Vec<_>>());
    assert_eq!(read_in(syntax, 9, &[answer]), wanted, "{answer}");
    let places: Vec<usize> = answer.char_indices().map(|(place, _)| place).collect();
    for (number, first) in places.iter().enumerate() {
        for second in &places[number..] {
            let pieces = [&answer[..*first], &answer[*first..*second], &answer[*second..]];
            assert_eq!(read_in(syntax, 9, &pieces), wanted, "{pieces:?}");
        }
    }
    let letters: Vec<String> = answer.chars().map(String::from).collect();
    let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
    assert_eq!(read_in(syntax, 9, &letters), wanted, "{answer} by letters");
}

#[test]
fn hermes_calls_are_found() {
    let syntax = CallSyntax::Hermes;
    let one = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"place\": \"Kö}\\\"ln\", \"of\": [1, {}]}}\n</tool_call>";
    let arguments = "{\"place\": \"Kö}\\\"ln\", \"of\": [1, {}]}";
    check(syntax, one, "", &[("weather", arguments)]);
    let both = format!(
        "Let me look.\n{one}\n<tool_call>\n{{\"arguments\": {{}}, \"name\": \"add\"}}\n</tool_call>\n"
    );
    check(
        syntax,
        &both,
        "Let me look.",
        &[("weather", arguments), ("add", "{}")],
    );
    check(
        syntax,
        "<tool_call>{\"name\": \"add\"}</tool_call>",
        "",
        &[("add", "{}")],
    );
    let text = "<tool_call>{\"name\": \"add\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>ok";
    check(syntax, text, "ok", &[("add", "{\"a\": 1}")]);
}

#[test]
fn llama_calls_are_found() {
    let syntax = CallSyntax::Llama;
    let one = "{\"name\": \"weather\", \"parameters\": {\"place\": \"Kiel\"}}";
    let wanted = ("weather", "{\"place\": \"Kiel\"}");
    check(syntax, one, "", &[wanted]);
    check(syntax, &format!(" <|python_tag|>{one}"), "", &[wanted]);
    check(syntax, &format!("{one}; {one}"), "", &[wanted, wanted]);
    check(syntax, &format!("I look:\n\n{one}"), "I look:", &[wanted]);
    let typed = "{\"type\": \"function\", \"name\": \"add\", \"parameters\": {\"a\": -1.5e3}}";
    check(syntax, typed, "", &[("add", "{\"a\": -1.5e3}")]);
}

#[test]
fn mistral_calls_are_found() {
    let syntax = CallSyntax::Mistral;
    let answer = "[TOOL_CALLS] [{\"name\": \"weather\", \"arguments\": {\"place\": \"[TOOL_CALLS]\"}, \"id\": \"abcdefghi\"}, \
                  {\"name\": \"add\", \"arguments\": {\"a\": 1}}]";
    let calls = [
        ("weather", "{\"place\": \"[TOOL_CALLS]\"}"),
        ("add", "{\"a\": 1}"),
    ];
    check(syntax, answer, "", &calls);
    check(syntax, &format!("Well {answer}"), "Well", &calls);
}

/// White space between text and call belongs to neither; all other text is kept.
#[test]
fn what_only_looks_like_a_call_stays_text() {
    for syntax in SYNTAXES {
        for text in [
            "",
            "Hello, world.\n\n  How are you?  \n",
            "a < b, [TOOL, {\"x\"",
            "<tool_call> is a mark, [TOOL_CALLS] another, and { a third",
            "{\"name\": \"Bob\", \"parameters\": {\"age\": 3}}",
            "{\"answer\": 42}",
            "<tool_call>\n{\"name\": \"unknown\", \"arguments\": {}}\n</tool_call>",
            "<tool_call>\n{\"name\": 7}</tool_call>",
            "[TOOL_CALLS] [{\"name\": \"weather",
            "<tool_call>{\"name\": \"weather\", ",
            "{\"name\": \"weather\"",
            "{\"arguments\": {\"a\": 1}",
            "{\"name\": \"weather\", \"parameters\": 3}",
            "[TOOL_CALLS] [weather]",
        ] {
            check(syntax, text, text, &[]);
        }
    }
}

#[test]
fn a_call_that_is_cut_off_keeps_what_it_has() {
    for (syntax, answer) in [
        (
            CallSyntax::Hermes,
            "<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b",
        ),
        (
            CallSyntax::Llama,
            "{\"name\": \"add\", \"parameters\": {\"a\": 1, \"b",
        ),
        (
            CallSyntax::Mistral,
            "[TOOL_CALLS][{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b",
        ),
    ] {
        check(syntax, answer, "", &[("add", "{\"a\": 1, \"b")]);
    }
}

#[test]
fn text_comes_at_once_and_arguments_in_pieces() {
    let mut parser = parser(CallSyntax::Hermes, 9);
    assert_eq!(parser.push("Let me"), [Part::Text("Let me".into())]);
    assert_eq!(parser.push(" look. <tool"), [Part::Text(" look.".into())]);
    assert_eq!(parser.push("_call>{\"name\": \"add\""), []);
    let begun = parser.push(", \"arguments\": {\"a\"");
    let name = "add".to_owned();
    let piece = |json: &str| Part::Arguments {
        index: 0,
        json: json.to_owned(),
    };
    assert_eq!(begun, [Part::Call { index: 0, name }, piece("{\"a\"")]);
    assert_eq!(parser.push(": 1"), [piece(": 1")]);
    assert_eq!(parser.push("}}</tool_call>"), [piece("}")]);
    assert!(parser.has_calls() && parser.finish().is_empty());
}

#[test]
fn calls_beyond_the_most_are_left_out() {
    let call = "<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1}}</tool_call>";
    let (text, calls) = read_in(CallSyntax::Hermes, 1, &[call, call]);
    assert_eq!((text.as_str(), calls.len()), ("", 1));
    assert_eq!(calls[0].1, "{\"a\": 1}");
}
