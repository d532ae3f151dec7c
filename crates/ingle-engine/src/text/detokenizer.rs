// SPDX-License-Identifier: EUPL-1.2
//! Text from tokens as they come.

use super::tokenizer::{SpecialText, Tokenizer};
use crate::Result;

const REPLACEMENT: &str = "\u{FFFD}";

/// A character has at most four bytes: the end of an incomplete one lies within as many tokens.
const LONGEST_CHARACTER: usize = 4;

/// Turns the tokens of an answer into text, each character as soon as it is whole.
///
/// The pieces and [`Detokenizer::finish`] together are what [`Tokenizer::decode`] makes of the whole answer where it
/// stands, after its prompt: no space is lost or doubled between prompt and answer. Special tokens have no text.
/// Bytes that are no UTF-8 become U+FFFD. (One difference is left: a run of SentencePiece byte tokens with a mistake
/// in it decodes to U+FFFD for every byte of the run; here, characters before the mistake have been given out.)
///
/// Each token costs the decoding of a few, however long the answer and whatever its bytes.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use ingle_engine::text::{Detokenizer, Special, Tokenizer};
/// use ingle_nn::ModelFiles;
///
/// const JSON: &[u8] = br#"{"model": {"type": "BPE", "vocab": {"\u0120": 0, "h": 1, "i": 2}, "merges": []},
///     "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false},
///     "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false}}"#;
/// let tokenizer = Tokenizer::from_files(&ModelFiles::Embedded { name: "tiny", files: &[("tokenizer.json", JSON)] })?;
///
/// let prompt = tokenizer.encode("hi", Special::Add)?;
/// let mut detokenizer = Detokenizer::new(tokenizer, &prompt);
/// assert_eq!(detokenizer.push(0)? + &detokenizer.push(1)?, " h");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Detokenizer {
    tokenizer: Tokenizer,
    /// The last tokens: what comes next is decoded after them.
    window: Vec<u32>,
    /// How many bytes of the window's text were given out.
    given: usize,
    /// Whether the window's text ends with a U+FFFD that may yet become a character.
    incomplete: bool,
    /// Byte tokens of a character that is not whole yet.
    run: Vec<(u32, u8)>,
    /// Whether the run of byte tokens that goes on has a mistake in it.
    run_is_malformed: bool,
}

impl Detokenizer {
    /// A detokeniser of the answer to a prompt.
    pub fn new(tokenizer: Tokenizer, prompt: &[u32]) -> Self {
        let mut detokenizer = Detokenizer {
            tokenizer,
            window: Vec::new(),
            given: 0,
            incomplete: false,
            run: Vec::new(),
            run_is_malformed: false,
        };
        let visible = prompt.iter().rev().filter(|id| detokenizer.is_visible(**id));
        let mut context: Vec<u32> = visible.take(LONGEST_CHARACTER).copied().collect();
        context.reverse();
        // A run of byte tokens is read from the start of a character.
        let start = context.iter().position(|id| !detokenizer.continues_character(*id)).unwrap_or(0);
        for id in &context[start..] {
            // A prompt that cannot be decoded leaves no context; the answer's own tokens will tell.
            let _ = detokenizer.push(*id);
        }
        detokenizer
    }

    /// The text that this token completes: whole characters, often none.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<String> {
        if !self.is_visible(id) {
            return Ok(String::new());
        }
        match self.tokenizer.fallback_byte(id) {
            Some(byte) => self.push_byte(id, byte),
            None => {
                let rest = self.end_run()?;
                Ok(rest + &self.push_whole(&[id])?)
            }
        }
    }

    /// The text of what is left incomplete, once no token follows: U+FFFD, as [`Tokenizer::decode`] has it.
    pub fn finish(&mut self) -> String {
        let pieces = self.run.len() + usize::from(self.incomplete);
        self.run.clear();
        self.window.clear();
        self.given = 0;
        self.incomplete = false;
        self.run_is_malformed = false;
        REPLACEMENT.repeat(pieces)
    }

    fn is_visible(&self, id: u32) -> bool {
        !self.tokenizer.is_special(id) && self.tokenizer.piece(id).is_some_and(|piece| !piece.is_empty())
    }

    fn continues_character(&self, id: u32) -> bool {
        self.tokenizer.fallback_byte(id).is_some_and(|byte| (0x80..0xC0).contains(&byte))
    }

    fn push_byte(&mut self, id: u32, byte: u8) -> Result<String> {
        if self.run_is_malformed {
            return Ok(REPLACEMENT.to_owned());
        }
        self.run.push((id, byte));
        let bytes: Vec<u8> = self.run.iter().map(|(_, byte)| *byte).collect();
        match std::str::from_utf8(&bytes) {
            Ok(_) => {
                let ids: Vec<u32> = self.run.drain(..).map(|(id, _)| id).collect();
                self.push_whole(&ids)
            }
            Err(error) if error.error_len().is_none() => Ok(String::new()),
            Err(_) => {
                let text = self.replace_run()?;
                self.run_is_malformed = true;
                Ok(text)
            }
        }
    }

    /// What is left of a run of byte tokens, as another token follows.
    fn end_run(&mut self) -> Result<String> {
        self.run_is_malformed = false;
        self.replace_run()
    }

    /// Gives up the incomplete character: each of its bytes becomes a U+FFFD.
    fn replace_run(&mut self) -> Result<String> {
        let Some((last, _)) = self.run.last().copied() else { return Ok(String::new()) };
        let text = REPLACEMENT.repeat(self.run.len());
        self.run.clear();
        // Alone it decodes to some text: all that matters is that the next token is not the first.
        self.window = vec![last];
        self.given = self.decode_window()?.len();
        Ok(text)
    }

    /// Takes a token, or the byte tokens of one character.
    fn push_whole(&mut self, ids: &[u32]) -> Result<String> {
        self.window.extend(ids);
        let text = self.decode_window()?;
        // Byte tokens come here as whole characters; byte-level tokens may end within one.
        self.incomplete = !self.tokenizer.has_byte_fallback() && text.ends_with(REPLACEMENT);
        let held = if self.incomplete { REPLACEMENT.len() } else { 0 };
        let whole = text.len() - held;
        let piece = text.get(self.given..whole).unwrap_or_default().to_owned();

        let keep = if self.incomplete { LONGEST_CHARACTER } else { ids.len() };
        self.given = whole;
        if self.window.len() > keep {
            self.window.drain(..self.window.len() - keep);
            // The shorter window may begin within a character, but it ends as the longer one did.
            self.given = self.decode_window()?.len().saturating_sub(held);
        }
        Ok(piece)
    }

    fn decode_window(&self) -> Result<String> {
        self.tokenizer.decode(&self.window, SpecialText::Keep)
    }
}
