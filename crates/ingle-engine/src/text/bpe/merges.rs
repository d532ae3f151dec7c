// SPDX-License-Identifier: EUPL-1.2
//! Which pairs of tokens merge into one, and which of them first.

use std::hash::BuildHasher;

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};

use super::{Joined, Symbol};

/// Merges by the pair of ids that they join.
#[derive(Default)]
pub(in crate::text) struct Merges {
    table: HashTable<Merge>,
    hasher: DefaultHashBuilder,
}

/// Two tokens that become one.
#[derive(Clone, Copy, Debug)]
pub(in crate::text) struct Merge {
    pub pair: (u32, u32),
    /// Lower ones go first.
    pub rank: u32,
    pub joined: u32,
}

impl Merges {
    pub fn with_capacity(capacity: usize) -> Self {
        Merges { table: HashTable::with_capacity(capacity), hasher: DefaultHashBuilder::default() }
    }

    /// Adds a merge, and says whether its pair is new; of a pair that is there already, nothing changes.
    pub fn insert(&mut self, merge: Merge) -> bool {
        let Merges { table, hasher } = self;
        let entry = table.entry(
            hasher.hash_one(merge.pair),
            |other| other.pair == merge.pair,
            |other| hasher.hash_one(other.pair),
        );
        match entry {
            Entry::Occupied(_) => false,
            Entry::Vacant(place) => {
                place.insert(merge);
                true
            }
        }
    }

    /// What two neighbours become.
    pub fn join(&self, left: &Symbol, right: &Symbol) -> Option<Joined> {
        let pair = (left.id, right.id);
        let merge = self.table.find(self.hasher.hash_one(pair), |merge| merge.pair == pair)?;
        Some(Joined { id: merge.joined, priority: u32::MAX - merge.rank })
    }
}
