// SPDX-License-Identifier: EUPL-1.2
//! Metadata by key, as the types that the reader expects.

use std::collections::BTreeMap;

use super::value::{Array, Texts, Value};
use crate::{Error, Result};

/// The metadata of a GGUF file: values by key.
#[derive(Clone, Debug)]
pub struct Metadata {
    /// The file, for messages.
    located: String,
    values: BTreeMap<String, Value>,
}

impl Metadata {
    pub(super) fn new(located: String, values: BTreeMap<String, Value>) -> Self {
        Metadata { located, values }
    }

    /// Every value with its key, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value of this key, of whatever type.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// The value of this key as a `T`; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Malformed`], naming the file, the key, what was expected and what was found, if it is no `T`.
    pub fn find<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        T::from_value(value).map(Some).ok_or_else(|| self.unexpected(key, &T::expected()))
    }

    /// The value of this key as a `T`.
    ///
    /// # Errors
    /// [`Error::Malformed`] if it is missing or no `T`.
    pub fn read<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T> {
        self.find(key)?.ok_or_else(|| self.unexpected(key, &T::expected()))
    }

    /// The error that a key's value is missing or not what was `expected`.
    pub fn unexpected(&self, key: &str, expected: &str) -> Error {
        let message = match self.get(key) {
            Some(value) => format!("metadata `{key}`: expected {expected}, found {value}"),
            None => format!("metadata `{key}` is missing, expected {expected}; convert the model again"),
        };
        Error::Malformed { file: self.located.clone(), message }
    }
}

/// What a [`Value`] can be read as: `bool`, `u32`, `i32`, `u64`, `usize` (from whole numbers of any width that fit),
/// `f32` (from numbers with a fraction), `&str`, [`&Array`](Array), [`Texts`], and `Vec` of any but the last three.
pub trait FromValue<'a>: Sized {
    /// What is expected, for messages: `a whole number from 0 to 4294967295`.
    fn expected() -> String;

    /// The value, if it is one.
    fn from_value(value: &'a Value) -> Option<Self>;
}

macro_rules! from_whole_numbers {
    ($($number:ty),*) => {$(
        impl FromValue<'_> for $number {
            fn expected() -> String {
                format!("a whole number from {} to {}", <$number>::MIN, <$number>::MAX)
            }

            fn from_value(value: &Value) -> Option<Self> {
                value.integer()?.try_into().ok()
            }
        }
    )*};
}

from_whole_numbers!(u32, i32, u64, usize);

impl FromValue<'_> for f32 {
    fn expected() -> String {
        "a number with a fraction".into()
    }

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::F32(value) => Some(*value),
            Value::F64(value) => Some(*value as f32),
            _ => None,
        }
    }
}

impl FromValue<'_> for bool {
    fn expected() -> String {
        "true or false".into()
    }

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for &'a str {
    fn expected() -> String {
        "a text".into()
    }

    fn from_value(value: &'a Value) -> Option<Self> {
        match value {
            Value::Text(value) => Some(value),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for &'a Array {
    fn expected() -> String {
        "an array".into()
    }

    fn from_value(value: &'a Value) -> Option<Self> {
        match value {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for Texts<'a> {
    fn expected() -> String {
        "an array of texts".into()
    }

    fn from_value(value: &'a Value) -> Option<Self> {
        <&Array>::from_value(value)?.texts()
    }
}

impl<T: for<'v> FromValue<'v>> FromValue<'_> for Vec<T> {
    fn expected() -> String {
        format!("an array of which each element is {}", T::expected())
    }

    fn from_value(value: &Value) -> Option<Self> {
        <&Array>::from_value(value)?.iter().map(|value| T::from_value(&value)).collect()
    }
}
