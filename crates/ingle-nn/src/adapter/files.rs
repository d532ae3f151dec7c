// SPDX-License-Identifier: EUPL-1.2
//! Adapters as files: those of PEFT and those of mlx-lm.

use std::path::Path;

use ingle_tensor::{DeviceHandle, Tensor};
use serde_json::{Map, Value};

use super::{Adapter, mlx, peft};
use crate::checkpoint::Checkpoint;
use crate::output::{OutputFile, Part, refused};
use crate::{Error, ModelFiles, Result, Weights, write_safetensors};

/// Both formats have a file of this name, each with a content of its own.
pub(super) const CONFIG: &str = "adapter_config.json";

/// Whose files an adapter is written as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdapterFormat {
    /// Hugging Face PEFT's: `adapter_config.json` and `adapter_model.safetensors`.
    #[default]
    Peft,
    /// mlx-lm's: `adapter_config.json` and `adapters.safetensors`.
    Mlx,
}

impl Adapter {
    /// Reads an adapter that PEFT, mlx-lm or Ingle has written, onto `device`. Its layers have the names that the files
    /// give them; which of the two formats it is, the files tell.
    ///
    /// # Errors
    /// [`Error::MissingFile`] if there is no adapter; [`Error::Malformed`] for a configuration that says something else
    /// than LoRA, or a weight file that lies; [`Error::MissingTensor`] and [`Error::UnfitTensor`] for matrices that do
    /// not fit each other or the configuration; past the device's memory.
    pub fn open(folder: impl AsRef<Path>, device: &DeviceHandle) -> Result<Self> {
        let folder = folder.as_ref();
        let files = ModelFiles::Directory(folder.into());
        let missing = |file: &str, hint: &str| Error::MissingFile { file: files.locate(file), hint: hint.into() };
        if folder.join(peft::WEIGHTS).is_file() {
            return peft::read(&files, device);
        }
        if folder.join(mlx::WEIGHTS).is_file() {
            return mlx::read(&files, device);
        }
        Err(match folder.join("adapter_model.bin").is_file() {
            true => missing(peft::WEIGHTS, "adapter_model.bin is pickled Python; save it as safetensors with PEFT"),
            false => missing(CONFIG, "give a directory with an adapter of PEFT or mlx-lm"),
        })
    }

    /// Writes the adapter's two files into `folder`, which is there. `base` is the model that it belongs to, as the
    /// files name it.
    ///
    /// # Errors
    /// [`Error::Lora`] for one that the format cannot hold; [`Error::Output`] if they cannot be written; the device's
    /// own.
    pub fn write(&self, folder: &Path, format: AdapterFormat, base: &str) -> Result<()> {
        if self.layers.is_empty() {
            let expected = "an adapter of at least one layer".into();
            return Err(Error::Lora { field: "adapter", expected, found: "none".into() });
        }
        let (config, weights, tensors) = match format {
            AdapterFormat::Peft => (peft::config(self, base), peft::WEIGHTS, peft::tensors(self)?),
            AdapterFormat::Mlx => (mlx::config(self, base)?, mlx::WEIGHTS, mlx::tensors(self)?),
        };
        let mut file = OutputFile::create(&folder.join(CONFIG))?;
        file.write(format!("{config:#}\n").as_bytes())?;
        file.finish()?;
        let name = match format {
            AdapterFormat::Peft => "pt",
            AdapterFormat::Mlx => "mlx",
        };
        write_safetensors(&folder.join(weights), name, &tensors)
    }

    /// Writes the adapter as the new directory `out`, which is there whole or not at all.
    ///
    /// # Errors
    /// As [`Adapter::write`]; [`Error::Output`] if `out` is there already.
    pub fn save(&self, out: &Path, format: AdapterFormat, base: &str) -> Result<()> {
        if out.exists() {
            return Err(refused(out, "is there already; remove it, or give another path"));
        }
        let part = Part::folder(out)?;
        self.write(part.path(), format, base)?;
        part.finish()
    }
}

/// The fields of the configuration.
pub(super) fn read_config(files: &ModelFiles) -> Result<Map<String, Value>> {
    files.read_json(CONFIG, "it says how the adapter is to be used: copy it from where the adapter is from")
}

/// An error about a field of the configuration.
pub(super) fn unexpected(files: &ModelFiles, field: &str, expected: &str, found: &Value) -> Error {
    let message = format!("{field}: expected {expected}, found {found}");
    Error::Malformed { file: files.locate(CONFIG), message }
}

/// A field, if it is there and not `null`.
pub(super) fn field<'a>(config: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    config.get(name).filter(|value| !value.is_null())
}

/// A finite number.
pub(super) fn number(files: &ModelFiles, name: &str, value: &Value) -> Result<f64> {
    let finite = value.as_f64().filter(|number| number.is_finite());
    finite.ok_or_else(|| unexpected(files, name, "a finite number", value))
}

/// The share of the features that training leaves out; none where nothing says.
pub(super) fn dropout(files: &ModelFiles, name: &str, value: Option<&Value>) -> Result<f64> {
    let Some(value) = value else { return Ok(0.0) };
    let share = value.as_f64().filter(|share| (0.0..1.0).contains(share));
    share.ok_or_else(|| unexpected(files, name, "a number from 0 up to, not including, 1", value))
}

/// A rank.
pub(super) fn rank(files: &ModelFiles, name: &str, value: &Value) -> Result<usize> {
    let rank = value.as_u64().and_then(|rank| usize::try_from(rank).ok()).filter(|rank| *rank > 0);
    rank.ok_or_else(|| unexpected(files, name, "a whole number of at least 1", value))
}

/// The matrices of an adapter's file.
pub(super) struct Matrices {
    checkpoint: Checkpoint,
    device: DeviceHandle,
}

impl Matrices {
    pub fn open(files: &ModelFiles, name: &str, device: &DeviceHandle) -> Result<Self> {
        Ok(Matrices { checkpoint: Checkpoint::open_file(files, name)?, device: device.clone() })
    }

    /// The names of the layers that have a matrix with the first of these endings. Every tensor has one of them.
    pub fn layers(&self, endings: &[&str]) -> Result<Vec<String>> {
        let mut layers = Vec::new();
        for (name, stored) in self.checkpoint.tensors() {
            let ending = endings.iter().position(|ending| name.ends_with(ending));
            match ending {
                Some(0) => layers.push(name[..name.len() - endings[0].len()].to_owned()),
                Some(_) => {}
                None => {
                    return Err(Error::UnfitTensor {
                        file: self.checkpoint.locate(),
                        tensor: name.into(),
                        expected: format!("only tensors called …{}", endings.join(", …")),
                        found: stored.describe(),
                    });
                }
            }
        }
        match layers.is_empty() {
            false => Ok(layers),
            true => Err(Error::MissingTensor {
                file: self.checkpoint.locate(),
                tensor: format!("…{}", endings[0]),
                hint: "there is nothing of an adapter in it".into(),
            }),
        }
    }

    /// The matrix `name`. `rank_axis` is of length `rank`.
    pub fn matrix(&self, name: &str, rank: usize, rank_axis: usize) -> Result<Tensor> {
        let Some(stored) = self.checkpoint.get(name) else {
            let (file, hint) = (self.checkpoint.locate(), "its other half is there: the file is incomplete".into());
            return Err(Error::MissingTensor { file, tensor: name.into(), hint });
        };
        let shape = stored.shape().clone();
        if shape.len() != 2 || shape[rank_axis] != rank {
            let expected = match rank_axis {
                0 => format!("shape [{rank}, …], as {CONFIG} has the rank"),
                _ => format!("shape […, {rank}], as {CONFIG} has the rank"),
            };
            let (file, found) = (self.checkpoint.locate(), stored.describe());
            return Err(Error::UnfitTensor { file, tensor: name.into(), expected, found });
        }
        let mut on_progress = |_| {};
        Weights::new(&self.checkpoint, &self.device, None, &mut on_progress).tensor(name, shape, 0.0)
    }
}

/// The transpose, laid out row by row.
pub(super) fn transposed(matrix: &Tensor) -> Result<Tensor> {
    let turned = matrix.permute(&[1, 0])?;
    let bytes = turned.device().download(&turned)?;
    Ok(Tensor::from_bytes(turned.device(), bytes.into(), turned.spec().clone())?)
}

/// Where a language model stands beside a vision tower, as checkpoints and mlx-lm name it and as transformers' modules
/// do.
const NESTED: [&str; 2] = ["language_model.model.", "model.language_model."];

/// The name of a layer in its checkpoint, as transformers' modules have it.
pub(super) fn module_name(layer: &str) -> String {
    layer.strip_prefix(NESTED[0]).map_or_else(|| layer.to_owned(), |rest| format!("{}{rest}", NESTED[1]))
}

/// The name of a layer, as checkpoints have it.
pub(super) fn checkpoint_name(layer: &str) -> String {
    layer.strip_prefix(NESTED[1]).map_or_else(|| layer.to_owned(), |rest| format!("{}{rest}", NESTED[0]))
}

#[cfg(test)]
mod tests;
