// SPDX-License-Identifier: EUPL-1.2
//! A vocabulary in flat tables: some 20 bytes a token, quick to build.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

/// Tokens by id and ids by token.
#[derive(Default)]
pub(in crate::text) struct Vocabulary {
    text: Vec<u8>,
    spans: Vec<Span>,
    ids: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

/// Where a token stands in the vocabulary's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::text) struct Span {
    pub start: u32,
    pub len: u32,
}

impl Span {
    /// That of an id without a token.
    pub const NONE: Span = Span { start: u32::MAX, len: 0 };
}

impl Vocabulary {
    /// The vocabulary whose token `i` is the part `spans[i]` of `text`. An empty token is in no text: its id has a
    /// piece, but is never found.
    ///
    /// # Errors
    /// The two ids of a token that is there twice.
    pub fn new(text: Vec<u8>, spans: Vec<Span>) -> Result<Self, (u32, u32)> {
        let (mut ids, hasher) = (HashTable::<u32>::with_capacity(spans.len()), DefaultHashBuilder::default());
        for (id, span) in (0u32..).zip(&spans) {
            let token = token(&text, *span);
            if token.is_empty() {
                continue;
            }
            let same = |other: &u32| at(&text, &spans, *other) == token;
            let rehash = |other: &u32| hasher.hash_one(at(&text, &spans, *other));
            match ids.entry(hasher.hash_one(token), same, rehash) {
                hashbrown::hash_table::Entry::Occupied(twin) => return Err((*twin.get(), id)),
                hashbrown::hash_table::Entry::Vacant(place) => place.insert(id),
            };
        }
        Ok(Vocabulary { text, spans, ids, hasher })
    }

    /// Ids up to the highest.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Different tokens.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// The token of an id; empty if it has none.
    pub fn token(&self, id: u32) -> &[u8] {
        at(&self.text, &self.spans, id)
    }

    /// The token of an id as text.
    pub fn piece(&self, id: u32) -> Option<&str> {
        self.spans.get(id as usize).filter(|span| **span != Span::NONE)?;
        std::str::from_utf8(self.token(id)).ok()
    }

    /// The id of a token.
    pub fn id(&self, token: &[u8]) -> Option<u32> {
        let same = |id: &u32| self.token(*id) == token;
        self.ids.find(self.hasher.hash_one(token), same).copied()
    }
}

fn at<'a>(text: &'a [u8], spans: &[Span], id: u32) -> &'a [u8] {
    spans.get(id as usize).map_or(&[], |span| token(text, *span))
}

fn token(text: &[u8], span: Span) -> &[u8] {
    let start = span.start as usize;
    text.get(start..start + span.len as usize).unwrap_or_default()
}
