// SPDX-License-Identifier: EUPL-1.2
//! The tokeniser: text to token ids and back.

use std::sync::Arc;

use ingle_nn::ModelFiles;
use ingle_nn::gguf::Gguf;

use super::codec::{Codec, Refusal, SpecialContent, byte_of_piece};
use super::special_tokens::SpecialTokens;
use super::{gguf, json};
use crate::{Error, Result};

const FILE: &str = "tokenizer.json";

/// Special tokens that end a speaker's turn in the chat formats of the models Ingle knows.
const TURN_ENDERS: [&str; 6] =
    ["<end_of_turn>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<｜end▁of▁sentence｜>"];

/// Whether [`Tokenizer::encode`] adds the tokens that the model expects around a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// Add what the model's files ask for: most often a beginning-of-sequence token. None is added to a text that
    /// begins with it already.
    Add,
    /// The text alone: for what a chat template rendered, and for parts of a text.
    Omit,
    /// The text alone, and what looks like a special token in it is text as well: for the words of somebody who may
    /// not write such tokens.
    Literal,
}

/// What becomes of special tokens in [`Tokenizer::decode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialText {
    /// They are written out.
    Keep,
    /// They are left out.
    Skip,
}

/// A model's tokeniser. Clones share it.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    codec: Box<dyn Codec>,
    /// For messages.
    file: String,
    frame: Frame,
    named: Vec<(String, String)>,
    bos: Option<u32>,
    eos: Vec<u32>,
    end_of_turn: Vec<u32>,
}

impl Tokenizer {
    /// Reads `tokenizer.json`, and what the files beside it say about special tokens: `tokenizer_config.json`,
    /// `special_tokens_map.json`, `generation_config.json` and `config.json`, each of which may be missing. Of a
    /// GGUF file, as [`Tokenizer::from_gguf`].
    ///
    /// As in transformers, tokens that only `tokenizer_config.json` knows are added, and its `add_bos_token` and
    /// `add_eos_token` overrule the post-processor of `tokenizer.json`. Its settings for truncation and padding are
    /// ignored: nothing is ever cut from a prompt.
    ///
    /// # Errors
    /// [`Error::Model`] if `tokenizer.json` is missing or another file is not JSON; [`Error::Tokenizer`] if
    /// `tokenizer.json` is malformed or a setting has the wrong type.
    pub fn from_files(files: &ModelFiles) -> Result<Self> {
        if let Some(gguf) = files.gguf()? {
            return Tokenizer::from_gguf(&gguf);
        }
        let hint = "copy it from the model's repository (from a tokenizer.model, transformers can make one)";
        let bytes = files.read(FILE, hint)?;
        let file = files.locate(FILE);
        let special = SpecialTokens::from_files(files)?;
        let refused = |message| Error::Tokenizer { file: file.clone(), message };
        let (codec, mut frame) = json::read(&bytes, &special).map_err(refused)?;

        let id = |name| special.content(name).and_then(|content| codec.id(content));
        let bos = id("bos_token").or(frame.before.first().copied()).or(special.bos_id);
        let eos = id("eos_token");
        frame.override_bos(special.add_bos, bos);
        frame.override_eos(special.add_eos, eos);
        let eos = special.eos_ids.iter().copied().chain(eos).collect();
        let named = special.named.into_iter().map(|(name, token)| (name, token.content)).collect();
        Ok(Tokenizer::new(codec, Surroundings { file, frame, named, bos, eos }))
    }

    /// The tokeniser within a GGUF file: its vocabulary, and how it splits and merges a text. Ids are those of
    /// llama.cpp.
    ///
    /// # Errors
    /// [`Error::Model`] if metadata are missing or have another type; [`Error::Tokenizer`] for a kind of tokeniser
    /// or pre-tokeniser that is not known.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let (codec, surroundings) = gguf::read(gguf)?;
        Ok(Tokenizer::new(codec, surroundings))
    }

    fn new(codec: Box<dyn Codec>, surroundings: Surroundings) -> Self {
        let Surroundings { file, frame, named, bos, eos } = surroundings;
        tracing::debug!(file, ?bos, ?frame, "tokeniser loaded");
        let eos = distinct(eos);
        let turn_enders = TURN_ENDERS.iter().filter_map(|content| codec.added_id(content));
        let end_of_turn = distinct(eos.iter().copied().chain(turn_enders));
        Tokenizer { inner: Arc::new(Inner { codec, file, frame, named, bos, eos, end_of_turn }) }
    }

    /// The ids of a text. The content of a special token stands for that token, as in transformers.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the vocabulary cannot spell the text, or if it has more than half a million
    /// white-space characters in a row.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>> {
        let ids = self.inner.codec.encode(text, special.content()).map_err(|message| self.refused(message))?;
        Ok(self.framed(ids, special))
    }

    /// The ids of many texts, in parallel.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`], of any text that fails.
    pub fn encode_batch<S: AsRef<str>>(&self, texts: &[S], special: Special) -> Result<Vec<Vec<u32>>> {
        let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
        let ids = self.inner.codec.encode_batch(&texts, special.content()).map_err(|message| self.refused(message))?;
        Ok(ids.into_iter().map(|ids| self.framed(ids, special)).collect())
    }

    /// The text of ids. Ids beyond the vocabulary have none; bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the decoder of `tokenizer.json` fails.
    pub fn decode(&self, ids: &[u32], special: SpecialText) -> Result<String> {
        self.inner.codec.decode(ids, special).map_err(|message| self.refused(message))
    }

    /// A token as the vocabulary spells it: `Ġthe` and `▁the` are " the" to byte-level and SentencePiece
    /// tokenisers.
    pub fn piece(&self, id: u32) -> Option<String> {
        self.inner.codec.piece(id)
    }

    /// The id of a token as the vocabulary spells it.
    pub fn id(&self, piece: &str) -> Option<u32> {
        self.inner.codec.id(piece)
    }

    /// How many tokens there are, special tokens included. A model may have more rows of logits: padding.
    pub fn vocab_size(&self) -> usize {
        self.inner.codec.vocab_size()
    }

    /// The beginning-of-sequence token.
    pub fn bos(&self) -> Option<u32> {
        self.inner.bos
    }

    /// The tokens that end a text: those of `generation_config.json` (else of `config.json`) and the tokeniser's
    /// own.
    pub fn eos_tokens(&self) -> &[u32] {
        &self.inner.eos
    }

    /// The tokens that end a speaker's turn in a chat: [`Tokenizer::eos_tokens`] and the turn enders of the common
    /// chat formats, such as `<|im_end|>`, where the vocabulary has them as special tokens.
    pub fn end_of_turn_tokens(&self) -> &[u32] {
        &self.inner.end_of_turn
    }

    /// Whether it is a special token: one that is not part of an answer's text.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.codec.is_special(id)
    }

    /// Whether bytes that no other token spells have tokens such as `<0x0A>`, as in SentencePiece.
    pub(super) fn has_byte_fallback(&self) -> bool {
        self.inner.codec.has_byte_fallback()
    }

    /// The named special tokens, such as `bos_token`, and their contents: variables of chat templates.
    pub(super) fn named_tokens(&self) -> &[(String, String)] {
        &self.inner.named
    }

    /// The byte that a SentencePiece byte token such as `<0x0A>` stands for.
    pub(super) fn fallback_byte(&self, id: u32) -> Option<u8> {
        if !self.has_byte_fallback() {
            return None;
        }
        byte_of_piece(&self.piece(id)?)
    }

    fn refused(&self, message: Refusal) -> Error {
        Error::Tokenizer { file: self.inner.file.clone(), message }
    }

    fn framed(&self, ids: Vec<u32>, special: Special) -> Vec<u32> {
        let Frame { before, after } = &self.inner.frame;
        match special {
            Special::Omit | Special::Literal => ids,
            Special::Add if !before.is_empty() && ids.starts_with(before) => [&ids, after.as_slice()].concat(),
            Special::Add => [before, ids.as_slice(), after].concat(),
        }
    }
}

impl Special {
    fn content(self) -> SpecialContent {
        match self {
            Special::Add | Special::Omit => SpecialContent::Token,
            Special::Literal => SpecialContent::Text,
        }
    }
}

/// What a model's files say besides what text becomes which ids.
pub(super) struct Surroundings {
    pub file: String,
    pub frame: Frame,
    pub named: Vec<(String, String)>,
    pub bos: Option<u32>,
    pub eos: Vec<u32>,
}

/// The tokens that belong around a text.
#[derive(Debug)]
pub(super) struct Frame {
    pub before: Vec<u32>,
    pub after: Vec<u32>,
}

impl Frame {
    /// Obeys `add_bos_token`.
    fn override_bos(&mut self, add: Option<bool>, bos: Option<u32>) {
        match (add, bos) {
            (Some(true), Some(bos)) if self.before.first() != Some(&bos) => self.before = vec![bos],
            (Some(false), _) => self.before.clear(),
            _ => {}
        }
    }

    /// Obeys `add_eos_token`.
    fn override_eos(&mut self, add: Option<bool>, eos: Option<u32>) {
        match (add, eos) {
            (Some(true), Some(eos)) if self.after.last() != Some(&eos) => self.after = vec![eos],
            (Some(false), _) => self.after.clear(),
            _ => {}
        }
    }
}

fn distinct(ids: impl IntoIterator<Item = u32>) -> Vec<u32> {
    let mut kept = Vec::new();
    for id in ids {
        if !kept.contains(&id) {
            kept.push(id);
        }
    }
    kept
}
