// SPDX-License-Identifier: EUPL-1.2
//! `config.json`: fields by name, with errors that say which and what.

use std::ops::RangeInclusive;

use ingle_nn::{Bias, Error, Head, ModelFiles, Result, activation, activation_names};
use ingle_tensor::Activation;
use serde_json::{Map, Value};

/// Sizes and counts of anything but layers.
const SIZES: RangeInclusive<usize> = 1..=i32::MAX as usize;
/// Layers: those of the largest models times ten.
const LAYERS: RangeInclusive<usize> = 1..=2000;

/// The fields of a `config.json`, or of an object in it.
///
/// An absent field takes the default that its reader gives: that of the class in transformers, which published
/// configurations lean on. `null` counts as absent, except where a reader says otherwise.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    file: String,
    /// What stands before a field's name in messages: `text_config.`.
    path: String,
    fields: Map<String, Value>,
}

impl Config {
    /// Reads `config.json`.
    pub(crate) fn open(files: &ModelFiles) -> Result<Self> {
        const NAME: &str = "config.json";
        let fields = files.read_json(NAME, "it says what the model is: copy it from the model's repository")?;
        Ok(Config { file: files.locate(NAME), path: String::new(), fields })
    }

    /// An error about field `name`.
    pub(crate) fn error(&self, name: &str, expected: impl std::fmt::Display) -> Error {
        let found = match self.fields.get(name) {
            None => "nothing".into(),
            Some(value) => shortened(value),
        };
        let message = format!("{}{name}: expected {expected}, found {found}", self.path);
        Error::Malformed { file: self.file.clone(), message }
    }

    /// A field as it is; `null` is none.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// The names of all fields.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.fields.keys().map(String::as_str)
    }

    /// Whether the field is there and not `null`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The fields of the object `name`, if there is one.
    pub(crate) fn object(&self, name: &str) -> Result<Option<Config>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(fields)) => {
                let path = format!("{}{name}.", self.path);
                Ok(Some(Config { file: self.file.clone(), path, fields: fields.clone() }))
            }
            Some(_) => Err(self.error(name, "an object")),
        }
    }

    /// A text, if there is one.
    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>> {
        self.get(name).map(|value| value.as_str().ok_or_else(|| self.error(name, "a text"))).transpose()
    }

    /// A size or count.
    pub(crate) fn size(&self, name: &str, default: usize) -> Result<usize> {
        Ok(self.size_if_any(name)?.unwrap_or(default))
    }

    /// A size or count, if there is one.
    pub(crate) fn size_if_any(&self, name: &str) -> Result<Option<usize>> {
        self.whole(name, SIZES)
    }

    /// A size or count; `null` is none, an absent field `default`.
    pub(crate) fn size_or_null(&self, name: &str, default: usize) -> Result<Option<usize>> {
        if self.fields.contains_key(name) { self.size_if_any(name) } else { Ok(Some(default)) }
    }

    /// A number of things that may be none.
    pub(crate) fn count(&self, name: &str, default: usize) -> Result<usize> {
        Ok(self.whole(name, 0..=*SIZES.end())?.unwrap_or(default))
    }

    /// `num_hidden_layers`.
    pub(crate) fn layers(&self, default: usize) -> Result<usize> {
        Ok(self.whole("num_hidden_layers", LAYERS)?.unwrap_or(default))
    }

    /// A whole number out of a few.
    pub(crate) fn one_of(&self, name: &str, allowed: &[usize]) -> Result<usize> {
        let found = self.get(name).and_then(Value::as_u64).and_then(|value| usize::try_from(value).ok());
        found.filter(|value| allowed.contains(value)).ok_or_else(|| {
            let allowed: Vec<String> = allowed.iter().map(usize::to_string).collect();
            self.error(name, format!("one of {}", allowed.join(", ")))
        })
    }

    fn whole(&self, name: &str, range: RangeInclusive<usize>) -> Result<Option<usize>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let whole = value.as_u64().and_then(|value| usize::try_from(value).ok()).filter(|value| range.contains(value));
        let expected = || format!("a whole number from {} to {}", range.start(), range.end());
        whole.map(Some).ok_or_else(|| self.error(name, expected()))
    }

    /// A number above 0.
    pub(crate) fn number(&self, name: &str, default: f64) -> Result<f64> {
        Ok(self.number_if_any(name)?.unwrap_or(default))
    }

    /// A number above 0, if there is one.
    pub(crate) fn number_if_any(&self, name: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = value.as_f64().filter(|number| *number > 0.0 && (*number as f32).is_finite());
        number.map(Some).ok_or_else(|| self.error(name, "a number above 0"))
    }

    /// A number above 0; `null` is none, an absent field `default`.
    pub(crate) fn number_or_null(&self, name: &str, default: Option<f64>) -> Result<Option<f64>> {
        if self.fields.contains_key(name) { self.number_if_any(name) } else { Ok(default) }
    }

    /// A truth value.
    pub(crate) fn flag(&self, name: &str, default: bool) -> Result<bool> {
        match self.get(name) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.error(name, "true or false")),
        }
    }

    /// Whether layers have a bias; absent where nothing says.
    pub(crate) fn bias(&self, name: &str) -> Result<Bias> {
        Ok(if self.flag(name, false)? { Bias::Present } else { Bias::Absent })
    }

    /// `tie_word_embeddings`: whose weights the head has.
    pub(crate) fn head(&self, default: Head) -> Result<Head> {
        let tied = self.flag("tie_word_embeddings", default == Head::Tied)?;
        Ok(if tied { Head::Tied } else { Head::Separate })
    }

    /// An activation, by one of the names transformers has for it.
    pub(crate) fn activation(&self, name: &str, default: Activation) -> Result<Activation> {
        let Some(named) = self.text(name)? else { return Ok(default) };
        activation(named).ok_or_else(|| {
            let known: Vec<&str> = activation_names().collect();
            self.error(name, format!("one of {}", known.join(", ")))
        })
    }

    /// `head_dim`, or the hidden size shared among the heads.
    pub(crate) fn head_dim(&self, hidden_size: usize, num_attention_heads: usize) -> Result<usize> {
        match self.size_if_any("head_dim")? {
            Some(head_dim) => Ok(head_dim),
            None if hidden_size.is_multiple_of(num_attention_heads) => Ok(hidden_size / num_attention_heads),
            None => {
                let expected = format!(
                    "a whole number, as hidden_size {hidden_size} is no multiple of num_attention_heads {num_attention_heads}"
                );
                Err(self.error("head_dim", expected))
            }
        }
    }

    /// `layer_types` of `layers` layers; where the field is absent, layer `i` slides if `slides(i)`.
    pub(crate) fn layer_types(&self, layers: usize, slides: impl Fn(usize) -> bool) -> Result<Vec<LayerType>> {
        let kind = |slides: bool| if slides { LayerType::SlidingAttention } else { LayerType::FullAttention };
        let Some(value) = self.get("layer_types") else { return Ok((0..layers).map(|i| kind(slides(i))).collect()) };
        let read = |value: &Value| LayerType::ALL.into_iter().find(|kind| value.as_str() == Some(kind.name()));
        let kinds = value.as_array().and_then(|list| list.iter().map(read).collect::<Option<Vec<_>>>());
        kinds.filter(|kinds| kinds.len() == layers).ok_or_else(|| {
            let [full, sliding] = LayerType::ALL.map(LayerType::name);
            self.error("layer_types", format!("\"{full}\" or \"{sliding}\" for each of {layers} layers"))
        })
    }
}

/// What a layer's tokens see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LayerType {
    /// Everything before them.
    FullAttention,
    /// The latest `sliding_window` positions.
    SlidingAttention,
}

impl LayerType {
    const ALL: [LayerType; 2] = [LayerType::FullAttention, LayerType::SlidingAttention];

    /// As `layer_types` and `rope_parameters` write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            LayerType::FullAttention => "full_attention",
            LayerType::SlidingAttention => "sliding_attention",
        }
    }
}

/// A value as a message shows it: the start of it, on one line.
fn shortened(value: &Value) -> String {
    const LENGTH: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests;
