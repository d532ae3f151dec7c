// SPDX-License-Identifier: EUPL-1.2
//! An adapter merged into the weights that it changes.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::path::Path;

use ingle_tensor::{BlockFormat, Bytes, DType, DeviceHandle, Quantization, Shape, Spec, Tensor};

use super::Adapter;
use crate::checkpoint::{Checkpoint, LayerForm, StoredTensor, join};
use crate::output::OutputFile;
use crate::quantise::{Conversion, Form, Original, RowOrder};
use crate::{Error, Lora, Result, SafetensorsHeader};

/// Parts of a layer that MLX has quantised.
const PARTS: [&str; 3] = ["weight", "scales", "biases"];

/// A checkpoint on its way into the same files with an adapter's changes in them. A layer that is quantised is
/// unpacked, changed, and quantised again as it was.
#[derive(Debug)]
pub struct Fusion {
    checkpoint: Checkpoint,
    adapter: Adapter,
    device: DeviceHandle,
    /// The layer, and the part of it, that a tensor of the files is, if the layer changes.
    parts: HashMap<String, (String, &'static str)>,
    /// Parts of quantised layers that were computed beside another part, and not yet written.
    ready: HashMap<String, Vec<u8>>,
}

impl Fusion {
    /// `adapter`, whose layers have the names that a model calls those of `checkpoint` by, is to be merged into it, on
    /// `device`.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] and [`Error::UnfitTensor`] for a layer that the checkpoint has not, or in another shape
    /// or form than can be changed.
    pub fn new(checkpoint: Checkpoint, adapter: Adapter, device: &DeviceHandle) -> Result<Self> {
        let parts = adapter.layers().flat_map(|(layer, _)| PARTS.map(|part| (layer, part)));
        let in_file = |(layer, part)| (checkpoint.name_in_file(&join(layer, part)), (layer.to_owned(), part));
        let parts = parts.map(in_file).collect();
        let fusion = Fusion { checkpoint, adapter, device: device.clone(), parts, ready: HashMap::new() };
        for (layer, lora) in fusion.adapter.layers() {
            fusion.check(layer, lora)?;
        }
        Ok(fusion)
    }

    /// Bytes that the checkpoint's tensors take: before, and after.
    pub fn bytes(&self) -> usize {
        self.checkpoint.bytes()
    }

    /// How many layers change.
    pub fn layers(&self) -> usize {
        self.adapter.layers().count()
    }

    /// Writes the weight files into the folder `target`, which is there, under the names that they have; or, of a GGUF
    /// model, the file `target`, whose header stays as it is. `on_progress` is called with the bytes of each tensor when
    /// that is written; an error that it gives ends the work.
    ///
    /// # Errors
    /// [`Error::Output`] if they cannot be written; [`Error::UnfitTensor`] if a number is too large for its dtype; those
    /// of `on_progress`; the device's own.
    pub fn write<E: From<Error>>(
        mut self,
        target: &Path,
        mut on_progress: impl FnMut(usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let checkpoint = self.checkpoint.clone();
        if checkpoint.is_gguf() {
            let mut file = OutputFile::create(target)?;
            for (tensor, bytes) in checkpoint.pieces() {
                let Some((name, tensor)) = tensor else {
                    file.write(&bytes)?;
                    continue;
                };
                match self.changed(name, tensor)? {
                    Some(changed) => file.write(&changed)?,
                    None => file.write(&bytes)?,
                }
                on_progress(tensor.bytes())?;
            }
            return Ok(file.finish()?);
        }
        for (name, mut tensors) in checkpoint.by_file() {
            let mut entries = Vec::with_capacity(tensors.len());
            // The widest elements first, so that all are aligned.
            tensors.sort_by_key(|(name, tensor)| (Reverse(tensor.dtype().map(DType::size)), *name));
            let format = if checkpoint.affine().is_some() { "mlx" } else { "pt" };
            let mut header = SafetensorsHeader::new(format);
            for (name, tensor) in tensors {
                let dtype =
                    tensor.dtype().ok_or_else(|| self.unfit(name, tensor, "a dtype that Ingle knows".into()))?;
                header.tensor(name, dtype, tensor.shape());
                entries.push((name, tensor));
            }
            let mut file = OutputFile::create(&target.join(name))?;
            file.write(&header.bytes())?;
            for (name, tensor) in entries {
                match self.changed(name, tensor)? {
                    Some(changed) => file.write(&changed)?,
                    None => file.write(&checkpoint.content(tensor))?,
                }
                on_progress(tensor.bytes())?;
            }
            file.finish()?;
        }
        Ok(())
    }

    /// How a layer is quantised, if it is.
    fn quantised(&self, layer: &str, weight: &StoredTensor) -> Option<Quantization> {
        if let Some(format) = weight.block_format() {
            return Some(Quantization::Blocks(format));
        }
        match self.checkpoint.affine().map(|affine| affine.form(layer)) {
            Some(LayerForm::Quantised(quantization)) if weight.dtype() == Some(DType::U32) => Some(quantization),
            _ => None,
        }
    }

    fn check(&self, layer: &str, lora: &Lora) -> Result<()> {
        let name = join(layer, "weight");
        let Some(weight) = self.checkpoint.get(&name) else {
            let hint = "the adapter is another model's, or for a head that is the embedding table".into();
            return Err(Error::MissingTensor { file: self.checkpoint.locate(), tensor: name, hint });
        };
        let [outputs, inputs] = lora.layer_shape();
        let expected = match self.quantised(layer, weight) {
            Some(Quantization::Blocks(_)) => Some([outputs, inputs]),
            Some(quantization) => quantization.row_bytes(inputs).map(|bytes| [outputs, bytes / size_of::<u32>()]),
            None => weight.dtype().filter(|dtype| dtype.is_float()).map(|_| [outputs, inputs]),
        };
        match expected {
            Some(shape) if **weight.shape() == shape => Ok(()),
            _ => {
                let expected = format!("a layer of {inputs} inputs and {outputs} outputs, as the adapter has it");
                Err(self.unfit(&name, weight, expected))
            }
        }
    }

    /// The bytes of a tensor that the adapter changes.
    fn changed(&mut self, name: &str, tensor: &StoredTensor) -> Result<Option<Vec<u8>>> {
        if let Some(ready) = self.ready.remove(name) {
            return Ok(Some(ready));
        }
        let Some((layer, part)) = self.parts.get(name).cloned() else { return Ok(None) };
        let Some(lora) = self.adapter.layers.get(&layer).cloned() else { return Ok(None) };
        let Some(weight) = self.checkpoint.get(&join(&layer, "weight")).cloned() else { return Ok(None) };
        match self.quantised(&layer, &weight) {
            Some(Quantization::Affine { bits, group_size }) => {
                self.requantise(&layer, Form::Affine { bits, group_size }, &lora)?;
                Ok(self.ready.remove(name))
            }
            // Beside another weight may stand a bias of whatever name.
            _ if part != "weight" => Ok(None),
            Some(Quantization::Blocks(format)) => self.changed_blocks(name, tensor, format, &lora).map(Some),
            None => {
                let dtype = tensor.dtype().unwrap_or(DType::F32);
                let before = self.load(tensor, dtype)?.cast(DType::F32)?;
                let after = self.original(name, &before.add(&lora.change()?)?, dtype)?;
                self.converted(&after, Form::Float(dtype)).map(Some)
            }
        }
    }

    /// The blocks of a changed matrix.
    fn changed_blocks(&self, name: &str, stored: &StoredTensor, format: BlockFormat, lora: &Lora) -> Result<Vec<u8>> {
        let rows = lora.layer_shape()[0];
        let spec = Spec::new([rows, stored.bytes() / rows.max(1)], DType::U8);
        let blocks = Tensor::from_bytes(&self.device, self.checkpoint.content(stored), spec)?;
        let before = Tensor::dequantize(vec![blocks], Quantization::Blocks(format), DType::F32)?;
        let after = self.original(name, &before.add(&lora.change()?)?, DType::F32)?;
        self.converted(&after, Form::Blocks(format))
    }

    /// Computes the parts of a layer in MLX's format anew.
    fn requantise(&mut self, layer: &str, form: Form, lora: &Lora) -> Result<()> {
        let Form::Affine { bits, group_size } = form else { return Ok(()) };
        let quantization = Quantization::Affine { bits, group_size };
        let mut parts = Vec::new();
        let mut dtype = DType::F32;
        for part in PARTS {
            let name = join(layer, part);
            let Some(stored) = self.checkpoint.get(&name) else {
                let (file, hint) = (self.checkpoint.locate(), "the layer is quantised".into());
                return Err(Error::MissingTensor { file, tensor: name, hint });
            };
            let known = stored.dtype().filter(|dtype| dtype.is_float() || *dtype == DType::U32);
            dtype = known.ok_or_else(|| self.unfit(&name, stored, "words of 32 bits, or floats".into()))?;
            parts.push(self.load(stored, dtype)?);
        }
        let before = Tensor::dequantize(parts, quantization, DType::F32)?;
        let after = before.add(&lora.change()?)?;
        let original = self.original(&join(layer, "weight"), &after, dtype)?;
        let rows = self.converted(&original, form)?;
        let columns = lora.layer_shape()[1];
        let (words, groups) = (columns * bits / 8, columns / group_size * dtype.size());
        let mut split = [Vec::new(), Vec::new(), Vec::new()];
        for row in rows.chunks_exact((words + 2 * groups).max(1)) {
            split[0].extend_from_slice(&row[..words]);
            split[1].extend_from_slice(&row[words..words + groups]);
            split[2].extend_from_slice(&row[words + groups..]);
        }
        for (part, bytes) in PARTS.into_iter().zip(split) {
            self.ready.insert(join(layer, part), bytes);
        }
        Ok(())
    }

    fn load(&self, stored: &StoredTensor, dtype: DType) -> Result<Tensor> {
        let content: Bytes = self.checkpoint.content(stored);
        Ok(Tensor::from_bytes(&self.device, content, Spec::new(Shape::clone(stored.shape()), dtype))?)
    }

    fn original(&self, name: &str, matrix: &Tensor, dtype: DType) -> Result<Original> {
        Original::of_matrix(&self.checkpoint.locate(), name, matrix, dtype)
    }

    /// An original in another form, which is refused if it is not finite.
    fn converted(&self, original: &Original, form: Form) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let conversion = Conversion { form, rows: RowOrder::Unchanged, shift: 0.0 };
        original.convert(&conversion, |rows| {
            bytes.extend_from_slice(rows);
            Ok::<_, Error>(())
        })?;
        Ok(bytes)
    }

    fn unfit(&self, name: &str, stored: &StoredTensor, expected: String) -> Error {
        let (file, found) = (self.checkpoint.locate_tensor(stored).into(), stored.describe());
        Error::UnfitTensor { file, tensor: name.into(), expected, found }
    }
}
