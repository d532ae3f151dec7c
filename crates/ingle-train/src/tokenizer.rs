// SPDX-License-Identifier: EUPL-1.2
//! A tokeniser of one's own, learnt from a text.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

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
}

impl Default for TokenizerOptions {
    fn default() -> Self {
        TokenizerOptions { vocab_size: 8192, min_frequency: 2 }
    }
}

const BOS: &str = "<bos>";
const EOS: &str = "<eos>";

/// The files of a tokeniser that was learnt: names and contents.
pub type TokenizerFiles = Vec<(&'static str, Vec<u8>)>;

/// Learns a tokeniser from texts. Gives `tokenizer.json` and `tokenizer_config.json`; `<bos>` begins a text and `<eos>`
/// ends it.
///
/// # Errors
/// [`Error::Option`] if the vocabulary has no room for the 256 bytes and the special tokens.
pub fn train_tokenizer<'a>(
    texts: impl Iterator<Item = &'a str> + Send,
    options: &TokenizerOptions,
) -> Result<TokenizerFiles> {
    const LEAST: usize = 256 + 2;
    if options.vocab_size < LEAST {
        let expected = format!("at least {LEAST}: the bytes and the special tokens");
        return Err(Error::option("vocab_size", expected, options.vocab_size));
    }
    let refused = |error: tokenizers::Error| Error::file(Path::new("tokenizer.json"), error);
    let special = [BOS, EOS].map(|content| AddedToken::from(content, true));
    let trainer = BpeTrainerBuilder::new()
        .vocab_size(options.vocab_size)
        .min_frequency(options.min_frequency)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(special.to_vec())
        .show_progress(false)
        .build();
    let mut trainer = TrainerWrapper::BpeTrainer(trainer);
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    tokenizer.train(&mut trainer, texts).map_err(refused)?;
    let json = tokenizer.to_string(true).map_err(refused)?;
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "add_bos_token": true,
        "clean_up_tokenization_spaces": false,
    });
    Ok(vec![("tokenizer.json", json.into_bytes()), ("tokenizer_config.json", format!("{config:#}\n").into_bytes())])
}
