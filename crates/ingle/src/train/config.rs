// SPDX-License-Identifier: EUPL-1.2
//! The configuration of a model that is trained from nothing.

use std::path::Path;

use ingle_train::data::{Documents, Order};
use ingle_train::{
    AdamOptions, Decay, Optimizer, Recompute, Schedule, TokenizerFiles, TokenizerOptions, TrainOptions, Until,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::TrainError;
use super::folder::output;
use crate::{Error, Result};

/// A model, its tokeniser and its training, as a TOML file says them:
///
/// ```
/// use ingle::train::{ScratchConfig, Until};
///
/// let config = ScratchConfig::parse(
///     r#"
///     [model] # the fields of a config.json
///     model_type = "llama"
///     hidden_size = 256
///     intermediate_size = 704
///     num_hidden_layers = 6
///     num_attention_heads = 4
///     tie_word_embeddings = true
///
///     [tokenizer]
///     vocab_size = 2048
///
///     [training]
///     steps = 2000
///     learning_rate = 2e-3
///     "#,
/// )?;
/// assert_eq!(config.training_options()?.until, Until::Steps(2000));
/// # Ok::<(), ingle::Error>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScratchConfig {
    /// The fields of the model's `config.json`. What concerns the vocabulary is filled in.
    pub model: Map<String, Value>,
    /// Of the tokeniser.
    #[serde(default)]
    pub tokenizer: TokenizerOptions,
    /// Of the data.
    #[serde(default)]
    pub data: TextOptions,
    /// Of the training.
    pub training: Training,
    /// The fields of the model's `generation_config.json`: how it is to be asked. There is none if it is empty.
    #[serde(default)]
    pub generation: Map<String, Value>,
}

/// The part `[data]`: how texts are read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TextOptions {
    /// What stands between the documents of a plain text; it is one if `None`. Windows to learn from begin where a
    /// document does.
    pub separator: Option<String>,
    /// What ends each document; the separator if `None`. The content of a special token stands for that token.
    pub end: Option<String>,
    /// How likely a token is taken apart in training: see [`BpeDropout`](super::BpeDropout).
    pub bpe_dropout: f64,
}

impl TextOptions {
    /// How a text is parted.
    pub(super) fn documents(&self) -> Result<Option<Documents>> {
        match (&self.separator, &self.end) {
            (None, None) => Ok(None),
            (Some(separator), end) if !separator.is_empty() => {
                let end = end.as_ref().unwrap_or(separator).clone();
                Ok(Some(Documents { separator: separator.clone(), end }))
            }
            (separator, _) => {
                let found = separator.as_ref().map_or("an end without one", |_| "an empty one").into();
                Err(Error::Option { option: "separator", expected: "what stands between documents".into(), found })
            }
        }
    }
}

/// The part `[training]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    steps: Option<u64>,
    epochs: Option<u64>,
    learning_rate: f64,
    #[serde(default = "warmup")]
    warmup: f64,
    #[serde(default)]
    decay: Decay,
    #[serde(default)]
    final_rate: f64,
    #[serde(default = "weight_decay")]
    weight_decay: f64,
    #[serde(default = "beta1")]
    beta1: f64,
    #[serde(default = "beta2")]
    beta2: f64,
    #[serde(default = "clip_norm")]
    clip_norm: f64,
    #[serde(default = "batch_tokens")]
    batch_tokens: usize,
    #[serde(default = "max_length")]
    max_length: usize,
    #[serde(default = "one")]
    accumulate: usize,
    #[serde(default)]
    seed: u64,
    #[serde(default)]
    dropout: f64,
    #[serde(default)]
    recompute: Recompute,
    validate_every: Option<u64>,
    patience: Option<u64>,
    checkpoint_every: Option<u64>,
}

fn warmup() -> f64 {
    0.05
}

fn weight_decay() -> f64 {
    0.1
}

fn beta1() -> f64 {
    0.9
}

fn beta2() -> f64 {
    0.98
}

fn clip_norm() -> f64 {
    1.0
}

fn batch_tokens() -> usize {
    4096
}

fn max_length() -> usize {
    512
}

fn one() -> usize {
    1
}

impl ScratchConfig {
    /// Reads TOML.
    ///
    /// # Errors
    /// [`Error::Option`] with the line, for what is no TOML or has other fields.
    pub fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error| {
            let found = error.to_string().lines().map(str::trim).collect::<Vec<_>>().join(" ");
            Error::Option { option: "config", expected: "[model], [tokenizer] and [training]".into(), found }
        })
    }

    /// Reads a TOML file.
    ///
    /// # Errors
    /// As [`ScratchConfig::parse`]; [`TrainError::File`] if the file cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let unread = |error| TrainError::File {
            path: path.into(),
            message: format!("{error}; name a TOML file with [model], [tokenizer] and [training]"),
        };
        Self::parse(&std::fs::read_to_string(path).map_err(unread)?)
    }

    /// How it is trained.
    ///
    /// # Errors
    /// [`Error::Option`] unless one of `steps` and `epochs` is given.
    pub fn training_options(&self) -> Result<TrainOptions> {
        let training = &self.training;
        let until = match (training.steps, training.epochs) {
            (Some(steps), None) => Until::Steps(steps),
            (None, Some(epochs)) => Until::Epochs(epochs),
            (steps, epochs) => {
                let found = format!("steps {steps:?} and epochs {epochs:?}");
                return Err(Error::Option { option: "training", expected: "either steps or epochs".into(), found });
            }
        };
        Ok(TrainOptions {
            optimizer: Optimizer::AdamW(AdamOptions {
                beta1: training.beta1,
                beta2: training.beta2,
                weight_decay: training.weight_decay,
                ..AdamOptions::default()
            }),
            schedule: Schedule {
                peak: training.learning_rate,
                warmup: training.warmup,
                decay: training.decay,
                floor: training.final_rate,
            },
            clip_norm: Some(training.clip_norm),
            batch_tokens: training.batch_tokens,
            max_length: training.max_length,
            accumulate: training.accumulate,
            until,
            order: Order::Shuffled(training.seed),
            seed: training.seed,
            dropout: training.dropout,
            recompute: training.recompute,
            validate_every: training.validate_every,
            patience: training.patience,
            checkpoint_every: training.checkpoint_every,
        })
    }

    /// The `config.json` of a model with this tokeniser, and the `generation_config.json` if there is to be one.
    pub(super) fn model_files(&self, files: &TokenizerFiles) -> Result<Vec<(&'static str, Vec<u8>)>> {
        let refused = |error: serde_json::Error| output(Path::new("tokenizer.json"), error);
        let Some((_, tokenizer)) = files.iter().find(|(name, _)| *name == "tokenizer.json") else {
            return Err(output(Path::new("tokenizer.json"), "was not made; report it"));
        };
        let tokenizer: Value = serde_json::from_slice(tokenizer).map_err(refused)?;
        let vocab = &tokenizer["model"]["vocab"];
        let ids = [("bos_token_id", "<bos>"), ("eos_token_id", "<eos>"), ("pad_token_id", "<pad>")];
        let with_ids = |fields: &Map<String, Value>| {
            let mut fields = fields.clone();
            for (field, content) in ids {
                if let Some(id) = vocab.get(content) {
                    fields.insert(field.into(), id.clone());
                }
            }
            fields
        };
        let mut config = with_ids(&self.model);
        config.insert("vocab_size".into(), vocab.as_object().map_or(0, Map::len).into());
        let longest = self.training.max_length;
        config.entry("max_position_embeddings").or_insert(longest.into());
        let written = |config| format!("{:#}\n", Value::Object(config)).into_bytes();
        let mut made = vec![("config.json", written(config))];
        if !self.generation.is_empty() {
            made.push(("generation_config.json", written(with_ids(&self.generation))));
        }
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_are_unknown_or_missing_bad() {
        let said = |text: &str| match ScratchConfig::parse(text) {
            Err(error) => error.to_string(),
            Ok(config) => config.training_options().unwrap_err().to_string(),
        };
        let unknown = said("[model]\n[training]\nlearning_rate = 1.0\nstep = 5");
        assert!(unknown.contains("line 4") && unknown.contains("unknown field `step`"), "{unknown}");
        assert!(said("[model]\n[training]\nsteps = 5").contains("missing field `learning_rate`"));
        let both = said("[model]\n[training]\nlearning_rate = 1.0\nsteps = 5\nepochs = 1");
        assert_eq!(both, "training: expected either steps or epochs, found steps Some(5) and epochs Some(1)");
        let documents = |text: &str| {
            let training = "[model]\n[training]\nlearning_rate = 1.0\nsteps = 5\n[data]\n";
            ScratchConfig::parse(&format!("{training}{text}")).unwrap().data.documents().map_err(|e| e.to_string())
        };
        assert_eq!(documents("bpe_dropout = 0.5"), Ok(None));
        let refused = |found| Err(format!("separator: expected what stands between documents, found {found}"));
        assert_eq!(documents("end = \"x\""), refused("an end without one"));
        assert_eq!(documents("separator = \"\""), refused("an empty one"));
        let parted = |separator: &str, end: &str| Ok(Some(Documents { separator: separator.into(), end: end.into() }));
        assert_eq!(documents("separator = \"--\""), parted("--", "--"));
        assert_eq!(documents("separator = \"--\"\nend = \"<eos>\""), parted("--", "<eos>"));
    }
}
