// SPDX-License-Identifier: EUPL-1.2
//! Ending an answer at a given text.

use crate::{Error, Result};

/// Finds stop strings in text that arrives in pieces.
///
/// Text is passed on as soon as it can no longer become part of a stop string. The stop string that is complete
/// first ends the answer; of several complete at the same character, the one that begins first. What the reader
/// gets therefore does not depend on where the pieces were cut. Time is linear in the text, whatever the stop
/// strings (Knuth, Morris and Pratt 1977).
///
/// ```
/// use ingle_engine::text::StopStrings;
///
/// let mut stop = StopStrings::new(&["\nUser:"])?;
/// assert_eq!(stop.push("Aye.\nUs").text, "Aye.");
/// let end = stop.push("er: and then");
/// assert!(end.stopped && end.text.is_empty());
/// # Ok::<(), ingle_engine::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct StopStrings {
    patterns: Vec<Pattern>,
    /// Text that may yet become part of a stop string.
    held: String,
    stopped: bool,
}

/// What a piece of text brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopMatch {
    /// Text that belongs to the answer.
    pub text: String,
    /// Whether a stop string was found: then the answer has ended.
    pub stopped: bool,
}

impl StopStrings {
    /// A matcher of these stop strings; with none it passes all text on.
    ///
    /// # Errors
    /// [`Error::Request`] if one of them is empty: it would end every answer before it begins.
    pub fn new<S: AsRef<str>>(stop_strings: &[S]) -> Result<Self> {
        if let Some(index) = stop_strings.iter().position(|stop| stop.as_ref().is_empty()) {
            let message = format!("stop string {index}: expected some text, found an empty string; leave it out");
            return Err(Error::Request { message });
        }
        let patterns = stop_strings.iter().map(|stop| Pattern::new(stop.as_ref())).collect();
        Ok(StopStrings { patterns, held: String::new(), stopped: false })
    }

    /// Takes the next piece of text. After a stop string was found, nothing more comes out.
    pub fn push(&mut self, piece: &str) -> StopMatch {
        if self.stopped {
            return StopMatch { text: String::new(), stopped: true };
        }
        let mut text = std::mem::take(&mut self.held);
        for (index, byte) in piece.bytes().enumerate() {
            let longest = self.patterns.iter_mut().filter_map(|pattern| pattern.advance(byte)).max();
            if let Some(length) = longest {
                let end = text.len() + index + 1;
                text.push_str(piece);
                text.truncate(end - length);
                self.stopped = true;
                return StopMatch { text, stopped: true };
            }
        }
        text.push_str(piece);
        // A partial match begins as its stop string does, with a character's first byte: the cut is between
        // characters.
        let held = self.patterns.iter().map(|pattern| pattern.matched).max().unwrap_or(0);
        self.held = text.split_off(text.len() - held);
        StopMatch { text, stopped: false }
    }

    /// The text that was held back, once the answer has ended without a stop string.
    pub fn finish(&mut self) -> String {
        self.patterns.iter_mut().for_each(|pattern| pattern.matched = 0);
        std::mem::take(&mut self.held)
    }
}

/// One stop string and how much of it the text now ends with.
#[derive(Clone, Debug)]
struct Pattern {
    bytes: Vec<u8>,
    /// For each length of a match, the length of the longest shorter match that ends in the same place.
    fallback: Vec<usize>,
    matched: usize,
}

impl Pattern {
    fn new(stop: &str) -> Self {
        let mut pattern = Pattern { bytes: stop.as_bytes().to_vec(), fallback: vec![0, 0], matched: 0 };
        for &byte in &stop.as_bytes()[1..] {
            pattern.matched = pattern.after(byte);
            pattern.fallback.push(pattern.matched);
        }
        pattern.matched = 0;
        pattern
    }

    fn after(&self, byte: u8) -> usize {
        let mut matched = self.matched;
        while matched > 0 && self.bytes[matched] != byte {
            matched = self.fallback[matched];
        }
        matched + usize::from(self.bytes[matched] == byte)
    }

    /// Takes a byte; the stop string's length if that completes it.
    fn advance(&mut self, byte: u8) -> Option<usize> {
        self.matched = self.after(byte);
        (self.matched == self.bytes.len()).then_some(self.matched)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run<S: AsRef<str>>(stops: &[&str], pieces: &[S]) -> (String, bool) {
        let mut stop = StopStrings::new(stops).unwrap();
        let mut text = String::new();
        for piece in pieces {
            let found = stop.push(piece.as_ref());
            text += &found.text;
            if found.stopped {
                return (text, true);
            }
        }
        (text + &stop.finish(), false)
    }

    /// The definition, by trying every end and every start.
    fn expected(stops: &[&str], text: &str) -> (String, bool) {
        for end in 1..=text.len() {
            let starts = stops.iter().filter(|stop| text.as_bytes()[..end].ends_with(stop.as_bytes()));
            if let Some(length) = starts.map(|stop| stop.len()).max() {
                return (text[..end - length].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    #[test]
    fn stop_string_across_pieces_good() {
        assert_eq!(run(&["END"], &["to be E", "N", "D or not"]), ("to be ".into(), true));
        assert_eq!(run(&["END"], &["to be E", "N", "Q"]), ("to be ENQ".into(), false));
    }

    #[test]
    fn text_comes_out_as_soon_as_it_is_safe_good() {
        let mut stop = StopStrings::new(&["</s>"]).unwrap();
        assert_eq!(stop.push("a <").text, "a ");
        assert_eq!(stop.push("b").text, "<b");
        assert_eq!(stop.push("</").text, "");
        assert_eq!(stop.finish(), "</");
    }

    #[test]
    fn no_stop_strings_pass_everything_on_good() {
        assert_eq!(run(&[], &["a", "b"]), ("ab".into(), false));
    }

    #[test]
    fn empty_stop_string_bad() {
        let error = StopStrings::new(&["x", ""]).unwrap_err();
        assert!(error.to_string().contains("stop string 1"), "{error}");
    }

    #[test]
    fn first_complete_wins_and_the_longer_of_two_ugly() {
        assert_eq!(run(&["abcd", "bc"], &["xabcd"]), ("xa".into(), true));
        assert_eq!(run(&["bc", "abc"], &["xabcd"]), ("x".into(), true));
        assert_eq!(run(&["aab"], &["aa", "aab"]), ("aa".into(), true));
    }

    #[test]
    fn nothing_after_the_stop_ugly() {
        let mut stop = StopStrings::new(&["."]).unwrap();
        assert_eq!(stop.push("a.b"), StopMatch { text: "a".into(), stopped: true });
        assert_eq!(stop.push("c"), StopMatch { text: String::new(), stopped: true });
        assert_eq!(stop.finish(), "");
    }

    #[test]
    fn characters_that_share_bytes_stay_whole_ugly() {
        // 你 and 佡 share their first two bytes.
        assert_eq!(run(&["好你!"], &["好", "佡"]), ("好佡".into(), false));
        let mut stop = StopStrings::new(&["你"]).unwrap();
        assert_eq!(stop.push("佡你").text, "佡");
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_answer_good(
            pieces in prop::collection::vec("[ab你é]{0,4}", 0..8),
            stops in prop::collection::vec("[ab你é]{1,4}", 0..4),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            prop_assert_eq!(run(&stops, &pieces), expected(&stops, &pieces.concat()));
        }
    }
}
