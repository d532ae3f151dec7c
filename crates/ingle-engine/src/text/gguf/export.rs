// SPDX-License-Identifier: EUPL-1.2
//! From `tokenizer.json` to the metadata of a GGUF file.

use std::collections::{HashMap, HashSet};

use ingle_nn::ModelFiles;
use ingle_nn::gguf::{Gguf, GgufHeader};
use serde::Deserialize;
use serde_json::Value;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _, PreTokenizerWrapper};

use super::pre_tokenizer::PreTokenizer;
use super::{ADD_SPACE_PREFIX, MERGES, MODEL, SCORES, TOKENS};
use crate::text::chat::ChatTemplate;
use crate::text::{Special, Tokenizer};
use crate::{Error, Result};

const PRE: &str = "tokenizer.ggml.pre";
const FILE: &str = "tokenizer.json";

/// The pre-tokenisers that may be written, those of well-known models first.
const PRE_TOKENIZERS: [&str; 14] = [
    "gpt-2",
    "llama-bpe",
    "qwen2",
    "dbrx",
    "smollm",
    "gpt-4o",
    "tekken",
    "qwen35",
    "deepseek-v3",
    "deepseek-llm",
    "deepseek-coder",
    "glm4",
    "falcon",
    "bloom",
];

/// A text on which pre-tokenisers and tokenisers part ways if they are not the same.
const SAMPLE: &str = "The fire's in the hearth; I'LL fetch wood, we'Re cold!  (It's 12345.67 degrees, or 7½?)\n\n\tdéjà \
                      vu: naïve Straße, ΑΒΓ αβγ, Привет мир, 你好世界, こんにちは, สวัสดี, हिन्दी 123 ४५६   \n  x_y==z; \
                      HTTPServer2 can't   \r\n\r\n🔥🔥 👩‍🚀 — end.   ";

/// What a GGUF file holds of a model's tokeniser.
#[derive(Debug)]
pub struct GgufVocabulary {
    algorithm: Algorithm,
    tokens: Vec<String>,
    types: Vec<i32>,
    /// Keys and ids.
    special: Vec<(&'static str, u32)>,
    adds: [bool; 2],
    template: Option<String>,
}

#[derive(Debug)]
enum Algorithm {
    ByteLevel { pre: &'static str, merges: Vec<String> },
    SentencePiece { scores: Vec<f32>, add_space_prefix: bool },
}

/// The numbers of `tokenizer.ggml.token_type`.
mod kind {
    pub const NORMAL: i32 = 1;
    pub const UNKNOWN: i32 = 2;
    pub const CONTROL: i32 = 3;
    pub const USER_DEFINED: i32 = 4;
    pub const UNUSED: i32 = 5;
    pub const BYTE: i32 = 6;
}

/// The part of `tokenizer.json` that matters.
#[derive(Deserialize)]
struct Json {
    model: Model,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    added_tokens: Vec<Added>,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: Value,
    #[serde(default)]
    merges: Vec<Merge>,
    unk_token: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Text(String),
}

impl Merge {
    fn pair(&self) -> Option<(&str, &str)> {
        match self {
            Merge::Pair(left, right) => Some((left, right)),
            Merge::Text(text) => text.split_once(' '),
        }
    }
}

impl GgufVocabulary {
    /// Reads a model's tokeniser and chat template, for an embedding table of `rows`.
    ///
    /// # Errors
    /// [`Error::Model`] and [`Error::Tokenizer`] as [`Tokenizer::from_files`]; [`Error::Tokenizer`] too for a kind of
    /// tokeniser that GGUF files cannot hold, or whose texts llama.cpp would part otherwise.
    pub fn from_files(files: &ModelFiles, rows: usize) -> Result<Self> {
        let tokenizer = Tokenizer::from_files(files)?;
        let refused = |message: String| Error::Tokenizer { file: files.locate(FILE), message };
        let json: Json = files.read_json(FILE, "a GGUF file holds the tokeniser, too")?;
        if json.model.kind.as_deref().is_some_and(|kind| kind != "BPE") {
            let kind = json.model.kind.unwrap_or_default();
            return Err(refused(format!("model.type: expected BPE, to be written as GGUF, found {kind}")));
        }
        if tokenizer.vocab_size() > rows {
            let tokens = tokenizer.vocab_size();
            return Err(refused(format!(
                "expected at most {rows} tokens, as many as the model scores, found {tokens}"
            )));
        }
        let vocabulary =
            json.model.vocab.as_object().ok_or_else(|| refused("model.vocab: expected an object".into()))?;
        let normal = |id: u32, piece: &str| vocabulary.get(piece).and_then(Value::as_u64) == Some(id.into());
        let added: HashSet<u32> = json.added_tokens.iter().map(|token| token.id).collect();
        let algorithm = algorithm(&json, &tokenizer, rows).map_err(refused)?;
        let sentencepiece = matches!(algorithm, Algorithm::SentencePiece { .. });
        let (mut tokens, mut types) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        for id in 0..u32::try_from(rows).unwrap_or(u32::MAX) {
            let piece = tokenizer.piece(id);
            let kind = match &piece {
                None => kind::UNUSED,
                Some(piece) if json.model.unk_token.as_ref() == Some(piece) => kind::UNKNOWN,
                Some(_) if tokenizer.is_special(id) => kind::CONTROL,
                Some(_) if added.contains(&id) => kind::USER_DEFINED,
                Some(_) if json.model.byte_fallback && tokenizer.fallback_byte(id).is_some() => kind::BYTE,
                Some(piece) if normal(id, piece) => kind::NORMAL,
                Some(_) => kind::USER_DEFINED,
            };
            tokens.push(match piece {
                // Such tokens are looked for in the text as it is.
                Some(piece) if kind == kind::USER_DEFINED && sentencepiece => piece.replace('▁', " "),
                Some(piece) => piece,
                None => format!("[PAD{id}]"),
            });
            types.push(kind);
        }
        let framed = tokenizer.encode("", Special::Add)?;
        let adds = [tokenizer.bos(), tokenizer.eos_tokens().first().copied()]
            .map(|id| id.is_some_and(|id| framed.contains(&id)));
        let vocabulary = GgufVocabulary {
            algorithm,
            tokens,
            types,
            special: special(&json.model, &tokenizer),
            adds,
            template: ChatTemplate::source_of(files)?,
        };
        vocabulary.check(&tokenizer).map_err(refused)?;
        Ok(vocabulary)
    }

    /// Adds the metadata to a header.
    pub fn write(&self, header: &mut GgufHeader) {
        match &self.algorithm {
            Algorithm::ByteLevel { pre, merges } => {
                header.set(MODEL, "gpt2");
                header.set(PRE, *pre);
                header.set(MERGES, &merges[..]);
            }
            Algorithm::SentencePiece { scores, add_space_prefix } => {
                header.set(MODEL, "llama");
                header.set(PRE, "default");
                header.set(SCORES, &scores[..]);
                header.set(ADD_SPACE_PREFIX, *add_space_prefix);
            }
        }
        header.set(TOKENS, &self.tokens[..]);
        header.set("tokenizer.ggml.token_type", &self.types[..]);
        for (name, id) in &self.special {
            header.set(&format!("tokenizer.ggml.{name}_token_id"), *id);
        }
        let [bos, eos] = self.adds;
        header.set("tokenizer.ggml.add_bos_token", bos);
        header.set("tokenizer.ggml.add_eos_token", eos);
        if let Some(template) = &self.template {
            header.set("tokenizer.chat_template", template.as_str());
        }
    }

    /// Refuses a tokeniser that, read back as llama.cpp reads it, gives other ids.
    fn check(&self, tokenizer: &Tokenizer) -> Result<(), String> {
        let mut header = GgufHeader::default();
        self.write(&mut header);
        let read = || {
            let written = Tokenizer::from_gguf(&Gguf::read("GGUF".into(), header.bytes().into())?)?;
            Ok::<_, Error>((tokenizer.encode(SAMPLE, Special::Add)?, written.encode(SAMPLE, Special::Add)?))
        };
        let (expected, found) = read().map_err(|error| error.to_string())?;
        let Some(at) = (0..expected.len().max(found.len())).find(|at| expected.get(*at) != found.get(*at)) else {
            return Ok(());
        };
        let piece = |ids: &[u32]| ids.get(at).and_then(|id| tokenizer.piece(*id)).unwrap_or_default();
        let (expected, found) = (piece(&expected), piece(&found));
        Err(format!("llama.cpp would read texts otherwise than this tokeniser: {found:?} in place of {expected:?}"))
    }
}

fn special(model: &Model, tokenizer: &Tokenizer) -> Vec<(&'static str, u32)> {
    let named = |name: &str| {
        let content = tokenizer.named_tokens().iter().find(|(own, _)| own == name).map(|(_, content)| content)?;
        tokenizer.id(content)
    };
    let ends = tokenizer.eos_tokens();
    // A model may end its answers with a token of its own, beside that which ends a text.
    let eos = named("eos_token").or(ends.first().copied());
    let eot = ends.iter().copied().find(|id| Some(*id) != eos);
    let all = [
        ("bos", tokenizer.bos()),
        ("eos", eos),
        ("eot", eot),
        ("unknown", model.unk_token.as_deref().and_then(|unk| tokenizer.id(unk))),
        ("padding", named("pad_token")),
    ];
    all.into_iter().filter_map(|(name, id)| Some((name, id?))).collect()
}

fn algorithm(json: &Json, tokenizer: &Tokenizer, rows: usize) -> Result<Algorithm, String> {
    let merges = json.model.merges.iter().map(Merge::pair).collect::<Option<Vec<_>>>();
    let merges = merges.ok_or("model.merges: expected pairs")?;
    if has_type(&json.pre_tokenizer, "ByteLevel") {
        let pre = pre_tokenizer(&json.pre_tokenizer, json.model.ignore_merges)?;
        let merges = merges.into_iter().map(|(left, right)| format!("{left} {right}")).collect();
        return Ok(Algorithm::ByteLevel { pre, merges });
    }
    if !json.model.byte_fallback {
        return Err("expected byte-level BPE, or SentencePiece's with bytes to fall back on, found another".into());
    }
    // The earlier a merge, the higher is the score of what it makes.
    let mut scores = vec![0.0; rows];
    let mut ranks: HashMap<u32, usize> = HashMap::new();
    for (rank, (left, right)) in merges.into_iter().enumerate() {
        if let Some(id) = tokenizer.id(&format!("{left}{right}")) {
            ranks.entry(id).or_insert(rank);
        }
    }
    for (id, rank) in ranks {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = -(rank as f32);
        }
    }
    let prepends = has_type(&json.normalizer, "Prepend") || prepends_a_space(&json.pre_tokenizer);
    Ok(Algorithm::SentencePiece { scores, add_space_prefix: prepends })
}

/// Whether a part of `tokenizer.json`, or one in its sequence, has this type.
fn has_type(part: &Value, name: &str) -> bool {
    parts(part).iter().any(|part| part.get("type").and_then(Value::as_str) == Some(name))
}

fn parts(part: &Value) -> Vec<&Value> {
    let sequence = ["pretokenizers", "normalizers"].into_iter().find_map(|field| part.get(field)?.as_array());
    sequence.map_or_else(|| vec![part], |sequence| sequence.iter().collect())
}

fn prepends_a_space(pre_tokenizer: &Value) -> bool {
    parts(pre_tokenizer).iter().any(|part| {
        part.get("type").and_then(Value::as_str) == Some("Metaspace")
            && part.get("prepend_scheme").and_then(Value::as_str) != Some("never")
    })
}

/// llama.cpp's name for the pre-tokeniser that parts texts as this one does.
fn pre_tokenizer(json: &Value, keeps_words: bool) -> Result<&'static str, String> {
    let own: PreTokenizerWrapper =
        serde_json::from_value(json.clone()).map_err(|error| format!("pre_tokenizer: {error}"))?;
    let mut words = PreTokenizedString::from(SAMPLE);
    own.pre_tokenize(&mut words).map_err(|error| format!("pre_tokenizer: {error}"))?;
    let words = words.get_splits(OffsetReferential::Original, OffsetType::Byte);
    let expected: Vec<&str> = words.into_iter().filter_map(|(_, (start, end), _)| SAMPLE.get(start..end)).collect();
    let agrees = |name: &str| {
        let mut header = GgufHeader::default();
        header.set(PRE, name);
        let gguf = Gguf::read("GGUF".into(), header.bytes().into()).ok()?;
        let known = PreTokenizer::read(gguf.metadata()).ok()?;
        (known.keeps_words == keeps_words && known.split(SAMPLE) == expected).then_some(())
    };
    PRE_TOKENIZERS.into_iter().find(|name| agrees(name).is_some()).ok_or_else(|| {
        format!("pre_tokenizer: expected one that parts texts as those of {}, found another", PRE_TOKENIZERS.join(", "))
    })
}

#[cfg(test)]
mod tests;
