// SPDX-License-Identifier: EUPL-1.2
//! Training data: from files to packed batches of tokens.
//!
//! [`Examples`] are what a model learns from, by number: the lines of a [`JsonLines`] file, the windows of a
//! [`Corpus`]. A [`Loader`] shuffles them, encodes them ahead of the step on threads of its own, and packs them into
//! batches of as many tokens as a step may have: sequences of all lengths side by side, without padding.

mod bpe_dropout;
mod corpus;
mod encoder;
mod jsonl;
mod loader;
mod order;
mod pack;
mod record;

pub use bpe_dropout::BpeDropout;
pub use corpus::{Corpus, CorpusOptions, Documents};
pub use encoder::{Encoder, PromptLoss};
pub use jsonl::JsonLines;
pub use loader::{Loader, LoaderOptions, Order};
pub use pack::{PackedBatch, Position, Sequence};

use crate::Result;

/// Tokens to learn from, and which of them are to be predicted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Example {
    /// The tokens, in order.
    pub tokens: Vec<u32>,
    /// How many of the first tokens are a prompt, and of the last an answer, in turn: parts of the example, each with
    /// what its tokens are for. They add up to all tokens.
    pub parts: Vec<Part>,
}

/// A part of an [`Example`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// So many tokens that are read.
    Read(usize),
    /// So many tokens that are read and are to be predicted.
    Learnt(usize),
}

impl Example {
    /// A text of which every token is to be predicted.
    pub fn learnt(tokens: Vec<u32>) -> Self {
        let parts = vec![Part::Learnt(tokens.len())];
        Example { tokens, parts }
    }

    /// The token to be predicted at each place but the first; −1 where there is none.
    fn targets(&self) -> Vec<i32> {
        let wanted = self.parts.iter().flat_map(|part| match *part {
            Part::Read(count) => std::iter::repeat_n(None, count),
            Part::Learnt(count) => std::iter::repeat_n(Some(()), count),
        });
        let target = |(token, wanted): (&u32, Option<()>)| match wanted {
            Some(()) => i32::try_from(*token).unwrap_or(MASKED),
            None => MASKED,
        };
        self.tokens.iter().zip(wanted).skip(1).map(target).collect()
    }

    /// The example as sequences of at most `max_length` tokens. What is longer than that is cut: a text that is learnt
    /// as a whole into pieces, anything else at its end.
    pub(crate) fn sequences(&self, max_length: usize) -> Vec<Sequence> {
        let targets = self.targets();
        let tokens: Vec<i32> = self.tokens.iter().map(|&token| i32::try_from(token).unwrap_or(i32::MAX)).collect();
        let count = match self.parts.as_slice() {
            [Part::Learnt(_)] => usize::MAX,
            _ => 1,
        };
        let pieces = tokens.chunks(max_length.max(1)).zip(targets.chunks(max_length.max(1)));
        let piece = |(tokens, targets): (&[i32], &[i32])| Sequence {
            tokens: tokens[..targets.len()].to_vec(),
            targets: targets.to_vec(),
        };
        let learns = |sequence: &Sequence| sequence.targets.iter().any(|&target| target != MASKED);
        pieces.take(count).map(piece).filter(learns).collect()
    }
}

/// The target of a token after which nothing is to be predicted.
pub const MASKED: i32 = -1;

/// Examples by number.
pub trait Examples: Send + Sync {
    /// How many there are in pass number `epoch` over the data.
    fn count(&self, epoch: u64) -> usize;

    /// One of them, `index < count(epoch)`.
    ///
    /// # Errors
    /// What is wrong with it, and where it stands.
    fn example(&self, epoch: u64, index: usize) -> Result<Example>;

    /// How many characters all of them spell, if that is known: for a loss per character.
    fn characters(&self) -> Option<usize> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_not_predicted_good() {
        let example = Example { tokens: vec![1, 2, 3, 4, 5], parts: vec![Part::Read(3), Part::Learnt(2)] };
        let sequences = example.sequences(10);
        assert_eq!(sequences, [Sequence { tokens: vec![1, 2, 3, 4], targets: vec![-1, -1, 4, 5] }]);
    }

    #[test]
    fn every_token_of_a_long_text_is_predicted_once_good() {
        let example = Example::learnt((0..10).collect());
        let sequences = example.sequences(4);
        let tokens: Vec<&[i32]> = sequences.iter().map(|s| &s.tokens[..]).collect();
        assert_eq!(tokens, [&[0, 1, 2, 3][..], &[4, 5, 6, 7], &[8]]);
        let targets: Vec<i32> = sequences.iter().flat_map(|s| s.targets.clone()).collect();
        assert_eq!(targets, (1..10).collect::<Vec<_>>());
    }

    #[test]
    fn what_cannot_be_learnt_is_left_out_ugly() {
        assert!(Example::learnt(vec![7]).sequences(4).is_empty());
        assert!(Example::default().sequences(4).is_empty());
        // The answer begins where the example is cut.
        let cut = Example { tokens: vec![1, 2, 3, 4, 5], parts: vec![Part::Read(4), Part::Learnt(1)] };
        assert!(cut.sequences(3).is_empty());
        assert_eq!(cut.sequences(4).len(), 1);
    }
}
