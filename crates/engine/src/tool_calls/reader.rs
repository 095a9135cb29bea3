//! The JSON object of a call, read letter by letter: `{"name": …, "arguments": …}`, or `"parameters"` for the latter, in
//! any order and beside other fields.

/// What a letter did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It was read.
    More,
    /// It was read and ends the object.
    Done,
    /// It was not read: what came is no call, or nothing that a call goes on with.
    Refused,
}

/// What became known since it was last asked for.
#[derive(Debug, Default)]
pub(super) struct News {
    /// The function, once it is certain that this is a call.
    pub(super) name: Option<String>,
    /// More of its arguments.
    pub(super) arguments: String,
}

/// Where in the object the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Brace,
    Key,
    InKey,
    Colon,
    Value,
    InValue,
    Comma,
    End,
}

/// Kinds of values, which end differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    /// An object or a list.
    Nested,
    /// A number, true, false or null.
    Plain,
}

/// Fields of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Name,
    Arguments,
    Other,
}

/// Reads one call.
#[derive(Debug)]
pub(super) struct CallReader {
    /// Everything so far, which is text if this is no call.
    raw: String,
    place: Place,
    field: Field,
    kind: Kind,
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// The key or value that is being read, if it must be whole.
    buffer: String,
    name: Option<String>,
    /// Arguments that were not given yet; none before they begin.
    arguments: Option<String>,
    began: bool,
}

impl CallReader {
    /// A reader for the object after `raw`, which opened the call.
    pub(super) fn after(raw: String) -> Self {
        Self {
            raw,
            place: Place::Brace,
            field: Field::Other,
            kind: Kind::Plain,
            depth: 0,
            in_string: false,
            escaped: false,
            buffer: String::new(),
            name: None,
            arguments: None,
            began: false,
        }
    }

    /// Whether the call's name was given.
    pub(super) fn began(&self) -> bool {
        self.began
    }

    /// What was read, as text; empty once the call has begun.
    pub(super) fn into_text(self) -> String {
        if self.began { String::new() } else { self.raw }
    }

    /// What is known by now.
    pub(super) fn news(&mut self) -> News {
        let mut news = News::default();
        if !self.began
            && self.arguments.is_some()
            && let Some(name) = &self.name
        {
            self.began = true;
            news.name = Some(name.clone());
        }
        if self.began
            && let Some(arguments) = &mut self.arguments
        {
            news.arguments = std::mem::take(arguments);
        }
        news
    }

    /// Reads a letter. `offered`: names of functions that may be called.
    pub(super) fn push(&mut self, letter: char, offered: &[String]) -> Step {
        let step = self.read(letter, offered);
        if step != Step::Refused && !self.began {
            self.raw.push(letter);
        }
        step
    }

    fn read(&mut self, letter: char, offered: &[String]) -> Step {
        let space = letter.is_ascii_whitespace();
        match (self.place, letter) {
            (Place::InKey, _) => self.read_key(letter),
            (Place::InValue, _) => self.read_value(letter, offered),
            (Place::End, _) => Step::Refused,
            _ if space => Step::More,
            (Place::Brace, '{') => self.go(Place::Key),
            (Place::Key, '"') => {
                self.buffer.clear();
                self.buffer.push('"');
                self.go(Place::InKey)
            }
            (Place::Colon, ':') => self.go(Place::Value),
            (Place::Value, _) => self.begin_value(letter),
            (Place::Comma, ',') => self.go(Place::Key),
            (Place::Comma | Place::Key, '}') => self.end(),
            _ => Step::Refused,
        }
    }

    fn go(&mut self, place: Place) -> Step {
        self.place = place;
        Step::More
    }

    /// A call without arguments has an empty object of them.
    fn end(&mut self) -> Step {
        if self.name.is_none() {
            return Step::Refused;
        }
        self.arguments.get_or_insert_with(|| "{}".to_owned());
        self.place = Place::End;
        Step::Done
    }

    fn read_key(&mut self, letter: char) -> Step {
        self.buffer.push(letter);
        if !self.closes_string(letter) {
            return Step::More;
        }
        let Ok(key) = serde_json::from_str::<String>(&self.buffer) else {
            return Step::Refused;
        };
        self.field = match key.as_str() {
            "name" if self.name.is_none() => Field::Name,
            "arguments" | "parameters" if self.arguments.is_none() => Field::Arguments,
            _ => Field::Other,
        };
        self.go(Place::Colon)
    }

    fn begin_value(&mut self, letter: char) -> Step {
        self.kind = match letter {
            '"' => Kind::Text,
            '{' | '[' => Kind::Nested,
            '-' | '0'..='9' | 't' | 'f' | 'n' => Kind::Plain,
            _ => return Step::Refused,
        };
        self.depth = 1;
        self.in_string = false;
        self.buffer.clear();
        self.buffer.push(letter);
        match (self.field, letter) {
            (Field::Arguments, '{') => self.arguments = Some(letter.to_string()),
            (Field::Arguments, '"' | 'n') | (Field::Name, '"') | (Field::Other, _) => {}
            _ => return Step::Refused,
        }
        self.go(Place::InValue)
    }

    fn read_value(&mut self, letter: char, offered: &[String]) -> Step {
        let ends = match self.kind {
            Kind::Text => self.closes_string(letter),
            Kind::Nested => self.closes_nested(letter),
            Kind::Plain if matches!(letter, ',' | '}') || letter.is_ascii_whitespace() => {
                self.place = Place::Comma;
                if !self.take_value(offered) {
                    return Step::Refused;
                }
                return self.read(letter, offered);
            }
            Kind::Plain => false,
        };
        match (&mut self.arguments, self.field, self.kind) {
            (Some(arguments), Field::Arguments, Kind::Nested) => arguments.push(letter),
            _ if self.field != Field::Other => self.buffer.push(letter),
            _ => {}
        }
        if !ends {
            return Step::More;
        }
        self.place = Place::Comma;
        if self.take_value(offered) {
            Step::More
        } else {
            Step::Refused
        }
    }

    /// Keeps a value that is whole; false where no call has it.
    fn take_value(&mut self, offered: &[String]) -> bool {
        let text = || serde_json::from_str::<String>(&self.buffer).ok();
        match (self.field, self.kind) {
            (Field::Name, _) => {
                self.name = text().filter(|name| offered.contains(name));
                self.name.is_some()
            }
            // Some models write the arguments as a text of JSON.
            (Field::Arguments, Kind::Text) => {
                self.arguments = text();
                self.arguments.is_some()
            }
            (Field::Arguments, Kind::Plain) => {
                self.arguments = Some("{}".to_owned());
                self.buffer == "null"
            }
            _ => true,
        }
    }

    fn closes_string(&mut self, letter: char) -> bool {
        let closes = letter == '"' && !self.escaped;
        self.escaped = letter == '\\' && !self.escaped;
        closes
    }

    fn closes_nested(&mut self, letter: char) -> bool {
        if self.in_string {
            self.in_string = !self.closes_string(letter);
            return false;
        }
        match letter {
            '"' => self.in_string = true,
            '{' | '[' => self.depth += 1,
            '}' | ']' => self.depth -= 1,
            _ => {}
        }
        self.depth == 0
    }
}
