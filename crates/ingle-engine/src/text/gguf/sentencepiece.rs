// SPDX-License-Identifier: EUPL-1.2
//! SentencePiece's BPE: a whole text of characters, merged by the scores of what they make.

use super::super::bpe::{Symbol, Vocabulary, characters, merge};

/// BPE by scores (Kudo and Richardson 2018), with bytes to fall back on.
pub(super) struct SentencePiece {
    scores: Vec<f32>,
}

impl SentencePiece {
    pub fn new(scores: Vec<f32>) -> Self {
        SentencePiece { scores }
    }

    /// Appends the ids of a text, its spaces written as `▁`.
    ///
    /// # Errors
    /// The character that neither tokens nor byte tokens spell.
    pub fn encode(&self, text: &str, vocabulary: &Vocabulary, ids: &mut Vec<u32>) -> Result<(), char> {
        let mut symbols: Vec<Symbol> = characters(text).collect();
        let bytes = text.as_bytes();
        merge(&mut symbols, |left, right| {
            let id = vocabulary.id(&bytes[left.start..right.range().end])?;
            Some(ordinal(self.scores.get(id as usize).copied().unwrap_or_default()))
        });
        for symbol in symbols {
            let bytes = &bytes[symbol.range()];
            match vocabulary.id(bytes) {
                Some(id) => ids.push(id),
                None => {
                    let tokens: Option<Vec<u32>> = bytes.iter().map(|byte| byte_token(*byte, vocabulary)).collect();
                    let missing = || text[symbol.start..].chars().next().unwrap_or_default();
                    ids.extend(tokens.ok_or_else(missing)?);
                }
            }
        }
        Ok(())
    }
}

fn byte_token(byte: u8, vocabulary: &Vocabulary) -> Option<u32> {
    vocabulary.id(format!("<0x{byte:02X}>").as_bytes()).or_else(|| vocabulary.id(&[byte]))
}

/// A number that is higher where the score is.
fn ordinal(score: f32) -> u32 {
    // The two zeros are equal.
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinals_are_in_the_order_of_scores_good() {
        let scores = [f32::NEG_INFINITY, -1e9, -2.0, -1.5, -1e-30, 0.0, 1e-30, 3.0, f32::INFINITY];
        assert!(scores.map(ordinal).is_sorted_by(|a, b| a < b));
        assert_eq!(ordinal(-0.0), ordinal(0.0));
    }
}
