// SPDX-License-Identifier: EUPL-1.2
//! A plain text, to be learnt as it stands.

use std::ops::Range;
use std::path::Path;

use ingle_engine::text::{Special, Tokenizer};
use ingle_nn::random::{stream, uniform};

use super::{Example, Examples};
use crate::{Error, Result};

/// A text as one long list of tokens, cut into windows. Each pass over it cuts elsewhere, so that windows differ.
#[derive(Clone, Debug)]
pub struct Corpus {
    tokens: Vec<u32>,
    bos: Option<u32>,
    window: usize,
    seed: u64,
}

/// Bytes that are encoded at once.
const CHUNK: usize = 1 << 16;

impl Corpus {
    /// The text of a file, in windows of `window` tokens; the beginning-of-sequence token, if the model has one, is the
    /// first of each. `seed` says where passes over it cut.
    ///
    /// # Errors
    /// [`Error::File`] if the file cannot be read, is no UTF-8 or holds nothing; the tokeniser's.
    pub fn open(path: impl AsRef<Path>, tokenizer: &Tokenizer, window: usize, seed: u64) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|error| Error::unread(path, &error))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            Error::file(path, format!("expected UTF-8 text, found other bytes ({})", error.utf8_error()))
        })?;
        let corpus = Self::new(&text, tokenizer, window, seed)?;
        match corpus.tokens.len() {
            0 | 1 => Err(Error::file(path, "holds no text to learn from")),
            _ => Ok(corpus),
        }
    }

    /// A text that is there.
    ///
    /// # Errors
    /// The tokeniser's.
    pub fn new(text: &str, tokenizer: &Tokenizer, window: usize, seed: u64) -> Result<Self> {
        let tokens = tokenizer.encode_batch(&lines(text), Special::Omit)?.concat();
        Ok(Corpus { tokens, bos: tokenizer.bos(), window: window.max(2), seed })
    }

    /// How many tokens there are.
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Tokens of a window that are the text's own.
    fn width(&self) -> usize {
        self.window - usize::from(self.bos.is_some())
    }

    /// Where the second window of a pass begins: the first is shorter. The first pass has whole windows.
    fn shift(&self, epoch: u64) -> usize {
        if epoch == 0 {
            self.width()
        } else {
            1 + (uniform(self.seed ^ stream("corpus"), epoch) * self.width() as f64) as usize
        }
    }

    fn window(&self, epoch: u64, index: usize) -> Range<usize> {
        let (width, shift) = (self.width(), self.shift(epoch));
        let start = if index == 0 { 0 } else { shift + (index - 1) * width };
        // One more, which is predicted; the next window begins with it.
        let end = shift + index * width + 1;
        start.min(self.tokens.len())..end.min(self.tokens.len())
    }
}

impl Examples for Corpus {
    fn count(&self, epoch: u64) -> usize {
        let predicted = self.tokens.len().saturating_sub(1);
        usize::from(predicted > 0) + predicted.saturating_sub(self.shift(epoch)).div_ceil(self.width())
    }

    fn example(&self, epoch: u64, index: usize) -> Result<Example> {
        let window = &self.tokens[self.window(epoch, index)];
        Ok(Example::learnt(self.bos.iter().chain(window).copied().collect()))
    }
}

/// A text in parts that end where a line does, if lines are not too long: each is encoded for itself.
fn lines(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text;
    while rest.len() > CHUNK {
        let end = match rest.as_bytes()[CHUNK..].iter().position(|&byte| byte == b'\n') {
            Some(line) => CHUNK + line + 1,
            None => rest.len(),
        };
        let (part, others) = rest.split_at(end);
        parts.push(part);
        rest = others;
    }
    if !rest.is_empty() || parts.is_empty() {
        parts.push(rest);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corpus(tokens: u32, bos: Option<u32>) -> Corpus {
        Corpus { tokens: (0..tokens).collect(), bos, window: 8, seed: 1 }
    }

    #[test]
    fn every_token_is_predicted_once_in_a_pass_good() {
        for bos in [None, Some(99)] {
            for (length, epoch) in [(2, 0), (9, 1), (50, 0), (50, 1), (50, 2), (65, 3)] {
                let corpus = corpus(length, bos);
                let windows: Vec<_> = (0..corpus.count(epoch)).map(|i| corpus.example(epoch, i).unwrap()).collect();
                let sequences = windows.iter().flat_map(|window| window.sequences(8));
                let first = i32::from(bos.is_none());
                let mut targets: Vec<i32> = sequences.flat_map(|sequence| sequence.targets).collect();
                if bos.is_some() {
                    // After the first token a window's own first is predicted, too.
                    targets.dedup();
                }
                assert_eq!(targets, (first..length as i32).collect::<Vec<_>>(), "{length} tokens, pass {epoch}");
            }
        }
    }

    #[test]
    fn a_text_is_cut_at_lines_good() {
        let line = format!("{}\n", "x".repeat(999));
        let text = line.repeat(200);
        let parts = lines(&text);
        assert_eq!((parts.len(), parts.concat()), (4, text.clone()));
        assert!(parts.iter().all(|part| part.ends_with('\n')));
    }

    #[test]
    fn nothing_to_learn_ugly() {
        assert_eq!((corpus(0, None).count(0), corpus(1, Some(9)).count(3)), (0, 0));
        assert_eq!(lines(""), [""]);
        assert_eq!(lines(&"é".repeat(CHUNK)).len(), 1);
    }
}
