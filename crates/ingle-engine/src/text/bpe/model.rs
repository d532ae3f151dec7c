// SPDX-License-Identifier: EUPL-1.2
//! The BPE model of `tokenizer.json`: what the `tokenizers` crate calls `BPE`, in smaller tables.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::{Model, Token};

use super::{Merges, Symbol, Vocabulary, characters, merge};

/// Byte-pair encoding as `tokenizer.json` describes it.
pub(in crate::text) struct Bpe {
    pub(super) vocabulary: Vocabulary,
    pub(super) merges: Merges,
    pub(super) unk_token: Option<String>,
    /// Whether unknown characters in a row become one unknown token.
    pub(super) fuse_unk: bool,
    /// Whether unknown characters become byte tokens, if all of their bytes have one.
    pub(super) byte_fallback: bool,
    /// Whether a word that is a token is not merged.
    pub(super) ignore_merges: bool,
}

/// A word in tokens that are not merged yet: their texts one after another.
#[derive(Default)]
struct Spelled {
    text: String,
    symbols: Vec<Symbol>,
}

impl Spelled {
    fn push(&mut self, token: &str) {
        self.symbols.push(Symbol { start: self.text.len(), len: token.len() });
        self.text.push_str(token);
    }
}

/// Whether characters that the vocabulary lacks wait to become an unknown token.
#[derive(Clone, Copy, PartialEq)]
enum Unknown {
    None,
    Waiting,
}

impl Bpe {
    /// The characters of a word that are tokens, and what stands for the others.
    fn spell(&self, word: &str) -> tokenizers::Result<Spelled> {
        let mut spelled = Spelled::default();
        let mut unknown = Unknown::None;
        for symbol in characters(word) {
            let character = &word[symbol.range()];
            if self.token_to_id(character).is_some() {
                self.push_unknown(std::mem::replace(&mut unknown, Unknown::None), &mut spelled)?;
                spelled.push(character);
            } else if let Some(bytes) = self.byte_tokens(character) {
                bytes.iter().for_each(|token| spelled.push(token));
            } else {
                if !self.fuse_unk {
                    self.push_unknown(unknown, &mut spelled)?;
                }
                unknown = Unknown::Waiting;
            }
        }
        self.push_unknown(unknown, &mut spelled)?;
        Ok(spelled)
    }

    fn byte_tokens(&self, character: &str) -> Option<Vec<String>> {
        if !self.byte_fallback {
            return None;
        }
        let token = |byte: u8| Some(format!("<0x{byte:02X}>")).filter(|token| self.token_to_id(token).is_some());
        character.bytes().map(token).collect()
    }

    fn push_unknown(&self, unknown: Unknown, spelled: &mut Spelled) -> tokenizers::Result<()> {
        let (Unknown::Waiting, Some(token)) = (unknown, &self.unk_token) else { return Ok(()) };
        if self.token_to_id(token).is_none() {
            return Err(format!("unk_token: expected a token of the vocabulary, found {token:?}").into());
        }
        spelled.push(token);
        Ok(())
    }

    /// The token of this text. Where in the word it stands, nobody asks.
    fn token(&self, text: &str) -> tokenizers::Result<Token> {
        let id = self.token_to_id(text).ok_or_else(|| format!("merges: expected to make tokens, found {text:?}"))?;
        Ok(Token::new(id, text.to_owned(), (0, 0)))
    }
}

impl Model for Bpe {
    type Trainer = TrainerWrapper;

    fn tokenize(&self, word: &str) -> tokenizers::Result<Vec<Token>> {
        if self.ignore_merges && self.token_to_id(word).is_some() {
            return Ok(vec![self.token(word)?]);
        }
        let Spelled { text, mut symbols } = self.spell(word)?;
        let bytes = text.as_bytes();
        merge(&mut symbols, |left, right| self.merges.priority(&bytes[left.range()], &bytes[right.range()]));
        symbols.iter().map(|symbol| self.token(&text[symbol.range()])).collect()
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.vocabulary.id(token.as_bytes())
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.vocabulary.piece(id).map(str::to_owned)
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        let piece = |id| Some((self.id_to_token(id)?, id));
        (0..self.vocabulary.len() as u32).filter_map(piece).collect()
    }

    fn get_vocab_size(&self) -> usize {
        self.vocabulary.tokens()
    }

    fn save(&self, _: &Path, _: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        Err("a tokeniser is read here, not written".into())
    }

    fn get_trainer(&self) -> TrainerWrapper {
        BpeTrainer::default().into()
    }
}

impl fmt::Debug for Bpe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bpe({} tokens)", self.vocabulary.tokens())
    }
}
