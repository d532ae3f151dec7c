// SPDX-License-Identifier: EUPL-1.2
//! Weights on their way from a checkpoint to a device.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use ingle_tensor::{DType, DeviceHandle, Shape, Spec, Tensor};

use crate::checkpoint::{Checkpoint, StoredTensor, join};
use crate::{Error, Result};

mod initial;
mod matrix;

pub use initial::Initialisation;
use initial::Initialiser;

/// How far loading is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadProgress {
    /// Bytes read from the checkpoint so far.
    pub loaded_bytes: usize,
    /// Bytes that the checkpoint holds.
    pub total_bytes: usize,
}

/// What was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Elements of all tensors.
    pub parameters: usize,
    /// Bytes they take as they are kept.
    pub bytes: usize,
}

/// Called after every few megabytes read.
pub type OnProgress<'a> = dyn FnMut(LoadProgress) + 'a;

/// The tensors under one prefix, to be put on a device by name: those of a checkpoint, or new ones.
///
/// Models load as the checkpoint is written: `weights.scope("layers.3").matrix([n, k])`.
#[derive(Clone)]
pub struct Weights<'a> {
    source: Rc<Source<'a>>,
    prefix: String,
}

/// Where weights come from.
enum Source<'a> {
    Checkpoint(Loader<'a>),
    New(Initialiser),
}

struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    device: DeviceHandle,
    dtype: Option<DType>,
    on_progress: RefCell<&'a mut OnProgress<'a>>,
    read_bytes: Cell<usize>,
    loaded: Cell<Loaded>,
}

impl<'a> Weights<'a> {
    /// All of `checkpoint`'s tensors, to be kept on `device` as `dtype`, or as they are stored if `None`.
    pub fn new(
        checkpoint: &'a Checkpoint,
        device: &DeviceHandle,
        dtype: Option<DType>,
        on_progress: &'a mut OnProgress<'a>,
    ) -> Self {
        let loader = Loader {
            checkpoint,
            device: device.clone(),
            dtype,
            on_progress: RefCell::new(on_progress),
            read_bytes: Cell::default(),
            loaded: Cell::default(),
        };
        Weights { source: Rc::new(Source::Checkpoint(loader)), prefix: String::new() }
    }

    /// New tensors on `device`, for a model that is to be trained from the beginning.
    pub fn initial(device: &DeviceHandle, initialisation: Initialisation) -> Weights<'static> {
        let initialiser = Initialiser::new(device, initialisation);
        Weights { source: Rc::new(Source::New(initialiser)), prefix: String::new() }
    }

    /// The tensors under `name`, a dot between them and the prefix so far. An empty name changes nothing.
    #[must_use]
    pub fn scope(&self, name: &str) -> Self {
        let prefix = if name.is_empty() { self.prefix.clone() } else { join(&self.prefix, name) };
        Weights { source: Rc::clone(&self.source), prefix }
    }

    /// Where the tensors go.
    pub fn device(&self) -> &DeviceHandle {
        match &*self.source {
            Source::Checkpoint(loader) => &loader.device,
            Source::New(initialiser) => initialiser.device(),
        }
    }

    /// What was loaded so far, through this and every other scope.
    pub fn loaded(&self) -> Loaded {
        match &*self.source {
            Source::Checkpoint(loader) => loader.loaded.get(),
            Source::New(initialiser) => initialiser.made(),
        }
    }

    /// The floating-point tensor `name`, on the device. Where the device reads host memory and the dtype is
    /// the stored one, it stays memory-mapped. A new one has `initial` everywhere.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], naming the nearest there is; [`Error::UnfitTensor`] if its shape is not
    /// `shape` or it holds no floating-point numbers that Ingle knows; the device's own.
    pub fn tensor(&self, name: &str, shape: impl Into<Shape>, initial: f64) -> Result<Tensor> {
        match &*self.source {
            Source::Checkpoint(loader) => loader.tensor(&join(&self.prefix, name), shape.into()),
            Source::New(initialiser) => initialiser.constant(shape.into(), initial),
        }
    }
}

impl Loader<'_> {
    fn tensor(&self, name: &str, shape: Shape) -> Result<Tensor> {
        let checkpoint = self.checkpoint;
        let stored = checkpoint.get(name).ok_or_else(|| self.missing(name))?;
        let unfit = |expected: String| Error::UnfitTensor {
            file: checkpoint.locate_tensor(stored).into(),
            tensor: checkpoint.name_in_file(name),
            expected,
            found: stored.describe(),
        };
        if *stored.shape() != shape {
            return Err(unfit(format!("shape {shape}")));
        }
        let dtype = stored.dtype().filter(|dtype| dtype.is_float());
        let dtype = dtype.ok_or_else(|| unfit("dtype F32, F16 or BF16".into()))?;
        self.load(stored, Spec::new(shape, dtype))
    }

    fn missing(&self, name: &str) -> Error {
        let checkpoint = self.checkpoint;
        let tensor = checkpoint.name_in_file(name);
        let hint = match nearest(&tensor, checkpoint.tensors().map(|(name, _)| name)) {
            Some(near) => format!("the nearest there is `{near}`; configuration and weights may not belong together"),
            None => "configuration and weights may not belong together".into(),
        };
        Error::MissingTensor { file: checkpoint.locate(), tensor, hint }
    }

    /// A tensor of which a device that reads host memory keeps the mapping, if the dtype is right.
    fn load(&self, stored: &StoredTensor, spec: Spec) -> Result<Tensor> {
        let tensor = if self.device.keeps_numbers() {
            let content = self.checkpoint.content(stored);
            self.read(&content);
            Tensor::from_bytes(&self.device, content, spec)?
        } else {
            self.upload(stored, spec)?
        };
        let tensor = self.cast(tensor)?;
        self.count(tensor.shape().elements(), tensor.spec().bytes());
        Ok(tensor)
    }

    /// The stored bytes, as they are, on the device.
    fn upload(&self, stored: &StoredTensor, spec: Spec) -> Result<Tensor> {
        if !self.device.keeps_numbers() {
            return Ok(Tensor::full(&self.device, spec.shape, spec.dtype, 0.0)?);
        }
        Ok(Tensor::from_bytes(&self.device, self.checkpoint.content(stored), spec)?)
    }

    fn cast(&self, tensor: Tensor) -> Result<Tensor> {
        Ok(tensor.cast(self.dtype.unwrap_or(tensor.dtype()))?)
    }

    fn count(&self, parameters: usize, bytes: usize) {
        let loaded = self.loaded.get();
        self.loaded.set(Loaded { parameters: loaded.parameters + parameters, bytes: loaded.bytes + bytes });
    }

    /// Brings every page of memory-mapped `content` in, and reports. Otherwise a device that keeps the mapping
    /// would read the disk during the first forward pass, where nobody shows progress.
    fn read(&self, content: &[u8]) {
        const PAGE: usize = 4096;
        const REPORT: usize = 16 << 20;
        for part in content.chunks(REPORT) {
            for page in part.chunks(PAGE) {
                std::hint::black_box(page.first().copied());
            }
            self.report(part.len());
        }
    }

    /// So many bytes more were read.
    fn report(&self, bytes: usize) {
        let loaded_bytes = self.read_bytes.get() + bytes;
        self.read_bytes.set(loaded_bytes);
        (self.on_progress.borrow_mut())(LoadProgress { loaded_bytes, total_bytes: self.checkpoint.bytes() });
    }
}

impl fmt::Debug for Weights<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = match &*self.source {
            Source::Checkpoint(loader) => loader.checkpoint.locate(),
            Source::New(_) => "a new model".into(),
        };
        write!(f, "Weights(`{}` of {origin})", self.prefix)
    }
}

/// The name most like `name`, if any is like it at all.
fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // A hostile file may hold a million names, or one of a megabyte: look at so many, and no longer ones.
    const NAMES: usize = 10_000;
    const LENGTH: usize = 200;
    let near = names.take(NAMES).filter(|other| other.len() <= LENGTH);
    let (distance, other) = near.map(|other| (edit_distance(name, other), other)).min()?;
    (distance <= name.len() / 2).then_some(other)
}

/// Bytes to insert, delete or replace to get from one to the other (Levenshtein 1966).
fn edit_distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests;
