// SPDX-License-Identifier: EUPL-1.2
//! Checkpoints: all that a training needs to go on as if it had never stopped.
//!
//! A checkpoint is a folder `step-00000100`: `optimizer.safetensors` with each parameter's exact weights and what the
//! optimiser remembers, and `training.json` with everything else. It is written beside its place, brought to the disk,
//! and renamed: there is never half of one.

use std::path::{Path, PathBuf};

use ingle_nn::output::{OutputFile, Part};
use ingle_nn::{ModelFiles, write_safetensors};
use ingle_tensor::{Bytes, DType, Spec, Tensor};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use crate::data::Position;
use crate::{Error, Parameter, Result, TrainOptions};

const OPTIMIZER: &str = "optimizer.safetensors";
const TRAINING: &str = "training.json";
const PREFIX: &str = "step-";
const WEIGHTS: &str = "weights.safetensors";
const BEST: &str = "best-";

/// Checkpoints that are kept: the one before stays until the next is whole, and one longer.
const KEPT: usize = 2;

/// What a training has come to, besides its parameters. Random numbers are counter-based: the seed among the options
/// and the position are all there is to them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Steps made.
    pub step: u64,
    /// Where the next batch begins.
    pub position: Position,
    /// Tokens read.
    pub tokens: u64,
    /// The lowest validation loss, and the step after which it was found.
    pub best: Option<Best>,
    /// Validations since then.
    pub validations_since: u64,
    /// The step after which the last one was.
    pub validated: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Best {
    pub step: u64,
    pub loss: f32,
}

#[derive(Serialize, Deserialize)]
struct Training {
    format: u32,
    progress: Progress,
    options: TrainOptions,
    /// Of the first pass: other data would be another training.
    examples: usize,
}

const FORMAT: u32 = 1;

/// The checkpoints of a training, in one folder.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoints {
    folder: PathBuf,
}

impl Checkpoints {
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Checkpoints { folder: folder.into() }
    }

    /// Writes one, and removes those that are older than the one before. Gives where it is.
    pub fn save(
        &self,
        parameters: &[Parameter],
        progress: &Progress,
        options: &TrainOptions,
        examples: usize,
    ) -> Result<PathBuf> {
        std::fs::create_dir_all(&self.folder).map_err(|error| Error::file(&self.folder, error))?;
        let path = self.folder.join(format!("{PREFIX}{:08}", progress.step));
        let training = Training { format: FORMAT, progress: progress.clone(), options: options.clone(), examples };
        let training = serde_json::to_vec_pretty(&training).map_err(|error| Error::file(&path, error))?;
        self.clear_parts()?;
        if path.exists() {
            // After the same step the parameters are the same; a validation may have come since.
            let (part, mut file) = Part::file(&path.join(TRAINING))?;
            file.write(&training)?;
            file.finish()?;
            part.finish()?;
            return Ok(path);
        }
        let part = Part::folder(&path)?;
        let mut file = OutputFile::create(&part.path().join(TRAINING))?;
        file.write(&training)?;
        file.finish()?;
        write_tensors(&part.path().join(OPTIMIZER), parameters, |parameter| Ok(parameter.state()?.clone()))?;
        part.finish()?;
        for (_, old) in self.all(PREFIX)?.iter().rev().skip(KEPT) {
            remove(old)?;
        }
        for (step, old) in self.all(BEST)? {
            if progress.best.is_none_or(|best| best.step != step) {
                remove(&old)?;
            }
        }
        Ok(path)
    }

    /// The newest one.
    pub fn newest(&self) -> Result<Option<PathBuf>> {
        Ok(self.all(PREFIX)?.pop().map(|(_, path)| path))
    }

    /// Restores what a checkpoint holds.
    pub fn load(
        path: &Path,
        parameters: &mut [Parameter],
        options: &TrainOptions,
        examples: usize,
    ) -> Result<Progress> {
        let files = ModelFiles::directory(path)?;
        let training: Training = files.read_json(TRAINING, "the checkpoint is not whole; remove it")?;
        if training.format != FORMAT {
            let message = format!("expected a checkpoint of format {FORMAT}, found {}", training.format);
            return Err(Error::file(path.join(TRAINING), message));
        }
        if let Some((option, expected, found)) = options.differs(&training.options) {
            return Err(Error::option(option, format!("{expected}, as in {}", path.display()), found));
        }
        if training.examples != examples {
            let expected = format!("the data of {}, {} examples", path.display(), training.examples);
            return Err(Error::option("data", expected, format!("{examples} examples")));
        }
        read_tensors(path, OPTIMIZER, parameters, |parameter, state| parameter.restore(state))?;
        Ok(training.progress)
    }

    /// Keeps the weights after this step, for they are the best so far. Those that were so before are removed with the
    /// next checkpoint, the one that knows of these.
    pub fn save_best(&self, step: u64, parameters: &[Parameter]) -> Result<()> {
        std::fs::create_dir_all(&self.folder).map_err(|error| Error::file(&self.folder, error))?;
        let path = self.best(step);
        if path.exists() {
            // Of a run that was killed: it had come to the same weights.
            return Ok(());
        }
        self.clear_parts()?;
        let part = Part::folder(&path)?;
        let weight = |parameter: &Parameter| Ok(parameter.state()?.slice(0, 0, 1)?);
        write_tensors(&part.path().join(WEIGHTS), parameters, weight)?;
        Ok(part.finish()?)
    }

    /// Goes back to the weights that were the best.
    pub fn load_best(&self, best: &Best, parameters: &mut [Parameter]) -> Result<()> {
        read_tensors(&self.best(best.step), WEIGHTS, parameters, |parameter, weight| {
            // What the optimiser remembers belongs to other weights.
            let rest = parameter.state()?.slice(0, 1, parameter.state()?.shape()[0])?;
            parameter.restore(Tensor::concat(&[weight, rest], 0)?)
        })
    }

    fn best(&self, step: u64) -> PathBuf {
        self.folder.join(format!("{BEST}{step:08}"))
    }

    /// All that are whole, by step.
    fn all(&self, prefix: &str) -> Result<Vec<(u64, PathBuf)>> {
        let mut all: Vec<(u64, PathBuf)> = self
            .entries()?
            .into_iter()
            .filter_map(|path| {
                let step = path.file_name()?.to_str()?.strip_prefix(prefix)?.parse().ok()?;
                Some((step, path))
            })
            .collect();
        all.sort_unstable();
        Ok(all)
    }

    /// Removes what a run that was killed has left half-written.
    fn clear_parts(&self) -> Result<()> {
        for path in self.entries()? {
            if path.extension().is_some_and(|extension| extension == "part") {
                remove(&path)?;
            }
        }
        Ok(())
    }

    fn entries(&self) -> Result<Vec<PathBuf>> {
        let refused = |error: std::io::Error| Error::file(&self.folder, error);
        match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path()).map_err(refused)).collect(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(refused(error)),
        }
    }
}

fn remove(folder: &Path) -> Result<()> {
    std::fs::remove_dir_all(folder).map_err(|error| Error::file(folder, error))
}

/// Writes a tensor of each parameter under its name.
fn write_tensors(path: &Path, parameters: &[Parameter], of: impl Fn(&Parameter) -> Result<Tensor>) -> Result<()> {
    let named = |parameter: &Parameter| Ok((parameter.name().to_owned(), of(parameter)?));
    let tensors = parameters.iter().map(named).collect::<Result<Vec<_>>>()?;
    Ok(write_safetensors(path, "pt", &tensors)?)
}

/// Reads the f32 tensor of each parameter; there must be no others.
fn read_tensors(
    folder: &Path,
    name: &str,
    parameters: &mut [Parameter],
    mut restore: impl FnMut(&mut Parameter, Tensor) -> Result<()>,
) -> Result<()> {
    let path = folder.join(name);
    let bytes = ModelFiles::directory(folder)?.read(name, "the checkpoint is not whole; remove it")?;
    let refused = |error: safetensors::SafeTensorError| Error::file(&path, error);
    let tensors = SafeTensors::deserialize(&bytes).map_err(refused)?;
    if let Some(stranger) = tensors.names().into_iter().find(|name| parameters.iter().all(|p| p.name() != *name)) {
        let message = format!("holds `{stranger}`, which is not trained here; give the options it was trained with");
        return Err(Error::file(&path, message));
    }
    for parameter in parameters {
        let tensor = tensors.tensor(parameter.name()).map_err(refused)?;
        if tensor.dtype() != safetensors::Dtype::F32 {
            let message = format!("`{}`: expected F32, found {:?}", parameter.name(), tensor.dtype());
            return Err(Error::file(&path, message));
        }
        let device = parameter.state()?.device().clone();
        // A copy: what is mapped cannot be written to, and the file will be removed.
        let copy = Bytes::copy_from_slice(tensor.data());
        restore(parameter, Tensor::from_bytes(&device, copy, Spec::new(tensor.shape(), DType::F32))?)?;
    }
    Ok(())
}
