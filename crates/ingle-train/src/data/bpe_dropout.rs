// SPDX-License-Identifier: EUPL-1.2
//! Tokens that are taken apart by chance, so that a model does not learn a small text by heart.

use std::sync::Arc;

use ingle_engine::text::Tokenizer;
use ingle_nn::random::{stream, uniform};

use super::{Example, Part};
use crate::{Error, Result};

/// Takes tokens apart by chance: each with this probability into two tokens that spell the same, and so each of these.
/// Every pass over the data is cut in another way, which depends on the seed, the pass and the example alone.
///
/// After BPE-dropout (Provilkov, Emelianenko & Voita 2020), which leaves out merges at random while a word is made of
/// its characters. Here the word is made first, so any tokeniser will do, as long as parts of its tokens are tokens: of
/// all ways to part a token in two each is as likely, and what was parted is not joined with its neighbours.
#[derive(Clone, Debug)]
pub struct BpeDropout {
    probability: f64,
    seed: u64,
    /// For each token, the pairs of tokens that spell it.
    pairs: Arc<Vec<Box<[[u32; 2]]>>>,
}

impl BpeDropout {
    /// With the tokens of a tokeniser.
    ///
    /// # Errors
    /// [`Error::Option`] for a probability that is not from 0 and below 1.
    pub fn new(tokenizer: &Tokenizer, probability: f64, seed: u64) -> Result<Self> {
        if !(0.0..1.0).contains(&probability) {
            return Err(Error::option("BPE dropout", "a number from 0 and below 1", probability));
        }
        let pairs = (0..tokenizer.vocab_size() as u32).map(|token| pairs(tokenizer, token)).collect();
        Ok(BpeDropout { probability, seed, pairs: Arc::new(pairs) })
    }

    /// The tokens of an example of a pass. What answers a prompt stays whole: it is scored as the tokeniser cuts it.
    pub(super) fn example(&self, example: Example, epoch: u64, index: usize) -> Example {
        let mut chance = self.chance(epoch, index);
        let prompted = example.parts.iter().any(|part| matches!(part, Part::Read(count) if *count > 0));
        let mut rest = example.tokens.as_slice();
        let mut apart = Example { tokens: Vec::with_capacity(rest.len()), parts: Vec::new() };
        for part in example.parts {
            let (Part::Read(count) | Part::Learnt(count)) = part;
            let (tokens, others) = rest.split_at(count.min(rest.len()));
            rest = others;
            let before = apart.tokens.len();
            match part {
                Part::Learnt(_) if prompted => apart.tokens.extend(tokens),
                _ => tokens.iter().for_each(|token| self.take_apart(*token, &mut chance, &mut apart.tokens)),
            }
            let count = apart.tokens.len() - before;
            apart.parts.push(match part {
                Part::Read(_) => Part::Read(count),
                Part::Learnt(_) => Part::Learnt(count),
            });
        }
        apart
    }

    /// The random numbers of an example.
    pub(super) fn chance(&self, epoch: u64, index: usize) -> Chance {
        Chance { seed: self.seed ^ stream(&format!("tokens apart in pass {epoch}, example {index}")), drawn: 0 }
    }

    pub(super) fn take_apart(&self, token: u32, chance: &mut Chance, tokens: &mut Vec<u32>) {
        let pairs = self.pairs.get(token as usize).map_or(&[][..], |pairs| pairs);
        if pairs.is_empty() {
            return tokens.push(token);
        }
        let number = chance.draw();
        if number >= self.probability {
            return tokens.push(token);
        }
        // Below the probability it is as even as it was below 1.
        let which = (number / self.probability * pairs.len() as f64) as usize;
        for part in pairs[which.min(pairs.len() - 1)] {
            self.take_apart(part, chance, tokens);
        }
    }
}

/// Random numbers in a row.
pub(super) struct Chance {
    seed: u64,
    drawn: u64,
}

impl Chance {
    fn draw(&mut self) -> f64 {
        self.drawn += 1;
        uniform(self.seed, self.drawn)
    }
}

/// The pairs of tokens that together spell this one.
fn pairs(tokenizer: &Tokenizer, token: u32) -> Box<[[u32; 2]]> {
    let Some(piece) = tokenizer.piece(token) else { return Box::default() };
    // A byte's own token is named after it, and spelt by no others.
    let byte = piece.starts_with("<0x") && piece.ends_with('>');
    if byte || tokenizer.is_special(token) {
        return Box::default();
    }
    let id = |text: &str| tokenizer.id(text).filter(|id| !tokenizer.is_special(*id));
    let parted = piece.char_indices().skip(1).map(|(at, _)| piece.split_at(at));
    parted.filter_map(|(left, right)| Some([id(left)?, id(right)?])).collect()
}

#[cfg(test)]
mod tests {
    use ingle_engine::text::SpecialText;
    use ingle_nn::ModelFiles;

    use super::*;

    fn tokenizer(name: &str) -> Tokenizer {
        let folder = format!("{}/../../fixtures/tokenizers/{name}", env!("CARGO_MANIFEST_DIR"));
        Tokenizer::from_files(&ModelFiles::directory(folder).unwrap()).unwrap()
    }

    const TEXT: &str = "the fire of the house burns where the fire was";

    #[test]
    fn the_text_stays_and_its_tokens_change_from_pass_to_pass_good() {
        for name in ["byte-level", "sentencepiece-gemma", "sentencepiece-llama"] {
            let tokenizer = tokenizer(name);
            let whole = tokenizer.encode(TEXT, ingle_engine::text::Special::Omit).unwrap();
            let dropout = BpeDropout::new(&tokenizer, 0.3, 7).unwrap();
            let cut = |epoch, index| dropout.example(Example::learnt(whole.clone()), epoch, index);
            let spelt = |tokens: &[u32]| tokenizer.decode(tokens, SpecialText::Keep).unwrap();
            assert_eq!(cut(1, 2), cut(1, 2));
            assert!(cut(1, 2) != cut(2, 2) && cut(1, 2) != cut(1, 3), "{name}");
            for epoch in 0..20 {
                let example = cut(epoch, 0);
                assert_eq!(spelt(&example.tokens), spelt(&whole), "{name}");
                assert_eq!(example.parts, [Part::Learnt(example.tokens.len())]);
            }
            assert!((0..20).any(|epoch| cut(epoch, 0).tokens.len() > whole.len()), "{name}");
            let none = BpeDropout::new(&tokenizer, 0.0, 7).unwrap();
            assert_eq!(none.example(Example::learnt(whole.clone()), 1, 2).tokens, whole);
        }
    }

    #[test]
    fn answers_stay_whole_good() {
        let tokenizer = tokenizer("byte-level");
        let whole = tokenizer.encode(TEXT, ingle_engine::text::Special::Omit).unwrap();
        let parts = vec![Part::Read(whole.len() - 4), Part::Learnt(4)];
        let dropout = BpeDropout::new(&tokenizer, 0.9, 7).unwrap();
        let example = dropout.example(Example { tokens: whole.clone(), parts }, 0, 0);
        let read = example.tokens.len() - 4;
        assert!(read > whole.len() - 4);
        assert_eq!(example.tokens[read..], whole[whole.len() - 4..]);
        assert_eq!(example.parts, [Part::Read(read), Part::Learnt(4)]);
    }

    #[test]
    fn what_is_no_probability_bad() {
        let refused = BpeDropout::new(&tokenizer("byte-level"), 1.0, 7).unwrap_err().to_string();
        assert_eq!(refused, "BPE dropout: expected a number from 0 and below 1, found 1");
    }
}
