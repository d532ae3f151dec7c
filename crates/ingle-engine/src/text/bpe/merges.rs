// SPDX-License-Identifier: EUPL-1.2
//! Which pairs of tokens merge into one, and which of them first.

use std::hash::BuildHasher;

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};

/// Merges by the texts that they join. Looking up the ids of those would take ten times as long as the table itself,
/// and most merges are never asked for.
#[derive(Default)]
pub(in crate::text) struct Merges {
    text: Vec<u8>,
    pairs: Vec<Pair>,
    ranks: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

/// Where the two texts of a merge stand, one after the other, with a byte between them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::text) struct Pair {
    pub start: u32,
    pub left: u32,
    pub right: u32,
}

impl Pair {
    /// The two texts.
    pub fn of(self, text: &[u8]) -> (&[u8], &[u8]) {
        let left = self.start as usize;
        let right = left + self.left as usize + 1;
        let part = |start: usize, len: u32| text.get(start..start + len as usize).unwrap_or_default();
        (part(left, self.left), part(right, self.right))
    }
}

impl Merges {
    /// The merges whose texts stand in `text`, the first one first. Of a pair that is there twice, the first counts.
    pub fn new(text: Vec<u8>, pairs: Vec<Pair>) -> Self {
        let (mut ranks, hasher) = (HashTable::<u32>::with_capacity(pairs.len()), DefaultHashBuilder::default());
        for (rank, pair) in (0u32..).zip(&pairs) {
            let pair = pair.of(&text);
            let other = |rank: &u32| pairs.get(*rank as usize).map(|pair| pair.of(&text)).unwrap_or_default();
            let entry =
                ranks.entry(hasher.hash_one(pair), |rank| other(rank) == pair, |rank| hasher.hash_one(other(rank)));
            if let Entry::Vacant(place) = entry {
                place.insert(rank);
            }
        }
        Merges { text, pairs, ranks, hasher }
    }

    /// How many different pairs there are.
    pub fn distinct(&self) -> usize {
        self.ranks.len()
    }

    /// The priority of a merge: higher ones go first.
    pub fn priority(&self, left: &[u8], right: &[u8]) -> Option<u32> {
        let same = |rank: &u32| self.pairs.get(*rank as usize).is_some_and(|pair| pair.of(&self.text) == (left, right));
        self.ranks.find(self.hasher.hash_one((left, right)), same).map(|rank| u32::MAX - rank)
    }
}
