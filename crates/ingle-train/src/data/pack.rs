// SPDX-License-Identifier: EUPL-1.2
//! Sequences side by side in a batch.

use serde::{Deserialize, Serialize};

/// Tokens that are read in order, and what is to be predicted after each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// The tokens.
    pub tokens: Vec<i32>,
    /// As many: the token to be predicted after each, or [`MASKED`](super::MASKED).
    pub targets: Vec<i32>,
}

/// Where in the data a batch begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// The pass over the data, from 0.
    pub epoch: u64,
    /// The example, counted in the order of that pass.
    pub example: usize,
    /// Its sequence: an example may be cut into several.
    pub sequence: usize,
}

/// Sequences of at most so many tokens together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackedBatch {
    /// The sequences.
    pub sequences: Vec<Sequence>,
    /// Where the next batch begins.
    pub next: Position,
}

impl PackedBatch {
    /// How many tokens there are.
    pub fn tokens(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.tokens.len()).sum()
    }

    /// How many are to be predicted.
    pub fn targets(&self) -> usize {
        let learnt = |sequence: &Sequence| sequence.targets.iter().filter(|&&target| target >= 0).count();
        self.sequences.iter().map(learnt).sum()
    }
}
