// SPDX-License-Identifier: EUPL-1.2
//! What turns text into ids and back: one for `tokenizer.json`, one for GGUF.

use std::fmt::Debug;

use super::tokenizer::SpecialText;

/// What went wrong, in one line; the tokeniser adds the file.
pub(super) type Refusal = String;

/// What becomes of the content of a special token within a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SpecialContent {
    /// It stands for the token.
    Token,
    /// It is text like any other.
    Text,
}

/// Text to token ids and back, without what belongs around a text.
pub(super) trait Codec: Debug + Send + Sync {
    fn encode(&self, text: &str, content: SpecialContent) -> Result<Vec<u32>, Refusal>;

    /// The ids of many texts, in parallel.
    fn encode_batch(&self, texts: &[&str], content: SpecialContent) -> Result<Vec<Vec<u32>>, Refusal>;

    fn decode(&self, ids: &[u32], special: SpecialText) -> Result<String, Refusal>;

    /// A token as the vocabulary spells it.
    fn piece(&self, id: u32) -> Option<String>;

    /// The id of a token as the vocabulary spells it.
    fn id(&self, piece: &str) -> Option<u32>;

    /// How many tokens there are, special ones included.
    fn vocab_size(&self) -> usize;

    fn is_special(&self, id: u32) -> bool;

    /// Whether bytes that no other token spells have tokens such as `<0x0A>`.
    fn has_byte_fallback(&self) -> bool;

    /// The id of a special or added token of this content.
    fn added_id(&self, content: &str) -> Option<u32>;
}

/// The byte that a token such as `<0x0A>` is named after.
pub(super) fn byte_of_piece(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>').filter(|digits| digits.len() == 2)?;
    u8::from_str_radix(digits, 16).ok()
}
