//! Text from tokens, as they come.
//!
//! A token need not be whole letters: byte-level tokenizers split a letter of several bytes over tokens, and others
//! decode a token differently at the start of a text. So a window of tokens is decoded, from a place where the text
//! was last whole, and only what the newest tokens add is given out. A decoded end of U+FFFD is a letter that is not
//! complete yet, and waits.

/// Tokens of the prompt's end that are decoded along, so that the first new token gets its leading space.
const CONTEXT: usize = 6;

/// Turns ids into text.
pub trait Decode {
    /// The text of `tokens`; bytes that are no letter become U+FFFD.
    fn decode(&self, tokens: &[u32]) -> String;
}

/// Incremental decoder of one sequence.
#[derive(Debug)]
pub struct Detokenizer {
    /// The window: tokens whose text is out, then tokens whose text waits.
    window: Vec<u32>,
    /// Where in the window the waiting tokens begin.
    shown: usize,
}

impl Detokenizer {
    /// A decoder of what follows `prompt`.
    #[must_use]
    pub fn after(prompt: &[u32]) -> Self {
        let window = prompt[prompt.len().saturating_sub(CONTEXT)..].to_vec();
        Self {
            shown: window.len(),
            window,
        }
    }

    /// Adds a token; what text became whole by it.
    pub fn push(&mut self, token: u32, tokenizer: &impl Decode) -> String {
        self.window.push(token);
        let text = self.waiting(tokenizer);
        if text.is_empty() || text.ends_with(char::REPLACEMENT_CHARACTER) {
            return String::new();
        }
        self.window.drain(..self.shown);
        self.shown = self.window.len();
        text
    }

    /// The text of the waiting tokens, whole or not, once no more come.
    pub fn finish(&mut self, tokenizer: &impl Decode) -> String {
        let text = self.waiting(tokenizer);
        self.shown = self.window.len();
        text
    }

    fn waiting(&self, tokenizer: &impl Decode) -> String {
        let before = tokenizer.decode(&self.window[..self.shown]);
        let after = tokenizer.decode(&self.window);
        // Cleaning rules of some tokenizers may shorten what came before; then there is nothing new to give.
        after.get(before.len()..).unwrap_or_default().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One token a byte.
    struct Bytes;

    impl Decode for Bytes {
        fn decode(&self, tokens: &[u32]) -> String {
            let bytes: Vec<u8> = tokens
                .iter()
                .map(|token| u8::try_from(*token).unwrap_or(b'?'))
                .collect();
            String::from_utf8_lossy(&bytes).into_owned()
        }
    }

    /// Words that lose their leading space at the start of a text.
    struct Words;

    impl Decode for Words {
        fn decode(&self, tokens: &[u32]) -> String {
            let text: String = tokens.iter().map(|token| format!(" w{token}")).collect();
            text.trim_start().to_owned()
        }
    }

    fn tokens(text: &str) -> Vec<u32> {
        text.bytes().map(u32::from).collect()
    }

    #[test]
    fn letters_come_out_whole() {
        let mut detokenizer = Detokenizer::after(&tokens("prompt"));
        let pieces: Vec<String> = tokens("aé漢🦀b")
            .into_iter()
            .map(|token| detokenizer.push(token, &Bytes))
            .collect();
        assert_eq!(pieces, ["a", "", "é", "", "", "漢", "", "", "", "🦀", "b"]);
        assert_eq!(detokenizer.finish(&Bytes), "");
    }

    #[test]
    fn an_unfinished_letter_is_given_at_the_end() {
        let mut detokenizer = Detokenizer::after(&[]);
        assert_eq!(detokenizer.push(0xF0, &Bytes), "");
        assert_eq!(detokenizer.finish(&Bytes), "\u{FFFD}");
        assert_eq!(detokenizer.finish(&Bytes), "");
    }

    #[test]
    fn the_prompt_gives_the_first_word_its_space() {
        let mut detokenizer = Detokenizer::after(&[1, 2]);
        assert_eq!(detokenizer.push(3, &Words), " w3");
        assert_eq!(detokenizer.push(4, &Words), " w4");
        let mut alone = Detokenizer::after(&[]);
        assert_eq!(alone.push(3, &Words), "w3");
        assert_eq!(alone.push(4, &Words), " w4");
    }

    #[test]
    fn pieces_join_to_the_whole() {
        let text = "Grüße, 世界! 🙂🙃 — ok";
        let mut detokenizer = Detokenizer::after(&tokens("ß"));
        let mut joined: String = tokens(text)
            .into_iter()
            .map(|token| detokenizer.push(token, &Bytes))
            .collect();
        joined.push_str(&detokenizer.finish(&Bytes));
        assert_eq!(joined, text);
    }
}
