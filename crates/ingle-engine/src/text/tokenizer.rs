// SPDX-License-Identifier: EUPL-1.2
//! The tokeniser: text to token ids and back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ingle_nn::ModelFiles;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{AddedToken, Encoding, Token, Tokenizer as Backend};

use super::special_tokens::SpecialTokens;
use crate::{Error, Result};

const FILE: &str = "tokenizer.json";

/// Special tokens that end a speaker's turn in the chat formats of the models Ingle knows.
const TURN_ENDERS: [&str; 6] =
    ["<end_of_turn>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<｜end▁of▁sentence｜>"];

/// White-space characters in a row that a text may have. The regular expressions that split a text give up after a
/// million steps, one for each of them, and the rest of the text would get other ids.
const MOST_WHITE_SPACE: usize = 500_000;

/// Whether [`Tokenizer::encode`] adds the tokens that the model expects around a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// Add what the model's files ask for: most often a beginning-of-sequence token. None is added to a text that
    /// begins with it already.
    Add,
    /// The text alone: for what a chat template rendered, and for parts of a text.
    Omit,
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
    backend: Backend,
    /// For messages.
    file: String,
    frame: Frame,
    named: Vec<(String, String)>,
    bos: Option<u32>,
    eos: Vec<u32>,
    end_of_turn: Vec<u32>,
    byte_fallback: bool,
}

impl Tokenizer {
    /// Reads `tokenizer.json`, and what the files beside it say about special tokens: `tokenizer_config.json`,
    /// `special_tokens_map.json`, `generation_config.json` and `config.json`, each of which may be missing.
    ///
    /// As in transformers, tokens that only `tokenizer_config.json` knows are added, and its `add_bos_token` and
    /// `add_eos_token` overrule the post-processor of `tokenizer.json`. Its settings for truncation and padding are
    /// ignored: nothing is ever cut from a prompt.
    ///
    /// # Errors
    /// [`Error::Model`] if `tokenizer.json` is missing or another file is not JSON; [`Error::Tokenizer`] if
    /// `tokenizer.json` is malformed or a setting has the wrong type.
    pub fn from_files(files: &ModelFiles) -> Result<Self> {
        let hint = "copy it from the model's repository (from a tokenizer.model, transformers can make one)";
        let bytes = files.read(FILE, hint)?;
        let file = files.locate(FILE);
        let special = SpecialTokens::from_files(files)?;
        let (backend, mut frame) = guard(&file, || {
            let mut backend = Backend::from_bytes(&bytes)?;
            backend.with_truncation(None)?;
            backend.with_padding(None);
            add_tokens(&mut backend, &special)?;
            let frame = Frame::take(&mut backend)?;
            Ok((backend, frame))
        })?;

        let id = |name| special.content(name).and_then(|content| backend.token_to_id(content));
        let bos = id("bos_token").or(frame.before.first().copied()).or(special.bos_id);
        let eos = id("eos_token");
        frame.override_bos(special.add_bos, bos);
        frame.override_eos(special.add_eos, eos);
        tracing::debug!(file, ?bos, ?frame, "tokeniser loaded");

        let eos = distinct(special.eos_ids.iter().copied().chain(eos));
        let added = backend.get_added_vocabulary().get_vocab();
        let turn_enders = TURN_ENDERS.iter().filter_map(|content| added.get(*content).copied());
        let end_of_turn = distinct(eos.iter().copied().chain(turn_enders));
        let byte_fallback = backend.get_decoder().is_some_and(has_byte_fallback);
        let named = special.named.into_iter().map(|(name, token)| (name, token.content)).collect();
        let inner = Inner { backend, file, frame, named, bos, eos, end_of_turn, byte_fallback };
        Ok(Tokenizer { inner: Arc::new(inner) })
    }

    /// The ids of a text. The content of a special token stands for that token, as in transformers.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the vocabulary cannot spell the text, or if it has more than half a million
    /// white-space characters in a row.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>> {
        self.check(text)?;
        let encoding = guard(&self.inner.file, || self.inner.backend.encode_fast(text, false))?;
        Ok(self.framed(encoding.get_ids(), special))
    }

    /// The ids of many texts, in parallel.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`], of any text that fails.
    pub fn encode_batch<S: AsRef<str>>(&self, texts: &[S], special: Special) -> Result<Vec<Vec<u32>>> {
        let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
        texts.iter().try_for_each(|text| self.check(text))?;
        let encodings = guard(&self.inner.file, || self.inner.backend.encode_batch_fast(texts, false))?;
        Ok(encodings.iter().map(|encoding| self.framed(encoding.get_ids(), special)).collect())
    }

    /// The text of ids. Ids beyond the vocabulary have none; bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the decoder of `tokenizer.json` fails.
    pub fn decode(&self, ids: &[u32], special: SpecialText) -> Result<String> {
        guard(&self.inner.file, || self.inner.backend.decode(ids, special == SpecialText::Skip))
    }

    /// A token as the vocabulary spells it: `Ġthe` and `▁the` are " the" to byte-level and SentencePiece
    /// tokenisers.
    pub fn piece(&self, id: u32) -> Option<String> {
        self.inner.backend.id_to_token(id)
    }

    /// The id of a token as the vocabulary spells it.
    pub fn id(&self, piece: &str) -> Option<u32> {
        self.inner.backend.token_to_id(piece)
    }

    /// How many tokens there are, special tokens included. A model may have more rows of logits: padding.
    pub fn vocab_size(&self) -> usize {
        self.inner.backend.get_vocab_size(true)
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
        self.piece(id).is_some_and(|piece| self.inner.backend.get_added_vocabulary().is_special_token(&piece))
    }

    /// Whether bytes that no other token spells have tokens such as `<0x0A>`, as in SentencePiece.
    pub(super) fn has_byte_fallback(&self) -> bool {
        self.inner.byte_fallback
    }

    /// The named special tokens, such as `bos_token`, and their contents: variables of chat templates.
    pub(super) fn named_tokens(&self) -> &[(String, String)] {
        &self.inner.named
    }

    /// The byte that a SentencePiece byte token such as `<0x0A>` stands for.
    pub(super) fn fallback_byte(&self, id: u32) -> Option<u8> {
        if !self.inner.byte_fallback {
            return None;
        }
        let piece = self.piece(id)?;
        let digits = piece.strip_prefix("<0x")?.strip_suffix('>').filter(|digits| digits.len() == 2)?;
        u8::from_str_radix(digits, 16).ok()
    }

    fn check(&self, text: &str) -> Result<()> {
        let mut run = 0;
        for character in text.chars() {
            run = if character.is_whitespace() { run + 1 } else { 0 };
            if run > MOST_WHITE_SPACE {
                let message =
                    format!("expected at most {MOST_WHITE_SPACE} white-space characters in a row, found more");
                return Err(Error::Tokenizer { file: self.inner.file.clone(), message });
            }
        }
        Ok(())
    }

    fn framed(&self, ids: &[u32], special: Special) -> Vec<u32> {
        let Frame { before, after } = &self.inner.frame;
        match special {
            Special::Omit => ids.to_vec(),
            Special::Add if !before.is_empty() && ids.starts_with(before) => [ids, after].concat(),
            Special::Add => [before, ids, after].concat(),
        }
    }
}

/// The tokens that belong around a text.
#[derive(Debug)]
struct Frame {
    before: Vec<u32>,
    after: Vec<u32>,
}

impl Frame {
    /// Takes the post-processor out of the tokeniser, and finds what it puts around a text.
    fn take(backend: &mut Backend) -> tokenizers::Result<Self> {
        let text = u32::MAX;
        let encoding = Encoding::from_tokens(vec![Token::new(text, String::new(), (0, 0))], 0);
        let framed = backend.post_process(encoding, None, true)?;
        backend.with_post_processor(None::<PostProcessorWrapper>);
        let ids = framed.get_ids();
        let at = ids.iter().position(|id| *id == text).ok_or("post_processor: expected a place for the text")?;
        Ok(Frame { before: ids[..at].to_vec(), after: ids[at + 1..].to_vec() })
    }

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

/// Adds the tokens that only the files beside `tokenizer.json` know, and marks the special ones.
fn add_tokens(backend: &mut Backend, special: &SpecialTokens) -> tokenizers::Result<()> {
    let known = backend.get_added_vocabulary();
    let mut missing: Vec<AddedToken> = Vec::new();
    for (_, token) in &special.added {
        let same = |id| known.get_added_tokens_decoder().get(id) == Some(token);
        if !known.get_vocab().get(&token.content).is_some_and(same) {
            missing.push(token.clone());
        }
    }
    for token in special.named.iter().map(|(_, token)| token).chain(&special.additional) {
        let declared = missing.iter_mut().find(|missing| missing.content == token.content);
        match (declared, known.get_vocab().get(&token.content)) {
            (Some(declared), _) => declared.special = true,
            (None, Some(_)) if known.is_special_token(&token.content) => {}
            (None, Some(id)) => {
                missing.extend(known.get_added_tokens_decoder().get(id).cloned().map(|t| t.special(true)))
            }
            (None, None) => missing.push(token.clone()),
        }
    }
    if !missing.is_empty() {
        backend.add_tokens(missing)?;
    }
    for (id, token) in &special.added {
        let found = backend.token_to_id(&token.content);
        if found != Some(*id) {
            tracing::warn!("added_tokens_decoder: {:?} has id {id} there, {found:?} in {FILE}", token.content);
        }
    }
    Ok(())
}

/// Whether the decoder joins byte tokens such as `<0x0A>`.
fn has_byte_fallback(decoder: &DecoderWrapper) -> bool {
    match decoder {
        DecoderWrapper::ByteFallback(_) => true,
        DecoderWrapper::Sequence(sequence) => sequence.get_decoders().iter().any(has_byte_fallback),
        _ => false,
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

/// Runs the `tokenizers` crate, and makes an error of its failures. Some hostile files make it panic: that too
/// becomes an error.
fn guard<T>(file: &str, run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    let message = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "malformed: expected a tokeniser that the tokenizers library can run".to_owned(),
    };
    Err(Error::Tokenizer { file: file.to_owned(), message })
}
