// SPDX-License-Identifier: EUPL-1.2
//! The BPE model of `tokenizer.json`: what the `tokenizers` crate calls `BPE`, in smaller tables.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::{Model, Token};

use super::{Merges, Symbol, Vocabulary, merge};

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

/// Characters that the vocabulary lacks, before they are a token.
#[derive(Default)]
struct Unknown {
    start: usize,
    len: usize,
}

impl Bpe {
    fn symbols(&self, word: &str) -> tokenizers::Result<Vec<Symbol>> {
        let mut symbols = Vec::with_capacity(word.len());
        let mut unknown: Option<Unknown> = None;
        for (start, character) in word.char_indices() {
            let len = character.len_utf8();
            let bytes = &word.as_bytes()[start..start + len];
            if let Some(id) = self.vocabulary.id(bytes) {
                symbols.extend(self.unknown_symbol(unknown.take())?);
                symbols.push(Symbol { id, start, len });
            } else if let Some(ids) = self.byte_tokens(bytes) {
                symbols.extend(ids.iter().enumerate().map(|(i, &id)| Symbol { id, start: start + i, len: 1 }));
            } else if self.unk_token.is_some() {
                unknown = match unknown {
                    Some(Unknown { start, len: before }) if self.fuse_unk => Some(Unknown { start, len: before + len }),
                    before => {
                        symbols.extend(self.unknown_symbol(before)?);
                        Some(Unknown { start, len })
                    }
                };
            }
        }
        symbols.extend(self.unknown_symbol(unknown)?);
        Ok(symbols)
    }

    fn byte_tokens(&self, bytes: &[u8]) -> Option<Vec<u32>> {
        if !self.byte_fallback {
            return None;
        }
        bytes.iter().map(|byte| self.vocabulary.id(format!("<0x{byte:02X}>").as_bytes())).collect()
    }

    fn unknown_symbol(&self, unknown: Option<Unknown>) -> tokenizers::Result<Option<Symbol>> {
        let (Some(Unknown { start, len }), Some(token)) = (unknown, &self.unk_token) else { return Ok(None) };
        let missing = || format!("unk_token: expected a token of the vocabulary, found {token:?}");
        let id = self.vocabulary.id(token.as_bytes()).ok_or_else(missing)?;
        Ok(Some(Symbol { id, start, len }))
    }

    fn token(&self, id: u32, offsets: (usize, usize)) -> Token {
        Token::new(id, self.id_to_token(id).unwrap_or_default(), offsets)
    }
}

impl Model for Bpe {
    type Trainer = TrainerWrapper;

    fn tokenize(&self, word: &str) -> tokenizers::Result<Vec<Token>> {
        if self.ignore_merges
            && let Some(id) = self.vocabulary.id(word.as_bytes())
        {
            return Ok(vec![self.token(id, (0, word.len()))]);
        }
        let mut symbols = self.symbols(word)?;
        merge(&mut symbols, |left, right| self.merges.join(left, right));
        Ok(symbols.iter().map(|symbol| self.token(symbol.id, (symbol.start, symbol.start + symbol.len))).collect())
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
