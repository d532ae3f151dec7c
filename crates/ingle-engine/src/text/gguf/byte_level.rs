// SPDX-License-Identifier: EUPL-1.2
//! Byte-level BPE: words of bytes, each written as a letter, merged by rank.

use ingle_nn::gguf::Array;

use super::super::bpe::{Merges, Pair, Vocabulary, characters, merge};
use super::pre_tokenizer::PreTokenizer;

/// Byte-level BPE (Radford et al. 2019).
pub(super) struct ByteLevel {
    pre_tokenizer: PreTokenizer,
    merges: Merges,
}

impl ByteLevel {
    /// `merges` are pairs of tokens with a space between them, the first one first. `None` if they are no texts, or of
    /// more than 4 GiB.
    pub fn new(merges: &Array, pre_tokenizer: PreTokenizer) -> Option<Self> {
        // A copy, so that the file can be let go once the weights are where they belong.
        let text = merges.content().to_vec();
        let mut pairs = Vec::with_capacity(merges.len());
        for range in merges.texts()?.ranges() {
            let start = u32::try_from(range.start).ok()?;
            // One that is no pair keeps its rank.
            pairs.push(pair(&text[range], start).unwrap_or_default());
        }
        Some(ByteLevel { pre_tokenizer, merges: Merges::new(text, pairs) })
    }

    /// Appends the ids of a text.
    pub fn encode(&self, text: &str, vocabulary: &Vocabulary, ids: &mut Vec<u32>) {
        let mut symbols = Vec::new();
        for word in self.pre_tokenizer.split(text) {
            let word = spell(word.as_bytes());
            let bytes = word.as_bytes();
            if self.pre_tokenizer.keeps_words
                && let Some(id) = vocabulary.id(bytes)
            {
                ids.push(id);
                continue;
            }
            symbols.clear();
            symbols.extend(characters(&word));
            merge(&mut symbols, |left, right| self.merges.priority(&bytes[left.range()], &bytes[right.range()]));
            for symbol in &symbols {
                let token = &bytes[symbol.range()];
                match vocabulary.id(token) {
                    Some(id) => ids.push(id),
                    // What is no token is left to tokens of one byte, and then left out.
                    None => ids.extend(token.iter().filter_map(|byte| vocabulary.id(&[*byte]))),
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

/// Where the two parts of a merge stand that begins at byte `start` of all.
fn pair(merge: &[u8], start: u32) -> Option<Pair> {
    // A token may begin with a space, but the one after that parts the two.
    let left = 1 + merge.get(1..)?.iter().position(|byte| *byte == b' ')?;
    let right = merge.len() - left - 1;
    Some(Pair { start, left: left.try_into().ok()?, right: right.try_into().ok()? })
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
        let parts = |merge: &'static str| {
            let (left, right) = pair(merge.as_bytes(), 0)?.of(merge.as_bytes());
            Some([left, right].map(|part| std::str::from_utf8(part).unwrap()))
        };
        assert_eq!(parts("a b"), Some(["a", "b"]));
        assert_eq!(parts("  b"), Some([" ", "b"]));
        assert_eq!(parts("é c d"), Some(["é", "c d"]));
        assert_eq!((parts(""), parts(" "), parts("ab")), (None, None, None));
    }
}
