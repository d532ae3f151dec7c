// SPDX-License-Identifier: EUPL-1.2
//! Text to ids and back as a GGUF file says: the ids are those of llama.cpp.
//!
//! `tokenizer.ggml.model` is `gpt2` for byte-level BPE, with the pre-tokeniser that `tokenizer.ggml.pre` names, or
//! `llama` for SentencePiece's BPE by scores. What llama.cpp adds to the file's word from its own knowledge, such as
//! which tokens end a text, is here too.

mod byte_level;
mod codec;
mod export;
mod kinds;
mod pre_tokenizer;
mod sentencepiece;
mod specials;

use ingle_nn::gguf::{Array, Gguf, Metadata};

use self::byte_level::ByteLevel;
use self::codec::{Algorithm, GgufCodec, LeadingSpace};
pub use self::export::GgufVocabulary;
use self::kinds::Kinds;
use self::pre_tokenizer::PreTokenizer;
use self::sentencepiece::SentencePiece;
use super::bpe::{Span, Vocabulary};
use super::codec::Codec;
use super::tokenizer::{Frame, Surroundings};
use crate::{Error, Result};

const MODEL: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";
const MERGES: &str = "tokenizer.ggml.merges";
const SCORES: &str = "tokenizer.ggml.scores";
const ADD_SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";

/// Reads the tokeniser of a GGUF file, and what belongs around its texts.
pub(super) fn read(gguf: &Gguf) -> Result<(Box<dyn Codec>, Surroundings)> {
    let metadata = gguf.metadata();
    let refused = |message| Error::Tokenizer { file: gguf.located().into(), message };
    let vocabulary = read_vocabulary(metadata.read(TOKENS)?).map_err(refused)?;
    let tokens = vocabulary.len();
    let kinds = Kinds::read(metadata, &vocabulary)?;
    let (algorithm, defaults) = match metadata.read::<&str>(MODEL)? {
        "gpt2" => {
            let pre_tokenizer = PreTokenizer::read(metadata).map_err(refused)?;
            let defaults = Defaults { add_bos: pre_tokenizer.adds_bos, ..Defaults::BYTE_LEVEL };
            let model = ByteLevel::new(metadata.read(MERGES)?, pre_tokenizer);
            let model =
                model.ok_or_else(|| metadata.unexpected(MERGES, "an array of texts, less than 4 GiB of them"))?;
            (Algorithm::ByteLevel(model), defaults)
        }
        "llama" => {
            let scores = match metadata.find::<Vec<f32>>(SCORES)? {
                Some(scores) => scores,
                None => vec![0.0; tokens],
            };
            check_length(metadata, SCORES, scores.len(), tokens)?;
            (Algorithm::SentencePiece(SentencePiece::new(scores)), Defaults::SENTENCEPIECE)
        }
        _ => return Err(metadata.unexpected(MODEL, "`gpt2` (byte-level BPE) or `llama` (SentencePiece)").into()),
    };
    let leading_space = match metadata.find(ADD_SPACE_PREFIX)?.unwrap_or(defaults.add_space_prefix) {
        true => LeadingSpace::Added,
        false => LeadingSpace::AsGiven,
    };
    let surroundings = read_surroundings(gguf, &vocabulary, &defaults)?;
    Ok((Box::new(GgufCodec::new(vocabulary, kinds, algorithm, leading_space)), surroundings))
}

/// What llama.cpp takes for granted where the file says nothing.
struct Defaults {
    add_bos: bool,
    add_space_prefix: bool,
    bos: Option<u32>,
    eos: Option<u32>,
    unk: Option<u32>,
}

impl Defaults {
    const BYTE_LEVEL: Defaults = Defaults { add_bos: false, add_space_prefix: false, bos: None, eos: None, unk: None };
    const SENTENCEPIECE: Defaults =
        Defaults { add_bos: true, add_space_prefix: true, bos: Some(1), eos: Some(2), unk: Some(0) };
}

fn read_vocabulary(array: &Array) -> Result<Vocabulary, String> {
    let ranges = array.texts().ok_or_else(|| format!("metadata `{TOKENS}`: expected an array of texts"))?.ranges();
    let span = |range: std::ops::Range<usize>| {
        Some(Span { start: u32::try_from(range.start).ok()?, len: u32::try_from(range.len()).ok()? })
    };
    let spans: Option<Vec<Span>> = ranges.map(span).collect();
    let spans = spans.ok_or_else(|| format!("metadata `{TOKENS}`: expected less than 4 GiB of tokens"))?;
    // A copy, so that the file can be let go once the weights are where they belong.
    let vocabulary = Vocabulary::new(array.content().to_vec(), spans);
    vocabulary.map_err(|(one, other)| format!("metadata `{TOKENS}`: tokens {one} and {other} are the same"))
}

fn check_length(metadata: &Metadata, key: &str, found: usize, tokens: usize) -> Result<()> {
    if found < tokens {
        return Err(metadata.unexpected(key, &format!("one element for each of {tokens} tokens")).into());
    }
    Ok(())
}

fn read_surroundings(gguf: &Gguf, vocabulary: &Vocabulary, defaults: &Defaults) -> Result<Surroundings> {
    let metadata = gguf.metadata();
    // An id beyond the vocabulary is as good as none.
    let id = |name: &str, default: Option<u32>| -> Result<Option<u32>> {
        let id = metadata.find::<u32>(&format!("tokenizer.ggml.{name}_token_id"))?.or(default);
        Ok(id.filter(|id| vocabulary.piece(*id).is_some()))
    };
    let flag = |name: &str| metadata.find::<bool>(&format!("tokenizer.ggml.add_{name}_token"));
    let (bos, eos) = (id("bos", defaults.bos)?, id("eos", defaults.eos)?);
    let (add_bos, add_eos) = (flag("bos")?.unwrap_or(defaults.add_bos), flag("eos")?.unwrap_or_default());
    let (before, after) = (bos.filter(|_| add_bos), eos.filter(|_| add_eos));
    let named = [("bos_token", bos), ("eos_token", eos), ("unk_token", id("unknown", defaults.unk)?)];
    let named = named.into_iter().chain([("pad_token", id("padding", None)?)]);
    let named = named.filter_map(|(name, id)| Some((name.to_owned(), vocabulary.piece(id?)?.to_owned())));
    Ok(Surroundings {
        file: gguf.located().into(),
        frame: Frame { before: before.into_iter().collect(), after: after.into_iter().collect() },
        named: named.collect(),
        bos,
        eos: [eos, id("eot", None)?, id("eom", None)?].into_iter().flatten().collect(),
    })
}
