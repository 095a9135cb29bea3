//! Stop strings across token boundaries.

/// Holds back text that may be the start of a stop string, and cuts at the first one that is complete.
#[derive(Debug)]
pub struct StopStrings {
    strings: Vec<String>,
    keep: bool,
    held: String,
}

/// What may be shown after a push.
#[derive(Debug, PartialEq, Eq)]
pub enum Released {
    /// Text that no stop string can reach any more.
    Text(String),
    /// The last text: a stop string was found, and what followed it is gone.
    Stopped(String),
}

impl StopStrings {
    /// Stops at the first of `strings`; with `keep`, the stop string itself stays in the text.
    #[must_use]
    pub fn new(strings: Vec<String>, keep: bool) -> Self {
        Self {
            strings,
            keep,
            held: String::new(),
        }
    }

    /// Adds new text and releases what is safe.
    pub fn push(&mut self, text: &str) -> Released {
        self.held.push_str(text);
        if let Some((start, end)) = self.first_match() {
            self.held.truncate(if self.keep { end } else { start });
            return Released::Stopped(std::mem::take(&mut self.held));
        }
        let held = self.longest_possible_start();
        let rest = self.held.split_off(self.held.len() - held);
        Released::Text(std::mem::replace(&mut self.held, rest))
    }

    /// What was held back, once no more text comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// The match that begins first; of two that begin together, the shorter one, since it was complete first.
    fn first_match(&self) -> Option<(usize, usize)> {
        let matches = self.strings.iter().filter_map(|stop| {
            let start = self.held.find(stop.as_str())?;
            Some((start, start + stop.len()))
        });
        matches.min()
    }

    /// Length of the longest end of the held text with which a stop string begins.
    fn longest_possible_start(&self) -> usize {
        let starts = self.strings.iter().map(|stop| {
            let mut ends = stop.char_indices().map(|(index, _)| index).rev();
            ends.find(|length| self.held.ends_with(&stop[..*length]))
                .unwrap_or(0)
        });
        starts.max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shown text after pushing each piece, and whether it stopped.
    fn run(strings: &[&str], keep: bool, pieces: &[&str]) -> (Vec<String>, bool) {
        let mut stops = StopStrings::new(strings.iter().map(ToString::to_string).collect(), keep);
        let mut shown = Vec::new();
        for piece in pieces {
            match stops.push(piece) {
                Released::Text(text) => shown.push(text),
                Released::Stopped(text) => {
                    shown.push(text);
                    return (shown, true);
                }
            }
        }
        shown.push(stops.finish());
        (shown, false)
    }

    #[test]
    fn without_stop_strings_text_passes() {
        assert_eq!(
            run(&[], false, &["a", "b"]),
            (vec!["a".into(), "b".into(), String::new()], false)
        );
    }

    #[test]
    fn a_stop_string_over_three_pieces_is_cut() {
        let (shown, stopped) = run(&["<end>"], false, &["hi <", "en", "d> more"]);
        assert_eq!((shown.concat().as_str(), stopped), ("hi ", true));
        assert_eq!(shown[..2], ["hi ".to_owned(), String::new()]);
    }

    #[test]
    fn a_false_start_is_released() {
        let (shown, stopped) = run(&["<end>"], false, &["a<", "<e", "x"]);
        assert_eq!(shown, ["a", "<", "<ex", ""]);
        assert!(!stopped);
    }

    #[test]
    fn a_held_start_is_released_at_the_end() {
        assert_eq!(
            run(&["###"], false, &["a#", "#"]),
            (vec!["a".into(), String::new(), "##".into()], false)
        );
    }

    #[test]
    fn the_first_match_wins_and_may_be_kept() {
        assert_eq!(
            run(&["cd", "bc", "b"], false, &["abcd"]),
            (vec!["a".into()], true)
        );
        assert_eq!(
            run(&["cd", "bc", "b"], true, &["abcd"]),
            (vec!["ab".into()], true)
        );
    }

    #[test]
    fn letters_of_several_bytes_are_not_split() {
        let (shown, stopped) = run(&["äöü"], false, &["xä", "ö", "ü!"]);
        assert_eq!((shown.concat().as_str(), stopped), ("x", true));
        assert_eq!(run(&["é1"], false, &["è", "é"]).0.concat(), "èé");
    }
}
