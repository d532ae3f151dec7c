// SPDX-License-Identifier: EUPL-1.2
//! Text to ids and back, with the tables of a GGUF file.

use std::fmt;

use super::super::bpe::Vocabulary;
use super::super::codec::{Codec, Refusal, SpecialContent, byte_of_piece};
use super::super::tokenizer::SpecialText;
use super::byte_level::ByteLevel;
use super::kinds::{Kind, Kinds};
use super::sentencepiece::SentencePiece;
use super::specials::{Part, Specials};

/// Texts for which another thread is worth its start.
const TEXTS_A_THREAD: usize = 32;

/// The tokeniser of a GGUF file.
pub(super) struct GgufCodec {
    vocabulary: Vocabulary,
    kinds: Kinds,
    specials: Specials,
    algorithm: Algorithm,
    leading_space: LeadingSpace,
    byte_fallback: bool,
}

/// How text between special tokens becomes ids.
pub(super) enum Algorithm {
    ByteLevel(ByteLevel),
    SentencePiece(SentencePiece),
}

/// What is done about a space before the first word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeadingSpace {
    /// One is put before SentencePiece's texts, and taken away again.
    Added,
    AsGiven,
}

impl GgufCodec {
    pub fn new(vocabulary: Vocabulary, kinds: Kinds, algorithm: Algorithm, leading_space: LeadingSpace) -> Self {
        let specials = Specials::new(&vocabulary, &kinds);
        let byte_fallback = matches!(algorithm, Algorithm::SentencePiece(_))
            && (0..vocabulary.len() as u32).any(|id| kinds.of(id) == Kind::Byte);
        GgufCodec { vocabulary, kinds, specials, algorithm, leading_space, byte_fallback }
    }

    fn encode_part(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), Refusal> {
        match &self.algorithm {
            Algorithm::ByteLevel(model) => {
                model.encode(text, &self.vocabulary, ids);
                Ok(())
            }
            Algorithm::SentencePiece(model) => {
                let prefix = if self.leading_space == LeadingSpace::Added { "▁" } else { "" };
                let text = format!("{prefix}{}", text.replace(' ', "▁"));
                let missing = |character: char| {
                    format!(
                        "expected a vocabulary that spells every text, found no token for {character:?} or its bytes"
                    )
                };
                model.encode(&text, &self.vocabulary, ids).map_err(missing)
            }
        }
    }

    /// The byte of a byte token.
    fn byte(&self, id: u32) -> Option<u8> {
        (self.kinds.of(id) == Kind::Byte).then(|| byte_of_piece(self.vocabulary.piece(id)?))?
    }

    /// The text of byte-level tokens, whose characters may be parted among them.
    fn decode_byte_level(&self, ids: impl Iterator<Item = u32>) -> String {
        let mut text = Vec::new();
        for id in ids {
            let piece = self.vocabulary.piece(id).unwrap_or_default();
            match self.kinds.of(id) {
                Kind::Normal => text.extend(ByteLevel::bytes(piece)),
                Kind::Byte => text.extend(self.byte(id)),
                Kind::Unused => {}
                Kind::Unknown | Kind::Control | Kind::UserDefined => text.extend_from_slice(piece.as_bytes()),
            }
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The text of SentencePiece's tokens. A run of byte tokens that is no text is a U+FFFD for each byte.
    fn decode_sentencepiece(&self, ids: impl Iterator<Item = u32>) -> String {
        let (mut text, mut run) = (String::new(), Vec::new());
        for id in ids {
            let piece = self.vocabulary.piece(id).unwrap_or_default();
            match (self.byte(id), self.kinds.of(id)) {
                (Some(byte), _) => run.push(byte),
                (None, kind) => {
                    push_run(&mut text, &mut run);
                    match kind {
                        Kind::Normal => text.push_str(&piece.replace('▁', " ")),
                        Kind::Unused => {}
                        _ => text.push_str(piece),
                    }
                }
            }
        }
        push_run(&mut text, &mut run);
        text
    }
}

fn push_run(text: &mut String, run: &mut Vec<u8>) {
    match std::str::from_utf8(run) {
        Ok(whole) => text.push_str(whole),
        Err(_) => text.extend(run.iter().map(|_| char::REPLACEMENT_CHARACTER)),
    }
    run.clear();
}

impl Codec for GgufCodec {
    fn encode(&self, text: &str, content: SpecialContent) -> Result<Vec<u32>, Refusal> {
        let mut ids = Vec::new();
        for part in self.specials.split(text, content, &self.kinds, &self.vocabulary) {
            match part {
                Part::Token(id) => ids.push(id),
                Part::Text(text) => self.encode_part(text, &mut ids)?,
            }
        }
        Ok(ids)
    }

    fn encode_batch(&self, texts: &[&str], content: SpecialContent) -> Result<Vec<Vec<u32>>, Refusal> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = cores.min(texts.len() / TEXTS_A_THREAD).max(1);
        let encode = |texts: &[&str]| texts.iter().map(|text| self.encode(text, content)).collect::<Vec<_>>();
        std::thread::scope(|scope| {
            let mut chunks = texts.chunks(texts.len().div_ceil(threads).max(1));
            let first = chunks.next().unwrap_or_default();
            let others: Vec<_> = chunks.map(|texts| scope.spawn(move || encode(texts))).collect();
            let mut ids = encode(first);
            for other in others {
                ids.extend(other.join().map_err(|_| "a thread that encoded texts has stopped".to_owned())?);
            }
            ids.into_iter().collect()
        })
    }

    fn decode(&self, ids: &[u32], special: SpecialText) -> Result<String, Refusal> {
        let shown = |id: &u32| special == SpecialText::Keep || !self.kinds.of(*id).is_special();
        let ids = ids.iter().copied().filter(shown);
        let mut text = match &self.algorithm {
            Algorithm::ByteLevel(_) => self.decode_byte_level(ids),
            Algorithm::SentencePiece(_) => self.decode_sentencepiece(ids),
        };
        if self.leading_space == LeadingSpace::Added && text.starts_with(' ') {
            text.remove(0);
        }
        Ok(text)
    }

    fn piece(&self, id: u32) -> Option<String> {
        self.vocabulary.piece(id).map(str::to_owned)
    }

    fn id(&self, piece: &str) -> Option<u32> {
        self.vocabulary.id(piece.as_bytes())
    }

    fn vocab_size(&self) -> usize {
        self.vocabulary.len()
    }

    fn is_special(&self, id: u32) -> bool {
        self.kinds.of(id).is_special()
    }

    fn has_byte_fallback(&self) -> bool {
        self.byte_fallback
    }

    fn added_id(&self, content: &str) -> Option<u32> {
        self.id(content).filter(|id| self.kinds.of(*id).is_whole())
    }
}

impl fmt::Debug for GgufCodec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GgufCodec({} tokens)", self.vocabulary.len())
    }
}
