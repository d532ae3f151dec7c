// SPDX-License-Identifier: EUPL-1.2
//! Text to ids and back as `tokenizer.json` says.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use serde::de::DeserializeOwned;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{
    AddedToken, AddedVocabulary, DecoderWrapper, Encoding, Model, ModelWrapper, NormalizerWrapper, OffsetType,
    PreTokenizer, PreTokenizerWrapper, Token, TokenizerImpl,
};

use super::bpe::Bpe;
use super::codec::{Codec, Refusal, SpecialContent};
use super::special_tokens::SpecialTokens;
use super::tokenizer::{Frame, SpecialText};

type Backend<M> = TokenizerImpl<M, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// White-space characters in a row that a text may have. The regular expressions that split a text give up after a
/// million steps, one for each of them, and the rest of the text would get other ids.
const MOST_WHITE_SPACE: usize = 500_000;

/// A tokeniser as its `tokenizer.json` describes it, with a model `M`.
struct JsonCodec<M> {
    backend: Backend<M>,
    /// The added tokens as they are read where special ones stand for themselves.
    literal: OnceLock<AddedVocabulary>,
    byte_fallback: bool,
}

/// Reads `tokenizer.json`, and adds the tokens that only the files beside it know.
pub(super) fn read(json: &[u8], special: &SpecialTokens) -> Result<(Box<dyn Codec>, Frame), Refusal> {
    match guard(|| read_as::<Bpe>(json, special)) {
        Ok(read) => Ok(read),
        // Another model, a rare option of this one, or a mistake, about which this will say more.
        Err(_) => guard(|| read_as::<ModelWrapper>(json, special)),
    }
}

fn read_as<M>(json: &[u8], special: &SpecialTokens) -> tokenizers::Result<(Box<dyn Codec>, Frame)>
where
    M: Model + DeserializeOwned + Send + Sync + 'static,
{
    let mut backend = Backend::<M>::from_bytes(json)?;
    backend.with_truncation(None)?;
    backend.with_padding(None);
    add_tokens(&mut backend, special)?;
    let frame = take_frame(&mut backend)?;
    let byte_fallback = backend.get_decoder().is_some_and(has_byte_fallback);
    Ok((Box::new(JsonCodec { backend, literal: OnceLock::new(), byte_fallback }), frame))
}

impl<M: Model + Send + Sync> JsonCodec<M> {
    /// The ids of a text in which the content of special tokens is text.
    fn encode_literal(&self, text: &str) -> tokenizers::Result<Vec<u32>> {
        let added = self.literal.get_or_init(|| {
            let mut added = self.backend.get_added_vocabulary().clone();
            added.set_encode_special_tokens(true);
            added
        });
        let mut words = added.extract_and_normalize(self.backend.get_normalizer(), text);
        if let Some(pre_tokenizer) = self.backend.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut words)?;
        }
        self.backend.get_model().tokenize_in_pretokenized(&mut words, None)?;
        Ok(words.into_encoding(None, 0, OffsetType::None)?.get_ids().to_vec())
    }
}

impl<M: Model + Send + Sync> Codec for JsonCodec<M> {
    fn encode(&self, text: &str, content: SpecialContent) -> Result<Vec<u32>, Refusal> {
        check_white_space(text)?;
        guard(|| match content {
            SpecialContent::Token => Ok(self.backend.encode_fast(text, false)?.get_ids().to_vec()),
            SpecialContent::Text => self.encode_literal(text),
        })
    }

    fn encode_batch(&self, texts: &[&str], content: SpecialContent) -> Result<Vec<Vec<u32>>, Refusal> {
        texts.iter().try_for_each(|text| check_white_space(text))?;
        match content {
            SpecialContent::Token => {
                let encodings = guard(|| self.backend.encode_batch_fast(texts.to_vec(), false))?;
                Ok(encodings.iter().map(|encoding| encoding.get_ids().to_vec()).collect())
            }
            SpecialContent::Text => texts.iter().map(|text| self.encode(text, content)).collect(),
        }
    }

    fn decode(&self, ids: &[u32], special: SpecialText) -> Result<String, Refusal> {
        guard(|| self.backend.decode(ids, special == SpecialText::Skip))
    }

    fn piece(&self, id: u32) -> Option<String> {
        self.backend.id_to_token(id)
    }

    fn id(&self, piece: &str) -> Option<u32> {
        self.backend.token_to_id(piece)
    }

    fn vocab_size(&self) -> usize {
        self.backend.get_vocab_size(true)
    }

    fn is_special(&self, id: u32) -> bool {
        self.piece(id).is_some_and(|piece| self.backend.get_added_vocabulary().is_special_token(&piece))
    }

    fn has_byte_fallback(&self) -> bool {
        self.byte_fallback
    }

    fn added_id(&self, content: &str) -> Option<u32> {
        self.backend.get_added_vocabulary().get_vocab().get(content).copied()
    }
}

impl<M: Model> fmt::Debug for JsonCodec<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JsonCodec({} tokens)", self.backend.get_model().get_vocab_size())
    }
}

fn check_white_space(text: &str) -> Result<(), Refusal> {
    let mut run = 0;
    for character in text.chars() {
        run = if character.is_whitespace() { run + 1 } else { 0 };
        if run > MOST_WHITE_SPACE {
            return Err(format!("expected at most {MOST_WHITE_SPACE} white-space characters in a row, found more"));
        }
    }
    Ok(())
}

/// Takes the post-processor out of the tokeniser, and finds what it puts around a text.
fn take_frame<M: Model>(backend: &mut Backend<M>) -> tokenizers::Result<Frame> {
    let text = u32::MAX;
    let encoding = Encoding::from_tokens(vec![Token::new(text, String::new(), (0, 0))], 0);
    let framed = backend.post_process(encoding, None, true)?;
    backend.with_post_processor(None::<PostProcessorWrapper>);
    let ids = framed.get_ids();
    let at = ids.iter().position(|id| *id == text).ok_or("post_processor: expected a place for the text")?;
    Ok(Frame { before: ids[..at].to_vec(), after: ids[at + 1..].to_vec() })
}

/// Adds the tokens that only the files beside `tokenizer.json` know, and marks the special ones.
fn add_tokens<M: Model>(backend: &mut Backend<M>, special: &SpecialTokens) -> tokenizers::Result<()> {
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
            tracing::warn!("added_tokens_decoder: {:?} has id {id} there, {found:?} in tokenizer.json", token.content);
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

/// Runs the `tokenizers` crate. Some hostile files make it panic: that too becomes an error.
fn guard<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, Refusal> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("malformed: expected a tokeniser that the tokenizers library can run".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/tokenizers");
    const NAMES: [&str; 5] =
        ["byte-level", "byte-level-qwen", "byte-level-gpt2-prefix-space", "sentencepiece-gemma", "sentencepiece-llama"];

    fn fixture(name: &str) -> Vec<u8> {
        std::fs::read(format!("{FOLDER}/{name}/tokenizer.json")).unwrap()
    }

    fn codec<M>(json: &[u8]) -> Box<dyn Codec>
    where
        M: Model + DeserializeOwned + Send + Sync + 'static,
    {
        read_as::<M>(json, &SpecialTokens::default()).unwrap().0
    }

    static BOTH: LazyLock<Vec<[Box<dyn Codec>; 2]>> = LazyLock::new(|| {
        let both = |json: Vec<u8>| [codec::<Bpe>(&json), codec::<ModelWrapper>(&json)];
        let without_bytes = String::from_utf8(fixture("sentencepiece-llama")).unwrap();
        let changed = |from: &str, to: &str| {
            assert!(without_bytes.contains(from));
            without_bytes.replace(from, to)
        };
        let no_fallback = changed("\"byte_fallback\": true", "\"byte_fallback\": false");
        let apart = no_fallback.replace("\"fuse_unk\": true", "\"fuse_unk\": false");
        let left_out = no_fallback.replace("\"unk_token\": \"<unk>\"", "\"unk_token\": null");
        assert!(apart != no_fallback && left_out != no_fallback);
        NAMES.map(fixture).into_iter().chain([no_fallback, apart, left_out].map(String::into_bytes)).map(both).collect()
    });

    proptest! {
        #[test]
        fn flat_tables_give_the_ids_of_the_library_good(
            kind in 0..8usize,
            text in prop_oneof!["\\PC{0,40}", "[ a-eхо🔥▁\n']{0,40}", "(the |fire|house ?|🔥|é|\\s|<s>){0,12}"],
        ) {
            let [flat, library] = &BOTH[kind];
            for content in [SpecialContent::Token, SpecialContent::Text] {
                prop_assert_eq!(flat.encode(&text, content).unwrap(), library.encode(&text, content).unwrap());
            }
        }
    }

    #[test]
    fn other_models_and_rare_options_are_left_to_the_library_good() {
        let read = |model: &str| {
            let json = format!(r#"{{"model": {model}}}"#);
            let flat = read_as::<Bpe>(json.as_bytes(), &SpecialTokens::default());
            assert!(flat.is_err(), "{model}");
            super::read(json.as_bytes(), &SpecialTokens::default()).unwrap().0.encode("ab", SpecialContent::Token)
        };
        let bpe = |fields: &str| read(&format!(r#"{{"type": "BPE", {fields}}}"#)).unwrap();
        assert_eq!(bpe(r#""vocab": {"a": 0, "b</w>": 1}, "end_of_word_suffix": "</w>", "merges": []"#), [0, 1]);
        assert_eq!(bpe(r#""merges": ["a b"], "vocab": {"a": 0, "b": 1, "ab": 2}"#), [2]);
        assert_eq!(bpe(r#""vocab": {"a": 0, "b": 900, "ab": 7}, "merges": [["a", "b"]]"#), [7]);
        assert_eq!(bpe(r#""vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b", "a b"]"#), [2]);
        assert_eq!(read(r#"{"type": "WordLevel", "vocab": {"ab": 3}, "unk_token": "ab"}"#).unwrap(), [3]);
        assert_eq!(read(r#"{"type": "Unigram", "unk_id": 0, "vocab": [["x", 0.0], ["ab", -1.0]]}"#).unwrap(), [1]);
    }
}
