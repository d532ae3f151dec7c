// SPDX-License-Identifier: EUPL-1.2
//! A tokeniser of one's own, learnt from a text.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use crate::{Error, Result};

/// How a tokeniser is learnt: byte-pair encoding (Sennrich et al. 2016) on bytes (Radford et al. 2019), so that it can
/// spell every text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenizerOptions {
    /// Tokens that there are to be, special ones included; a short text has fewer.
    pub vocab_size: usize,
    /// A pair of tokens is joined if it comes so often.
    pub min_frequency: u64,
    /// The special tokens, in the order of their ids, `<bos>` and `<eos>` among them. `<pad>`, `<unk>` and
    /// `<end_of_turn>` are what they are called.
    pub special_tokens: Vec<String>,
    /// What of a text is a word, as a regular expression: no token is part of two. GPT-2's words if `None`.
    pub words: Option<String>,
    /// How a chat becomes a text: a template as in `tokenizer_config.json`.
    pub chat_template: Option<String>,
}

const BOS: &str = "<bos>";
const EOS: &str = "<eos>";

/// What tokens of these names are for.
const NAMED: [(&str, &str); 5] = [
    ("bos_token", BOS),
    ("eos_token", EOS),
    ("pad_token", "<pad>"),
    ("unk_token", "<unk>"),
    ("eot_token", "<end_of_turn>"),
];

impl Default for TokenizerOptions {
    fn default() -> Self {
        TokenizerOptions {
            vocab_size: 8192,
            min_frequency: 2,
            special_tokens: vec![BOS.into(), EOS.into()],
            words: None,
            chat_template: None,
        }
    }
}

impl TokenizerOptions {
    fn check(&self) -> Result<()> {
        let least = 256 + self.special_tokens.len();
        if self.vocab_size < least {
            let expected = format!("at least {least}: the bytes and the special tokens");
            return Err(Error::option("vocab_size", expected, self.vocab_size));
        }
        if [BOS, EOS].iter().any(|name| !self.special_tokens.iter().any(|token| token == name)) {
            let found = self.special_tokens.join(", ");
            return Err(Error::option("special_tokens", format!("{BOS} and {EOS} among them"), found));
        }
        Ok(())
    }

    /// What there is in `tokenizer_config.json`.
    fn config(&self) -> Value {
        let mut config = Map::new();
        for (field, content) in NAMED {
            if self.special_tokens.iter().any(|token| token == content) {
                config.insert(field.into(), content.into());
            }
        }
        if let Some(template) = &self.chat_template {
            config.insert("chat_template".into(), template.as_str().into());
        }
        config.insert("clean_up_tokenization_spaces".into(), json!(false));
        config.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
        Value::Object(config)
    }
}

/// The files of a tokeniser that was learnt: names and contents.
pub type TokenizerFiles = Vec<(&'static str, Vec<u8>)>;

/// Learns a tokeniser from texts. Gives `tokenizer.json` and `tokenizer_config.json`; `<bos>` begins a text and `<eos>`
/// ends it.
///
/// # Errors
/// [`Error::Option`] if the vocabulary has no room for the 256 bytes and the special tokens, if `<bos>` or `<eos>` is not
/// among these, or for words that are no regular expression.
pub fn train_tokenizer<'a>(
    texts: impl Iterator<Item = &'a str> + Send,
    options: &TokenizerOptions,
) -> Result<TokenizerFiles> {
    options.check()?;
    let refused = |error: tokenizers::Error| Error::file(Path::new("tokenizer.json"), error);
    let special = options.special_tokens.iter().map(|content| AddedToken::from(content.as_str(), true));
    let trainer = BpeTrainerBuilder::new()
        .vocab_size(options.vocab_size)
        .min_frequency(options.min_frequency)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(special.collect())
        .show_progress(false)
        .build();
    let mut trainer = TrainerWrapper::BpeTrainer(trainer);
    let mut tokenizer = Tokenizer::new(BPE::default());
    match &options.words {
        None => tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true))),
        Some(words) => {
            let split = Split::new(SplitPattern::Regex(words.clone()), SplitDelimiterBehavior::Isolated, false)
                .map_err(|error| Error::option("words", "a regular expression", error))?;
            tokenizer
                .with_pre_tokenizer(Some(Sequence::new(vec![split.into(), ByteLevel::new(false, true, false).into()])))
        }
    };
    tokenizer.with_decoder(Some(ByteLevel::default()));
    tokenizer.train(&mut trainer, texts).map_err(refused)?;
    let bos = tokenizer.token_to_id(BOS).unwrap_or_default();
    let frame = TemplateProcessing::builder()
        .try_single(format!("{BOS} $A"))
        .and_then(|builder| builder.try_pair(format!("{BOS} $A {BOS}:1 $B:1")))
        .map_err(|error| refused(error.into()))?
        .special_tokens(vec![(BOS, bos)])
        .build()
        .map_err(|error| refused(error.into()))?;
    tokenizer.with_post_processor(Some(frame));
    let json = tokenizer.to_string(true).map_err(refused)?;
    let config = format!("{:#}\n", options.config());
    Ok(vec![("tokenizer.json", json.into_bytes()), ("tokenizer_config.json", config.into_bytes())])
}
