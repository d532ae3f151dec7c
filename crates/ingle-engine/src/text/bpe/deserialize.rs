// SPDX-License-Identifier: EUPL-1.2
//! Reading the model of `tokenizer.json` into flat tables, without a copy of each token in between.
//!
//! What is rare is refused here, and left to the `tokenizers` crate: drop-out, prefixes and suffixes of subwords, an
//! empty token, merges before the vocabulary, ids far apart.

use std::fmt;

use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{Bpe, Merges, Pair, Span, Vocabulary};

/// Ids may have gaps between them, but most are in use.
const MOST_IDS_A_TOKEN: usize = 4;

impl<'de> Deserialize<'de> for Bpe {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(BpeVisitor)
    }
}

struct BpeVisitor;

impl<'de> Visitor<'de> for BpeVisitor {
    type Value = Bpe;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a BPE model")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Bpe, A::Error> {
        let (mut vocabulary, mut merges) = (None, None);
        let mut bpe = Bpe {
            vocabulary: Vocabulary::default(),
            merges: Merges::default(),
            unk_token: None,
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: false,
        };
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "type" => match map.next_value::<String>()?.as_str() {
                    "BPE" => {}
                    _ => return Err(Error::custom("expected the type `BPE`")),
                },
                "unk_token" => bpe.unk_token = map.next_value()?,
                "fuse_unk" => bpe.fuse_unk = map.next_value::<Option<bool>>()?.unwrap_or_default(),
                "byte_fallback" => bpe.byte_fallback = map.next_value::<Option<bool>>()?.unwrap_or_default(),
                "ignore_merges" => bpe.ignore_merges = map.next_value::<Option<bool>>()?.unwrap_or_default(),
                "vocab" => {
                    let VocabularyText { text, spans } = map.next_value()?;
                    let twins = |(one, other)| Error::custom(format!("ids {one} and {other} are one token"));
                    vocabulary = Some(Vocabulary::new(text, spans).map_err(twins)?);
                }
                "merges" => match &vocabulary {
                    Some(vocabulary) => merges = Some(map.next_value_seed(MergesSeed { vocabulary })?),
                    None => return Err(Error::custom("expected the vocabulary before the merges")),
                },
                "dropout" => {
                    if map.next_value::<Option<f32>>()?.is_some_and(|dropout| dropout != 0.0) {
                        return Err(Error::custom("expected no drop-out"));
                    }
                }
                "continuing_subword_prefix" | "end_of_word_suffix" => {
                    if map.next_value::<Option<String>>()?.is_some_and(|affix| !affix.is_empty()) {
                        return Err(Error::custom("expected no prefix or suffix"));
                    }
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        bpe.vocabulary = vocabulary.ok_or_else(|| Error::missing_field("vocab"))?;
        bpe.merges = merges.ok_or_else(|| Error::missing_field("merges"))?;
        Ok(bpe)
    }
}

/// The tokens one after another, and where each stands.
struct VocabularyText {
    text: Vec<u8>,
    spans: Vec<Span>,
}

impl<'de> Deserialize<'de> for VocabularyText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(VocabularyVisitor)
    }
}

struct VocabularyVisitor;

impl<'de> Visitor<'de> for VocabularyVisitor {
    type Value = VocabularyText;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of tokens to ids")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<VocabularyText, A::Error> {
        let mut text = Vec::new();
        let mut entries: Vec<(u32, Span)> = Vec::new();
        while let Some(span) = map.next_key_seed(AppendSeed { text: &mut text })? {
            entries.push((map.next_value()?, span));
        }
        let ids = entries.iter().map(|(id, _)| *id as usize + 1).max().unwrap_or_default();
        if ids > MOST_IDS_A_TOKEN * entries.len() {
            return Err(Error::custom("ids are too far apart"));
        }
        let mut spans = vec![Span::NONE; ids];
        for (id, span) in entries {
            if std::mem::replace(&mut spans[id as usize], span) != Span::NONE {
                return Err(Error::custom(format!("id {id} has two tokens")));
            }
        }
        Ok(VocabularyText { text, spans })
    }
}

/// Appends a token to the text of all.
struct AppendSeed<'a> {
    text: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for AppendSeed<'_> {
    type Value = Span;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Span, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for AppendSeed<'_> {
    type Value = Span;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token")
    }

    fn visit_str<E: Error>(self, token: &str) -> Result<Span, E> {
        if token.is_empty() {
            return Err(E::custom("expected no empty token"));
        }
        let place = || Some((u32::try_from(self.text.len()).ok()?, u32::try_from(token.len()).ok()?));
        let (start, len) = place().ok_or_else(|| E::custom("the vocabulary is longer than 4 GiB"))?;
        self.text.extend_from_slice(token.as_bytes());
        Ok(Span { start, len })
    }
}

struct MergesSeed<'a> {
    vocabulary: &'a Vocabulary,
}

impl<'de> DeserializeSeed<'de> for MergesSeed<'_> {
    type Value = Merges;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Merges, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for MergesSeed<'_> {
    type Value = Merges;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of merges")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Merges, A::Error> {
        let (mut text, mut pairs) = (Vec::new(), Vec::new());
        let mut made = Made { vocabulary: self.vocabulary, next: 0 };
        while let Some(pair) = list.next_element_seed(PairSeed { text: &mut text })? {
            if !made.has(pair.of(&text)) {
                return Err(Error::custom("a merge makes what is no token"));
            }
            pairs.push(pair);
        }
        let count = pairs.len();
        let merges = Merges::new(text, pairs);
        if merges.distinct() < count {
            return Err(Error::custom("a merge is there twice"));
        }
        Ok(merges)
    }
}

/// Checks that merges make tokens. They come in the order of the tokens that they make: a guess is mostly right, and
/// much faster than the table.
struct Made<'a> {
    vocabulary: &'a Vocabulary,
    next: u32,
}

impl Made<'_> {
    fn has(&mut self, (left, right): (&[u8], &[u8])) -> bool {
        let is = |id: &u32| {
            let token = self.vocabulary.token(*id);
            token.len() == left.len() + right.len() && token.starts_with(left) && token.ends_with(right)
        };
        let guess = [self.next, self.next.saturating_sub(1)].into_iter().find(is);
        let found = guess.or_else(|| self.vocabulary.id(&[left, right].concat()));
        self.next = found.map_or(self.next, |id| id + 1);
        found.is_some()
    }
}

/// `["a", "b"]`, or `"a b"` as older files have it.
struct PairSeed<'a> {
    text: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for PairSeed<'_> {
    type Value = Pair;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Pair, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for PairSeed<'_> {
    type Value = Pair;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("two tokens")
    }

    fn visit_str<E: Error>(self, merge: &str) -> Result<Pair, E> {
        let Span { start, len } = AppendSeed { text: self.text }.visit_str(merge)?;
        match merge.split_once(' ') {
            Some((left, right)) if !left.is_empty() && !right.is_empty() && !right.contains(' ') => {
                let left = left.len() as u32;
                Ok(Pair { start, left, right: len - left - 1 })
            }
            _ => Err(E::custom("expected two tokens and a space between them")),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<Pair, A::Error> {
        let two = || Error::invalid_length(0, &"two tokens");
        let left = pair.next_element_seed(AppendSeed { text: self.text })?.ok_or_else(two)?;
        self.text.push(b' ');
        let right = pair.next_element_seed(AppendSeed { text: self.text })?.ok_or_else(two)?;
        match pair.next_element::<IgnoredAny>()? {
            None => Ok(Pair { start: left.start, left: left.len, right: right.len }),
            Some(_) => Err(two()),
        }
    }
}
