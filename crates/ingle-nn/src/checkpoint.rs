// SPDX-License-Identifier: EUPL-1.2
//! What a model's safetensors files hold: names, shapes and dtypes, checked before anything is loaded.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use ingle_tensor::{Bytes, DType, Shape};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as StoredDType, Metadata};
use serde::Deserialize;

use crate::{Error, ModelFiles, Result};

mod diagnose;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The tensors of a model's safetensors files, by name. Their bytes stay where they are, memory-mapped.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    files: Vec<WeightFile>,
    tensors: BTreeMap<String, StoredTensor>,
}

#[derive(Clone, Debug)]
struct WeightFile {
    /// With its folder, for messages.
    located: String,
    content: Bytes,
}

/// A tensor of a [`Checkpoint`].
#[derive(Clone, Debug)]
pub struct StoredTensor {
    file: usize,
    range: Range<usize>,
    stored: StoredDType,
    shape: Shape,
}

impl StoredTensor {
    /// Axis lengths, outermost first.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Element type, or `None` where Ingle has no such type (8-bit floats, f64, …).
    pub fn dtype(&self) -> Option<DType> {
        Some(match self.stored {
            StoredDType::F32 => DType::F32,
            StoredDType::F16 => DType::F16,
            StoredDType::BF16 => DType::BF16,
            StoredDType::U8 | StoredDType::BOOL => DType::U8,
            StoredDType::I8 => DType::I8,
            StoredDType::I32 => DType::I32,
            StoredDType::U32 => DType::U32,
            StoredDType::I64 => DType::I64,
            _ => return None,
        })
    }

    /// Shape and the file's own name of the dtype: `BF16[64, 32]`.
    pub fn describe(&self) -> String {
        format!("{}{}", self.stored, self.shape)
    }

    /// Bytes it takes in the file.
    pub fn bytes(&self) -> usize {
        self.range.len()
    }
}

/// The part of `model.safetensors.index.json` that matters.
#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

impl Checkpoint {
    /// Reads the headers of `model.safetensors`; without that file, of the shards that
    /// `model.safetensors.index.json` names; without that too, of every `*.safetensors`.
    ///
    /// # Errors
    /// [`Error::MissingFile`] if there are no weights or a shard is missing; [`Error::Malformed`] for a
    /// truncated or lying file, naming the tensor where one is at fault; [`Error::MissingTensor`] for a tensor
    /// that the index names and its shard lacks.
    pub fn open(files: &ModelFiles) -> Result<Self> {
        let mut checkpoint = Checkpoint { files: Vec::new(), tensors: BTreeMap::new() };
        if let Some(content) = files.find(SINGLE)? {
            checkpoint.add(files.locate(SINGLE), content)?;
        } else if let Some(index) = files.find_json::<Index>(INDEX)? {
            checkpoint.add_shards(files, &index)?;
        } else {
            for name in files.names()?.iter().filter(|name| name.ends_with(".safetensors")) {
                checkpoint.add(files.locate(name), files.read(name, "it was there a moment ago")?)?;
            }
        }
        if checkpoint.files.is_empty() {
            return Err(Error::MissingFile {
                file: files.locate(SINGLE),
                hint: "download the model's weights as safetensors".into(),
            });
        }
        Ok(checkpoint)
    }

    fn add_shards(&mut self, files: &ModelFiles, index: &Index) -> Result<()> {
        let shards: BTreeSet<&String> = index.weight_map.values().collect();
        for shard in shards {
            if shard.contains(['/', '\\']) || !shard.ends_with(".safetensors") {
                let message = format!("weight_map: expected names of *.safetensors beside it, found `{shard}`");
                return Err(Error::Malformed { file: files.locate(INDEX), message });
            }
            let hint = format!("{INDEX} names it: download the missing shard");
            self.add(files.locate(shard), files.read(shard, &hint)?)?;
        }
        for (tensor, shard) in &index.weight_map {
            let file = files.locate(shard);
            let found = self.tensors.get(tensor).is_some_and(|stored| self.files[stored.file].located == file);
            if !found {
                let hint = format!("{INDEX} says it is there: download the shard again");
                return Err(Error::MissingTensor { file, tensor: tensor.clone(), hint });
            }
        }
        Ok(())
    }

    fn add(&mut self, located: String, content: Bytes) -> Result<()> {
        let malformed = |message| Error::Malformed { file: located.clone(), message };
        let (header, metadata) =
            SafeTensors::read_metadata(&content).map_err(|error| malformed(diagnose::explain(&content, &error)))?;
        let data = header + size_of::<u64>();
        for (name, tensor) in stored_tensors(&metadata, data, self.files.len()) {
            if let Some(twin) = self.tensors.insert(name.clone(), tensor) {
                return Err(malformed(format!("tensor `{name}` is in {} too", self.files[twin.file].located)));
            }
        }
        self.files.push(WeightFile { located, content });
        Ok(())
    }

    /// Every tensor with its name, sorted by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &StoredTensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The tensor of this name.
    pub fn get(&self, name: &str) -> Option<&StoredTensor> {
        self.tensors.get(name)
    }

    /// The first of `prefixes` under which `name` is found: exporters do not agree on where a language model
    /// stands inside a larger one.
    pub fn find_prefix<'a>(&self, prefixes: &[&'a str], name: &str) -> Option<&'a str> {
        prefixes.iter().copied().find(|prefix| self.tensors.contains_key(&join(prefix, name)))
    }

    /// Forgets the tensors that `keep` does not want: a vision tower that will not be loaded.
    #[must_use]
    pub fn retain(mut self, keep: impl Fn(&str) -> bool) -> Self {
        self.tensors.retain(|name, _| keep(name));
        self
    }

    /// Bytes that all tensors take.
    pub fn bytes(&self) -> usize {
        self.tensors.values().map(StoredTensor::bytes).sum()
    }

    /// The dtype that takes the most bytes; `None` if that is none of Ingle's, or there are no tensors.
    pub fn main_dtype(&self) -> Option<DType> {
        let mut bytes: Vec<(StoredDType, usize)> = Vec::new();
        for tensor in self.tensors.values() {
            match bytes.iter_mut().find(|(dtype, _)| *dtype == tensor.stored) {
                Some((_, sum)) => *sum += tensor.bytes(),
                None => bytes.push((tensor.stored, tensor.bytes())),
            }
        }
        let (stored, _) = bytes.into_iter().max_by_key(|(_, sum)| *sum)?;
        self.tensors.values().find(|tensor| tensor.stored == stored)?.dtype()
    }

    /// The files read, for messages.
    pub fn locate(&self) -> String {
        match self.files.as_slice() {
            [file] => file.located.clone(),
            [first, .., last] => format!("{} … {}", first.located, last.located),
            [] => SINGLE.into(),
        }
    }

    /// The file that holds a tensor, for messages.
    pub(crate) fn locate_tensor(&self, tensor: &StoredTensor) -> &str {
        &self.files[tensor.file].located
    }

    /// The tensor's elements as they are in the file: row-major, little-endian.
    pub(crate) fn content(&self, tensor: &StoredTensor) -> Bytes {
        self.files[tensor.file].content.slice(tensor.range.clone())
    }
}

/// The tensors of one file whose data starts at byte `data`.
fn stored_tensors(metadata: &Metadata, data: usize, file: usize) -> Vec<(String, StoredTensor)> {
    let stored = |info: &safetensors::tensor::TensorInfo| StoredTensor {
        file,
        range: data + info.data_offsets.0..data + info.data_offsets.1,
        stored: info.dtype,
        shape: Shape::from(info.shape.as_slice()),
    };
    metadata.tensors().into_iter().map(|(name, info)| (name, stored(info))).collect()
}

/// A tensor's full name.
pub(crate) fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.into() } else { format!("{prefix}.{name}") }
}

#[cfg(test)]
mod tests;
