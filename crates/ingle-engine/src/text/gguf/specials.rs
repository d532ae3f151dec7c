// SPDX-License-Identifier: EUPL-1.2
//! Finding the tokens that are one token wherever they stand.

use std::ops::Range;

use super::super::bpe::Vocabulary;
use super::super::codec::SpecialContent;
use super::kinds::Kinds;

/// Control, unknown and user-defined tokens, sorted by content, to be found in a text.
pub(super) struct Specials {
    ids: Vec<u32>,
    /// Where the tokens with each first byte begin in `ids`.
    starts: [usize; 257],
}

/// A part of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    Token(u32),
    Text(&'a str),
}

impl Specials {
    pub fn new(vocabulary: &Vocabulary, kinds: &Kinds) -> Self {
        let whole = |id: &u32| kinds.of(*id).is_whole() && !vocabulary.token(*id).is_empty();
        let mut ids: Vec<u32> = (0..vocabulary.len() as u32).filter(whole).collect();
        ids.sort_unstable_by_key(|id| vocabulary.token(*id));
        let start = |first: usize| ids.partition_point(|id| usize::from(vocabulary.token(*id)[0]) < first);
        let starts = std::array::from_fn(start);
        Specials { ids, starts }
    }

    /// The text taken apart: the longest tokens first, of equally long ones that with the lower id, from the left.
    /// With [`SpecialContent::Text`], user-defined ones only.
    pub fn split<'a>(
        &self,
        text: &'a str,
        content: SpecialContent,
        kinds: &Kinds,
        vocabulary: &Vocabulary,
    ) -> Vec<Part<'a>> {
        let mut found = self.find(text.as_bytes(), vocabulary);
        if content == SpecialContent::Text {
            found.retain(|(id, _)| !kinds.of(*id).is_special());
        }
        found.sort_unstable_by_key(|(id, range)| (std::cmp::Reverse(range.len()), *id, range.start));
        let mut taken = vec![false; if found.is_empty() { 0 } else { text.len() }];
        // None is shorter than those after it: it overlaps with one of those before if one of its ends does.
        found.retain(|(_, range)| {
            let free = !taken[range.start] && !taken[range.end - 1];
            if free {
                taken[range.clone()].fill(true);
            }
            free
        });
        found.sort_unstable_by_key(|(_, range)| range.start);

        let (mut parts, mut at) = (Vec::with_capacity(2 * found.len() + 1), 0);
        for (id, range) in found {
            parts.extend(text.get(at..range.start).filter(|text| !text.is_empty()).map(Part::Text));
            parts.push(Part::Token(id));
            at = range.end;
        }
        parts.extend(text.get(at..).filter(|text| !text.is_empty()).map(Part::Text));
        parts
    }

    /// Every place where one stands, overlapping or not.
    fn find(&self, text: &[u8], vocabulary: &Vocabulary) -> Vec<(u32, Range<usize>)> {
        let mut found = Vec::new();
        for (start, &first) in text.iter().enumerate() {
            let first = usize::from(first);
            let mut ids = &self.ids[self.starts[first]..self.starts[first + 1]];
            let mut end = start + 1;
            while let Some(&shortest) = ids.first() {
                let depth = end - start;
                if vocabulary.token(shortest).len() == depth {
                    found.push((shortest, start..end));
                    ids = &ids[1..];
                }
                let Some(&byte) = text.get(end) else { break };
                // All that are left are longer, begin alike, and are sorted.
                let from = ids.partition_point(|id| vocabulary.token(*id)[depth] < byte);
                let to = ids.partition_point(|id| vocabulary.token(*id)[depth] <= byte);
                ids = &ids[from..to];
                end += 1;
            }
        }
        found
    }
}
