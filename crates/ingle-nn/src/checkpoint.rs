// SPDX-License-Identifier: EUPL-1.2
//! What a model's weight files hold: names, shapes and element types, checked before anything is loaded.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ingle_tensor::{Bytes, DType, Quantization, Shape};
use safetensors::SafeTensors;
use safetensors::tensor::Metadata;
use serde::Deserialize;

use crate::gguf::Gguf;
use crate::mapping::Content;
use crate::quantise::Original;
use crate::{Error, ModelFiles, Result};

mod affine;
mod diagnose;
mod stored;
mod write;

pub use affine::{AffineLayers, LayerForm};
use stored::Stored;
pub use stored::StoredTensor;
pub use write::{SafetensorsHeader, write_safetensors};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The dtype of what GGUF's blocks stand for, where nobody asks for another: the files do not say.
pub(crate) const BLOCKS_STAND_FOR: DType = DType::BF16;

/// The tensors of a model's weight files, by name. Their bytes stay where they are, memory-mapped.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    files: Vec<WeightFile>,
    tensors: BTreeMap<String, StoredTensor>,
    /// What the files call the tensor that a model calls by this name.
    names: fn(&str) -> String,
    affine: Option<AffineLayers>,
}

#[derive(Clone, Debug)]
struct WeightFile {
    /// With its folder, for messages.
    located: String,
    content: Content,
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
        let mut checkpoint = Checkpoint::empty(str::to_owned);
        if let Some(content) = files.find_content(SINGLE)? {
            checkpoint.add(files.locate(SINGLE), content)?;
        } else if let Some(index) = files.find_json::<Index>(INDEX)? {
            checkpoint.add_shards(files, &index)?;
        } else {
            for name in files.names()?.iter().filter(|name| name.ends_with(".safetensors")) {
                checkpoint.add(files.locate(name), read(files, name, "it was there a moment ago")?)?;
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

    /// Reads the header of one safetensors file.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_file(files: &ModelFiles, name: &str) -> Result<Self> {
        let mut checkpoint = Checkpoint::empty(str::to_owned);
        checkpoint.add(files.locate(name), read(files, name, "it holds the weights")?)?;
        Ok(checkpoint)
    }

    /// The tensors of a GGUF model, all its parts. A model that asks for a tensor by a name `n` gets what the file
    /// calls `names(n)`.
    ///
    /// # Errors
    /// [`Error::Malformed`] if two parts hold a tensor of the same name.
    pub fn from_gguf(parts: &[Gguf], names: fn(&str) -> String) -> Result<Self> {
        let mut checkpoint = Checkpoint::empty(names);
        for part in parts {
            let file = checkpoint.files.len();
            let tensor = |tensor: &crate::gguf::GgufTensor| StoredTensor {
                file,
                range: part.content().range_of(tensor.content()),
                stored: Stored::Ggml(tensor.ggml_type()),
                shape: tensor.shape().clone(),
            };
            checkpoint
                .add_tensors(part.located(), part.tensors().map(|(name, info)| (name.to_owned(), tensor(info))))?;
            checkpoint.files.push(WeightFile { located: part.located().to_owned(), content: part.content().clone() });
        }
        Ok(checkpoint)
    }

    fn empty(names: fn(&str) -> String) -> Self {
        Checkpoint { files: Vec::new(), tensors: BTreeMap::new(), names, affine: None }
    }

    /// The same tensors, some of which MLX has quantised as `affine` says.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] for a layer that is said to be quantised and is not there.
    pub fn with_affine(mut self, affine: AffineLayers) -> Result<Self> {
        for (layer, form) in &affine.layers {
            let tensor = join(layer, "weight");
            if matches!(form, LayerForm::Quantised(_)) && !self.tensors.contains_key(&tensor) {
                let hint = format!("`quantization` in config.json has an entry for `{layer}`: remove or correct it");
                return Err(Error::MissingTensor { file: self.locate(), tensor, hint });
            }
        }
        self.affine = Some(affine);
        Ok(self)
    }

    fn add_shards(&mut self, files: &ModelFiles, index: &Index) -> Result<()> {
        let shards: BTreeSet<&String> = index.weight_map.values().collect();
        for shard in shards {
            if shard.contains(['/', '\\']) || !shard.ends_with(".safetensors") {
                let message = format!("weight_map: expected names of *.safetensors beside it, found `{shard}`");
                return Err(Error::Malformed { file: files.locate(INDEX), message });
            }
            let hint = format!("{INDEX} names it: download the missing shard");
            self.add(files.locate(shard), read(files, shard, &hint)?)?;
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

    fn add(&mut self, located: String, content: Content) -> Result<()> {
        let bytes = content.bytes();
        let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(|error| {
            let message = diagnose::explain(&bytes, &error);
            Error::Malformed { file: located.clone(), message }
        })?;
        let data = header + size_of::<u64>();
        self.add_tensors(&located, stored_tensors(&metadata, data, self.files.len()))?;
        self.files.push(WeightFile { located, content });
        Ok(())
    }

    fn add_tensors(&mut self, located: &str, tensors: impl IntoIterator<Item = (String, StoredTensor)>) -> Result<()> {
        for (name, tensor) in tensors {
            if let Some(twin) = self.tensors.insert(name.clone(), tensor) {
                let message = format!("tensor `{name}` is in {} too", self.files[twin.file].located);
                return Err(Error::Malformed { file: located.to_owned(), message });
            }
        }
        Ok(())
    }

    /// How many files there are.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Every tensor with its name, sorted by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &StoredTensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The tensor that a model calls by this name.
    pub fn get(&self, name: &str) -> Option<&StoredTensor> {
        self.tensors.get(&self.name_in_file(name))
    }

    /// What the files call the tensor that a model calls by this name.
    pub(crate) fn name_in_file(&self, name: &str) -> String {
        (self.names)(name)
    }

    /// The first of `prefixes` under which `name` is found: exporters do not agree on where a language model
    /// stands inside a larger one.
    pub fn find_prefix<'a>(&self, prefixes: &[&'a str], name: &str) -> Option<&'a str> {
        prefixes.iter().copied().find(|prefix| self.get(&join(prefix, name)).is_some())
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

    /// How many weights there are: of a quantised matrix those it stands for, and its scales and offsets not at all.
    pub fn parameters(&self) -> usize {
        let elements = |(name, tensor): (&String, &StoredTensor)| match self.affine_part(name) {
            Some((layer, "weight")) => self.affine_elements(layer, tensor),
            Some(_) => 0,
            None => tensor.shape().elements(),
        };
        self.tensors.iter().map(elements).fold(0, usize::saturating_add)
    }

    /// The dtype of most weights, by the bytes they take; of quantised ones, that of what they stand for. `None` if
    /// that is none of Ingle's, or there are no tensors.
    pub fn main_dtype(&self) -> Option<DType> {
        let mut bytes: Vec<(Option<DType>, usize)> = Vec::new();
        for (name, tensor) in &self.tensors {
            let dtype = self.float_dtype(name, tensor);
            match bytes.iter_mut().find(|(known, _)| *known == dtype) {
                Some((_, sum)) => *sum += tensor.bytes(),
                None => bytes.push((dtype, tensor.bytes())),
            }
        }
        bytes.into_iter().max_by_key(|(_, sum)| *sum)?.0
    }

    /// The names of the block formats in which matrices are stored, and how many bytes are stored so, the most first.
    pub fn block_formats(&self) -> Vec<(&'static str, usize)> {
        let mut formats: Vec<(&'static str, usize)> = Vec::new();
        for tensor in self.tensors.values() {
            let Some(format) = tensor.block_format() else { continue };
            match formats.iter_mut().find(|(name, _)| *name == format.name()) {
                Some((_, sum)) => *sum += tensor.bytes(),
                None => formats.push((format.name(), tensor.bytes())),
            }
        }
        formats.sort_by_key(|(_, sum)| std::cmp::Reverse(*sum));
        formats
    }

    /// The dtype of a tensor's elements, or of what they stand for.
    fn float_dtype(&self, name: &str, tensor: &StoredTensor) -> Option<DType> {
        match self.affine_part(name) {
            Some((layer, _)) => self.tensors.get(&join(layer, "scales"))?.dtype(),
            None if tensor.block_format().is_some() => Some(BLOCKS_STAND_FOR),
            None => tensor.dtype(),
        }
    }

    /// The layer that a tensor belongs to and its name there, if MLX has quantised that layer.
    fn affine_part<'a>(&self, name: &'a str) -> Option<(&'a str, &'a str)> {
        let (layer, part) = name.rsplit_once('.')?;
        let is = |part: &str, dtype: fn(DType) -> bool| {
            self.tensors.get(&join(layer, part)).and_then(StoredTensor::dtype).is_some_and(dtype)
        };
        let quantised = self.affine.is_some() && is("weight", |dtype| dtype == DType::U32);
        (quantised && matches!(part, "weight" | "scales" | "biases") && is("scales", DType::is_float))
            .then_some((layer, part))
    }

    /// How many weights a layer's packed words stand for.
    fn affine_elements(&self, layer: &str, words: &StoredTensor) -> usize {
        let bits = match self.affine.as_ref().map(|affine| affine.form(layer)) {
            Some(LayerForm::Quantised(Quantization::Affine { bits, .. })) => bits,
            _ => return 0,
        };
        words.shape().elements().saturating_mul(u32::BITS as usize) / bits.max(1)
    }

    /// How MLX quantised the layers, if it did.
    pub(crate) fn affine(&self) -> Option<&AffineLayers> {
        self.affine.as_ref()
    }

    /// The files read, for messages.
    pub fn locate(&self) -> String {
        match self.files.as_slice() {
            [file] => file.located.clone(),
            [first, .., last] => format!("{} … {}", first.located, last.located),
            [] => SINGLE.into(),
        }
    }

    /// The dense tensor that a model calls by this name, to be written in another form.
    ///
    /// # Errors
    /// [`Error::MissingTensor`]; [`Error::UnfitTensor`] if it holds no floating-point numbers that Ingle knows.
    pub fn original(&self, name: &str) -> Result<Original> {
        let tensor = self.name_in_file(name);
        let Some(stored) = self.tensors.get(&tensor) else {
            let hint = "configuration and weights may not belong together".into();
            return Err(Error::MissingTensor { file: self.locate(), tensor, hint });
        };
        let file = self.locate_tensor(stored).to_owned();
        match stored.dtype().filter(|dtype| dtype.is_float()) {
            Some(dtype) => {
                Ok(Original { file, tensor, content: self.content(stored), dtype, shape: stored.shape().clone() })
            }
            None => {
                let expected = "dtype F32, F16 or BF16".into();
                Err(Error::UnfitTensor { file, tensor, expected, found: stored.describe() })
            }
        }
    }

    /// The names of the weight files, without their folder, and of each the tensors with their names.
    pub(crate) fn by_file(&self) -> Vec<(&str, Vec<(&str, &StoredTensor)>)> {
        let name = |file: &WeightFile| file.located.rfind(['/', '\\']).map_or(0, |at| at + 1);
        let mut files: Vec<_> = self.files.iter().map(|file| (&file.located[name(file)..], Vec::new())).collect();
        for (name, tensor) in self.tensors() {
            files[tensor.file].1.push((name, tensor));
        }
        files
    }

    /// Whether it is a model's GGUF file, or the parts of one.
    pub(crate) fn is_gguf(&self) -> bool {
        self.tensors.values().any(|tensor| matches!(tensor.stored, Stored::Ggml(_)))
    }

    /// All bytes of the first file in pieces, in order: each tensor with its name, and what stands between them.
    pub(crate) fn pieces(&self) -> Vec<(Option<(&str, &StoredTensor)>, Bytes)> {
        let Some(file) = self.files.first() else { return Vec::new() };
        let mut tensors: Vec<_> = self.tensors().filter(|(_, tensor)| tensor.file == 0 && tensor.bytes() > 0).collect();
        tensors.sort_by_key(|(_, tensor)| tensor.range.start);
        let (mut pieces, mut at) = (Vec::with_capacity(2 * tensors.len() + 1), 0);
        for (name, tensor) in tensors {
            pieces.push((None, file.content.part(at..tensor.range.start)));
            pieces.push((Some((name, tensor)), file.content.part(tensor.range.clone())));
            at = tensor.range.end;
        }
        pieces.push((None, file.content.part(at..file.content.bytes().len())));
        pieces
    }

    /// The file that holds a tensor, for messages.
    pub(crate) fn locate_tensor(&self, tensor: &StoredTensor) -> &str {
        &self.files[tensor.file].located
    }

    /// The tensor's elements as they are in the file: row-major, little-endian. When the last handle to them drops,
    /// the memory they were read into is given back.
    pub(crate) fn content(&self, tensor: &StoredTensor) -> Bytes {
        self.files[tensor.file].content.part(tensor.range.clone())
    }
}

fn read(files: &ModelFiles, name: &str, hint: &str) -> Result<Content> {
    files.find_content(name)?.ok_or_else(|| Error::MissingFile { file: files.locate(name), hint: hint.into() })
}

/// The tensors of one safetensors file whose data starts at byte `data`.
fn stored_tensors(metadata: &Metadata, data: usize, file: usize) -> Vec<(String, StoredTensor)> {
    let stored = |info: &safetensors::tensor::TensorInfo| StoredTensor {
        file,
        range: data + info.data_offsets.0..data + info.data_offsets.1,
        stored: Stored::Safetensors(info.dtype),
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
