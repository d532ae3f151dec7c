// SPDX-License-Identifier: EUPL-1.2
//! A plain text, to be learnt as it stands.

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ingle_engine::text::{Special, Tokenizer};
use ingle_nn::random::{stream, uniform};

use super::{BpeDropout, Example, Examples};
use crate::{Error, Result};

/// A text as one long list of tokens, cut into windows. The beginning-of-sequence token, if the model has one, is the
/// first of each. Every pass is the same, and every token is predicted once, unless the corpus is
/// [varied](Corpus::varied).
#[derive(Debug)]
pub struct Corpus {
    text: Arc<Tokens>,
    characters: usize,
    bos: Option<u32>,
    window: usize,
    variation: Option<Variation>,
    /// Passes whose tokens were taken apart: one is trained on while the next is loaded.
    recent: Mutex<Vec<(u64, Arc<Tokens>)>>,
}

/// How a text becomes windows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorpusOptions {
    /// Tokens that a window has at most.
    pub window: usize,
    /// How the text is parted into documents; it is one if `None`.
    pub documents: Option<Documents>,
}

/// How a text is parted into documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Documents {
    /// What stands between two of them. New lines around a document are left out, and so is an empty one.
    pub separator: String,
    /// What is put behind each of them instead.
    pub end: String,
}

#[derive(Debug)]
struct Variation {
    seed: u64,
    bpe_dropout: Option<BpeDropout>,
}

#[derive(Debug, Default)]
struct Tokens {
    tokens: Vec<u32>,
    /// Where documents begin; empty if the text is one.
    starts: Vec<usize>,
}

/// Bytes that are encoded at once.
const CHUNK: usize = 1 << 16;

/// Passes that are kept.
const RECENT: usize = 2;

impl Corpus {
    /// The text of a file.
    ///
    /// # Errors
    /// [`Error::File`] if the file cannot be read, is no UTF-8 or holds nothing; the tokeniser's.
    pub fn open(path: impl AsRef<Path>, tokenizer: &Tokenizer, options: &CorpusOptions) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|error| Error::unread(path, &error))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            Error::file(path, format!("expected UTF-8 text, found other bytes ({})", error.utf8_error()))
        })?;
        let corpus = Self::new(&text, tokenizer, options)?;
        match corpus.tokens() {
            0 | 1 => Err(Error::file(path, "holds no text to learn from")),
            _ => Ok(corpus),
        }
    }

    /// A text that is there.
    ///
    /// # Errors
    /// The tokeniser's.
    pub fn new(text: &str, tokenizer: &Tokenizer, options: &CorpusOptions) -> Result<Self> {
        let text_tokens = match &options.documents {
            None => {
                let tokens = tokenizer.encode_batch(&lines(text), Special::Omit)?.concat();
                Tokens { tokens, starts: Vec::new() }
            }
            Some(documents) => Tokens::of(&tokenizer.encode_batch(&documents.of(text), Special::Omit)?),
        };
        Ok(Corpus {
            text: Arc::new(text_tokens),
            characters: text.chars().count(),
            bos: tokenizer.bos(),
            window: options.window.max(2),
            variation: None,
            recent: Mutex::default(),
        })
    }

    /// The same, of which each pass is cut elsewhere: at random, or, if the text has documents, where the last one
    /// before a random place begins. Then tokens are predicted about once a pass. If there is a `bpe_dropout`, each pass
    /// takes other tokens apart.
    #[must_use]
    pub fn varied(self, seed: u64, bpe_dropout: Option<BpeDropout>) -> Self {
        Corpus { variation: Some(Variation { seed, bpe_dropout }), ..self }
    }

    /// How many tokens there are, as the tokeniser cuts them.
    pub fn tokens(&self) -> usize {
        self.text.tokens.len()
    }

    /// The tokens of a pass.
    fn pass(&self, epoch: u64) -> Arc<Tokens> {
        let Some(bpe_dropout) = self.variation.as_ref().and_then(|variation| variation.bpe_dropout.as_ref()) else {
            return self.text.clone();
        };
        // What a panic left behind is a pass or none.
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, tokens)) = recent.iter().find(|(other, _)| *other == epoch) {
            return tokens.clone();
        }
        let tokens = Arc::new(self.text.taken_apart(bpe_dropout, epoch));
        recent.insert(0, (epoch, tokens.clone()));
        recent.truncate(RECENT);
        tokens
    }

    /// How many tokens are predicted.
    fn predicted(&self, tokens: &Tokens) -> usize {
        match self.bos {
            Some(_) => tokens.tokens.len(),
            None => tokens.tokens.len().saturating_sub(1),
        }
    }

    /// Where the second window of a pass begins.
    fn shift(&self, epoch: u64) -> usize {
        match &self.variation {
            None => self.window,
            Some(Variation { seed, .. }) => 1 + (uniform(seed ^ stream("corpus"), epoch) * self.window as f64) as usize,
        }
    }

    /// What is predicted in a window.
    fn window(&self, epoch: u64, index: usize, tokens: &Tokens) -> Range<usize> {
        let (shift, predicted) = (self.shift(epoch), self.predicted(tokens));
        let start = if index == 0 { 0 } else { shift + (index - 1) * self.window };
        let end = shift + index * self.window;
        if self.variation.is_some() && index > 0 && !tokens.starts.is_empty() {
            let document = tokens.starts.partition_point(|begin| *begin <= start).saturating_sub(1);
            let start = tokens.starts[document].min(predicted);
            return start..(start + self.window).min(predicted);
        }
        start.min(predicted)..end.min(predicted)
    }
}

impl Examples for Corpus {
    fn count(&self, epoch: u64) -> usize {
        let predicted = self.predicted(&self.pass(epoch));
        usize::from(predicted > 0) + predicted.saturating_sub(self.shift(epoch)).div_ceil(self.window)
    }

    fn example(&self, epoch: u64, index: usize) -> Result<Example> {
        let tokens = self.pass(epoch);
        let Range { start, end } = self.window(epoch, index, &tokens);
        Ok(Example::learnt(match self.bos {
            Some(bos) => [&[bos], &tokens.tokens[start..end]].concat(),
            // One more, from which the next is predicted.
            None => tokens.tokens[start..end + 1].to_vec(),
        }))
    }

    fn characters(&self) -> Option<usize> {
        Some(self.characters)
    }
}

impl Tokens {
    /// One document after another.
    fn of(documents: &[Vec<u32>]) -> Self {
        let mut all = Tokens::default();
        for document in documents {
            all.starts.push(all.tokens.len());
            all.tokens.extend(document);
        }
        all
    }

    fn taken_apart(&self, bpe_dropout: &BpeDropout, epoch: u64) -> Self {
        let mut chance = bpe_dropout.chance(epoch, 0);
        let mut apart = Tokens::default();
        let mut starts = self.starts.iter().peekable();
        for (place, token) in self.tokens.iter().enumerate() {
            if starts.next_if(|start| **start == place).is_some() {
                apart.starts.push(apart.tokens.len());
            }
            bpe_dropout.take_apart(*token, &mut chance, &mut apart.tokens);
        }
        apart
    }
}

impl Documents {
    /// The documents of a text, each with its end.
    fn of(&self, text: &str) -> Vec<String> {
        let documents = text.split(&self.separator).map(|document| document.trim_matches('\n'));
        documents.filter(|document| !document.is_empty()).map(|document| format!("{document}{}", self.end)).collect()
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
        let text = Tokens { tokens: (0..tokens).collect(), starts: Vec::new() };
        Corpus { text: Arc::new(text), characters: 0, bos, window: 8, variation: None, recent: Mutex::default() }
    }

    fn targets(corpus: &Corpus, epoch: u64) -> Vec<i32> {
        let windows = (0..corpus.count(epoch)).map(|index| corpus.example(epoch, index).unwrap());
        windows.flat_map(|window| window.sequences(8)).flat_map(|sequence| sequence.targets).collect()
    }

    #[test]
    fn every_token_is_predicted_once_in_a_pass_good() {
        for bos in [None, Some(99)] {
            for (length, epoch) in [(2, 0), (9, 1), (50, 0), (50, 1), (50, 2), (65, 3)] {
                let expected: Vec<i32> = (i32::from(bos.is_none())..length as i32).collect();
                let (plain, varied) = (corpus(length, bos), corpus(length, bos).varied(1, None));
                assert_eq!(targets(&plain, epoch), expected, "{length} tokens");
                assert_eq!(targets(&varied, epoch), expected, "{length} tokens, pass {epoch}");
                let longest = (0..plain.count(epoch)).map(|index| plain.example(epoch, index).unwrap().tokens.len());
                assert!(longest.max() <= Some(9));
            }
        }
        let firsts = |epoch| corpus(50, None).varied(1, None).example(epoch, 1).unwrap().tokens;
        assert!(firsts(0) != firsts(1) || firsts(1) != firsts(2));
    }

    #[test]
    fn windows_begin_where_documents_do_good() {
        let starts = vec![0, 5, 9, 30, 44];
        let corpus = Corpus {
            text: Arc::new(Tokens { tokens: (0..50).collect(), starts: starts.clone() }),
            ..corpus(0, Some(99)).varied(1, None)
        };
        for epoch in 0..9 {
            for index in 0..corpus.count(epoch) {
                let window = corpus.example(epoch, index).unwrap().tokens;
                assert!(window[0] == 99 && starts.contains(&(window[1] as usize)), "{window:?}");
                assert!(index == 0 || window.len() == 9 || window.last() == Some(&49), "{window:?}");
            }
        }
        let exact = Corpus { variation: None, ..corpus };
        assert_eq!(targets(&exact, 3), (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn documents_of_a_text_good() {
        let documents = Documents { separator: "\n\n".into(), end: "<e>\n".into() };
        assert_eq!(documents.of("a\nb\n\n\nc\n\n\n\nd\n"), ["a\nb<e>\n", "c<e>\n", "d<e>\n"]);
        assert!(documents.of("\n\n\n").is_empty());
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
        assert_eq!((corpus(0, None).count(0), corpus(0, Some(9)).count(3), corpus(1, None).count(3)), (0, 0, 0));
        assert_eq!(lines(""), [""]);
        assert_eq!(lines(&"é".repeat(CHUNK)).len(), 1);
    }
}
