// SPDX-License-Identifier: EUPL-1.2
//! GGUF files, as llama.cpp and its kin write them: a model's configuration, tokeniser and weights in one file.
//!
//! [`Gguf`] reads the container: it checks every count, length and offset against the file before it believes them,
//! and copies neither weights nor vocabularies. What the metadata mean is for those who build models and tokenisers.
//!
//! The format is specified in <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
//!
//! ```
//! use ingle_nn::gguf::{GgmlType, Gguf};
//! use ingle_tensor::Bytes;
//!
//! // Version 3, one tensor and one metadata value.
//! let mut file = b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0".to_vec();
//! file.extend(b"\x11\0\0\0\0\0\0\0llama.block_count\x04\0\0\0\x10\0\0\0");
//! // `w`, of two axes, the innermost first: 3 and 2; F32; at byte 0 of the data.
//! file.extend(b"\x01\0\0\0\0\0\0\0w\x02\0\0\0\x03\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
//! file.resize(file.len().next_multiple_of(32) + 24, 0);
//!
//! let gguf = Gguf::read("tiny.gguf".into(), Bytes::from(file))?;
//! let layers: u32 = gguf.metadata().read("llama.block_count")?;
//! assert_eq!(layers, 16);
//! let weight = gguf.get("w").expect("it is there");
//! assert_eq!((weight.ggml_type(), weight.describe().as_str()), (GgmlType::F32, "F32[2, 3]"));
//!
//! let refused = gguf.metadata().read::<&str>("llama.block_count").unwrap_err();
//! assert_eq!(refused.to_string(), "tiny.gguf: metadata `llama.block_count`: expected a text, found u32 16");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ingle_tensor::{Bytes, Shape};

use crate::mapping::Content;
use crate::{Error, Result};

mod cursor;
mod ggml_type;
mod metadata;
mod parse;
mod value;
mod write;

pub use ggml_type::GgmlType;
pub use metadata::{FromValue, Metadata};
pub use value::{Array, Texts, Value, ValueType};
pub use write::{ALIGNMENT, ElementType, GgufHeader, ToValue};

/// A GGUF file: its metadata and its tensors. The content stays where it is, memory-mapped. Clones share it.
#[derive(Clone, Debug)]
pub struct Gguf {
    located: String,
    content: Content,
    metadata: Metadata,
    tensors: BTreeMap<String, GgufTensor>,
}

/// A tensor of a [`Gguf`].
#[derive(Clone, Debug)]
pub struct GgufTensor {
    ggml_type: GgmlType,
    shape: Shape,
    content: Bytes,
}

impl GgufTensor {
    /// How its elements are stored.
    pub fn ggml_type(&self) -> GgmlType {
        self.ggml_type
    }

    /// Axis lengths, outermost first: the other way round than in the file.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Its elements as they are in the file: row-major, little-endian, in blocks of
    /// [`GgmlType::block_len`].
    pub fn content(&self) -> &Bytes {
        &self.content
    }

    /// Bytes it takes in the file.
    pub fn bytes(&self) -> usize {
        self.content.len()
    }

    /// Type and shape: `Q4_0[64, 32]`.
    pub fn describe(&self) -> String {
        format!("{}{}", self.ggml_type, self.shape)
    }
}

impl Gguf {
    /// Opens and checks a file; it is memory-mapped, and must be neither changed nor shortened while it is in
    /// use.
    ///
    /// # Errors
    /// [`Error::MissingFile`] and [`Error::Io`] if it cannot be read, and what [`Gguf::read`] refuses.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let located = path.display().to_string();
        match Content::open(path)? {
            Some(content) => Gguf::parse(located, content),
            None => Err(Error::MissingFile { file: located, hint: "give the path of a .gguf file".into() }),
        }
    }

    /// Opens every file of a model that was split (`model-00001-of-00003.gguf` …), of which `path` is the first; none
    /// may be changed or shortened while it is in use.
    /// one file if it was not. The metadata are those of the first.
    ///
    /// # Errors
    /// As [`Gguf::open`]; [`Error::Malformed`] if `path` is not the first part, or a part is that of another model.
    pub fn open_parts(path: impl AsRef<Path>) -> Result<Vec<Self>> {
        let path = path.as_ref();
        let first = Gguf::open(path)?;
        let count = first.metadata.find::<u32>("split.count")?.unwrap_or(1).max(1);
        let number = first.metadata.find::<u32>("split.no")?.unwrap_or(0);
        let mut parts = vec![first];
        if count > 1 && (number != 0 || part_path(path, 1, count).as_deref() != Some(path)) {
            let message =
                format!("is part {} of {count}; give the part named *-00001-of-{count:05}.gguf", u64::from(number) + 1);
            return Err(parts.remove(0).malformed(message));
        }
        for number in 2..=count {
            let hint = || format!("the model has {count} parts: download this one too");
            let Some(path) = part_path(path, number, count) else { break };
            let part = Gguf::open(&path).map_err(|error| match error {
                Error::MissingFile { file, .. } => Error::MissingFile { file, hint: hint() },
                other => other,
            })?;
            let found = (part.metadata.find::<u32>("split.no")?, part.metadata.find::<u32>("split.count")?);
            if found != (Some(number - 1), Some(count)) {
                let message = format!("expected part {number} of {count} (split.no {}), found {found:?}", number - 1);
                return Err(part.malformed(message));
            }
            parts.push(part);
        }
        Ok(parts)
    }

    /// Reads and checks the header of a file's content. `located` is the file's name with its folder, for messages.
    ///
    /// Counts, lengths and offsets are checked against the content: what takes memory here is at most a few times
    /// the bytes that describe it there.
    ///
    /// # Errors
    /// [`Error::Malformed`] for what is truncated or lies, of another version than 2 or 3, or big-endian; for a type
    /// that is not known, for metadata or tensors of the same name, and for tensors that overlap.
    pub fn read(located: String, content: Bytes) -> Result<Self> {
        Gguf::parse(located, Content::Memory(content))
    }

    fn parse(located: String, content: Content) -> Result<Self> {
        match parse::parse(&content.bytes()) {
            Ok((values, tensors)) => {
                Ok(Gguf { metadata: Metadata::new(located.clone(), values), located, content, tensors })
            }
            Err(message) => Err(Error::Malformed { file: located, message }),
        }
    }

    /// The file's content, of which the tensors are parts.
    pub(crate) fn content(&self) -> &Content {
        &self.content
    }

    /// The file's name with its folder, for messages.
    pub fn located(&self) -> &str {
        &self.located
    }

    /// The metadata, by key.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Every tensor with its name, sorted by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &GgufTensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The tensor of this name.
    pub fn get(&self, name: &str) -> Option<&GgufTensor> {
        self.tensors.get(name)
    }

    /// An error about this file.
    pub fn malformed(&self, message: String) -> Error {
        Error::Malformed { file: self.located.clone(), message }
    }
}

/// The path of a part, counted from 1, of the model whose first part is `first`, if that is named as one.
fn part_path(first: &Path, number: u32, count: u32) -> Option<PathBuf> {
    let name = first.file_name()?.to_str()?;
    let stem = name.strip_suffix(&format!("-00001-of-{count:05}.gguf"))?;
    Some(first.with_file_name(format!("{stem}-{number:05}-of-{count:05}.gguf")))
}

#[cfg(test)]
mod tests;
