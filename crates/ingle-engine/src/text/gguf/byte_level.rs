// SPDX-License-Identifier: EUPL-1.2
//! Byte-level BPE: words of bytes, each written as a letter, merged by rank.

use std::collections::HashMap;

use super::super::bpe::{Merge, Merges, Symbol, Vocabulary, merge};
use super::pre_tokenizer::PreTokenizer;

/// The id of a letter that is no token.
const NONE: u32 = u32::MAX;

/// Byte-level BPE (Radford et al. 2019).
pub(super) struct ByteLevel {
    pre_tokenizer: PreTokenizer,
    merges: Merges,
    /// The id of each byte's letter.
    letters: [u32; 256],
    /// Tokens in the vocabulary. Ids from here on are parts of merges that it lacks.
    tokens: u32,
}

impl ByteLevel {
    /// `merges` are pairs of tokens with a space between them, the first one first.
    pub fn new<'a>(
        vocabulary: &Vocabulary,
        merges: impl ExactSizeIterator<Item = &'a str>,
        pre_tokenizer: PreTokenizer,
    ) -> Self {
        let mut parts = Parts { vocabulary, beyond: HashMap::new() };
        let mut table = Merges::with_capacity(merges.len());
        let mut both = String::new();
        for (rank, text) in (0u32..).zip(merges) {
            // A token may begin with a space, but the one after that parts the two.
            let Some((left, right)) = split_pair(text) else { continue };
            both.clear();
            both.push_str(left);
            both.push_str(right);
            let pair = (parts.id(left), parts.id(right));
            table.insert(Merge { pair, rank, joined: parts.id(&both) });
        }
        let letters = std::array::from_fn(|byte| parts.find(LETTERS[byte].encode_utf8(&mut [0; 2])).unwrap_or(NONE));
        ByteLevel { pre_tokenizer, merges: table, letters, tokens: vocabulary.len() as u32 }
    }

    /// Appends the ids of a text.
    pub fn encode(&self, text: &str, vocabulary: &Vocabulary, ids: &mut Vec<u32>) {
        let mut symbols = Vec::new();
        for word in self.pre_tokenizer.split(text) {
            if self.pre_tokenizer.keeps_words
                && let Some(id) = vocabulary.id(spell(word.as_bytes()).as_bytes())
            {
                ids.push(id);
                continue;
            }
            symbols.clear();
            let letters = word.bytes().enumerate();
            symbols.extend(letters.map(|(start, byte)| Symbol { id: self.letters[usize::from(byte)], start, len: 1 }));
            merge(&mut symbols, |left, right| self.merges.join(left, right));
            for &Symbol { id, start, len } in &symbols {
                if id < self.tokens {
                    ids.push(id);
                } else {
                    // What is no token is left to tokens of one byte, and then left out.
                    let spelled = spell(&word.as_bytes()[start..start + len]);
                    ids.extend(spelled.bytes().filter_map(|byte| vocabulary.id(&[byte])));
                }
            }
        }
    }

    /// The bytes of a token's letters; the token itself if it has others.
    pub fn bytes(piece: &str) -> Vec<u8> {
        let bytes: Option<Vec<u8>> = piece.chars().map(byte_of_letter).collect();
        bytes.unwrap_or_else(|| piece.as_bytes().to_vec())
    }
}

/// Ids of tokens, and made-up ones of what merges name and the vocabulary lacks.
struct Parts<'a> {
    vocabulary: &'a Vocabulary,
    beyond: HashMap<String, u32>,
}

impl Parts<'_> {
    fn find(&self, part: &str) -> Option<u32> {
        self.vocabulary.id(part.as_bytes()).or_else(|| self.beyond.get(part).copied())
    }

    fn id(&mut self, part: &str) -> u32 {
        self.find(part).unwrap_or_else(|| {
            let id = (self.vocabulary.len() + self.beyond.len()) as u32;
            self.beyond.insert(part.to_owned(), id);
            id
        })
    }
}

fn split_pair(merge: &str) -> Option<(&str, &str)> {
    let first = merge.chars().next()?.len_utf8();
    let space = first + merge[first..].find(' ')?;
    Some((&merge[..space], &merge[space + 1..]))
}

/// The letter of each byte: itself if it prints and is no white space, or one from U+0100 on.
const LETTERS: [char; 256] = letters();

/// Letters from U+0100 on.
const STRANGE: usize = 68;

/// The byte of each letter from U+0100 on.
const STRANGE_BYTES: [u8; STRANGE] = strange_bytes();

const fn is_plain(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..)
}

const fn strange_bytes() -> [u8; STRANGE] {
    let (mut bytes, mut count, mut byte) = ([0; STRANGE], 0, 0);
    while byte < 256 {
        if !is_plain(byte as u8) {
            bytes[count] = byte as u8;
            count += 1;
        }
        byte += 1;
    }
    bytes
}

const fn letters() -> [char; 256] {
    let (mut letters, mut byte) = ([' '; 256], 0);
    while byte < 256 {
        letters[byte] = byte as u8 as char;
        byte += 1;
    }
    let mut strange = 0;
    while strange < STRANGE {
        // Every number up to U+0143 is a letter.
        if let Some(letter) = char::from_u32(0x100 + strange as u32) {
            letters[STRANGE_BYTES[strange] as usize] = letter;
        }
        strange += 1;
    }
    letters
}

fn byte_of_letter(letter: char) -> Option<u8> {
    match u8::try_from(letter) {
        Ok(byte) => is_plain(byte).then_some(byte),
        Err(_) => STRANGE_BYTES.get((letter as usize).checked_sub(0x100)?).copied(),
    }
}

fn spell(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| LETTERS[usize::from(*byte)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_and_bytes_good() {
        assert_eq!(spell(b" a\n\x7f\xa0\xad\xff"), "ĠaĊġłŃÿ");
        for byte in 0..=u8::MAX {
            assert_eq!(byte_of_letter(LETTERS[usize::from(byte)]), Some(byte));
        }
        assert_eq!(byte_of_letter('\u{144}'), None);
        assert_eq!(byte_of_letter('\u{a0}'), None);
    }

    #[test]
    fn pairs_good() {
        assert_eq!(split_pair("a b"), Some(("a", "b")));
        assert_eq!(split_pair("  b"), Some((" ", "b")));
        assert_eq!(split_pair("é c d"), Some(("é", "c d")));
        assert_eq!((split_pair(""), split_pair(" "), split_pair("ab")), (None, None, None));
    }
}
