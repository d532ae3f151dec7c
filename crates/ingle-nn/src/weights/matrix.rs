// SPDX-License-Identifier: EUPL-1.2
//! Matrices in whichever form their file holds them.

use ingle_tensor::{BlockFormat, DType, Quantization, Shape, Spec, Tensor};

use super::{Loader, Source, Weights};
use crate::checkpoint::{BLOCKS_STAND_FOR, LayerForm, StoredTensor, join};
use crate::{Error, Result};

/// What an affine layer stores beside its words.
const SCALES: &str = "scales";
const OFFSETS: &str = "biases";

impl Weights<'_> {
    /// The matrix `weight [rows, columns]` of the layer that this scope is, for [`Tensor::linear`]: packed as the
    /// device reads it fastest, and quantised if its file has it so. What it was read from is let go of.
    ///
    /// A quantised matrix is a tensor like any other, of the dtype asked for, else of that which it stands for.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], also for the scales of a quantised matrix; [`Error::UnfitTensor`] if its shape, or
    /// that of its scales, is not what `rows`, `columns` and the configuration call for, or if it is in a form that
    /// Ingle does not know; the device's own.
    pub fn matrix(&self, shape: [usize; 2]) -> Result<Tensor> {
        let loader = match &*self.source {
            Source::Checkpoint(loader) => loader,
            Source::New(initialiser) => return initialiser.matrix(&self.prefix, shape),
        };
        match loader.stored_matrix(&self.prefix, shape)? {
            StoredMatrix::Dense(stored, dtype) => loader.dense(stored, Spec::new(shape, dtype)),
            StoredMatrix::Quantised(quantised) => loader.quantised(quantised),
        }
    }

    /// The matrix `weight [rows, columns]` of the layer that this scope is, for [`Tensor::take_rows`]: as
    /// [`Weights::matrix`], but if it is dense it stays as its file has it, and memory-mapped where the device reads
    /// host memory.
    ///
    /// # Errors
    /// As [`Weights::matrix`].
    pub fn table(&self, shape: [usize; 2]) -> Result<Tensor> {
        let loader = match &*self.source {
            Source::Checkpoint(loader) => loader,
            Source::New(initialiser) => return initialiser.matrix(&self.prefix, shape),
        };
        match loader.stored_matrix(&self.prefix, shape)? {
            StoredMatrix::Dense(stored, dtype) => loader.load(stored, Spec::new(shape, dtype)),
            StoredMatrix::Quantised(quantised) => loader.quantised(quantised),
        }
    }
}

impl Loader<'_> {
    /// The stored form of the matrix of a layer, checked.
    fn stored_matrix(&self, layer: &str, [rows, columns]: [usize; 2]) -> Result<StoredMatrix<'_>> {
        let checkpoint = self.checkpoint;
        let weight = self.stored(layer, "weight")?;
        let unfit = |tensor: &Named<'_>, expected| Err(self.unfit(tensor, expected));
        if let Some(format) = weight.stored.block_format() {
            return match **weight.stored.shape() == [rows, columns] {
                true => {
                    let blocks = Spec::new([rows, columns / format.block_len() * format.block_bytes()], DType::U8);
                    Ok(StoredMatrix::Quantised(Quantised {
                        parts: vec![(weight.stored, blocks)],
                        quantization: Quantization::Blocks(format),
                        dtype: BLOCKS_STAND_FOR,
                    }))
                }
                false => unfit(&weight, format!("shape {}", Shape::from([rows, columns]))),
            };
        }
        let form = checkpoint.affine().map(|affine| affine.form(layer));
        let is_explicit = checkpoint.affine().is_some_and(|affine| affine.layers.contains_key(layer));
        match (weight.stored.dtype(), form) {
            (Some(dtype), form) if dtype.is_float() => {
                if is_explicit && let Some(LayerForm::Quantised(quantization)) = form {
                    return unfit(&weight, format!("{quantization} as config.json says of this layer"));
                }
                match **weight.stored.shape() == [rows, columns] {
                    true => Ok(StoredMatrix::Dense(weight.stored, dtype)),
                    false => unfit(&weight, format!("shape {}", Shape::from([rows, columns]))),
                }
            }
            (Some(DType::U32), Some(LayerForm::Quantised(quantization))) => {
                self.stored_affine(layer, &weight, quantization, [rows, columns])
            }
            (Some(DType::U32), Some(LayerForm::Dense)) => {
                unfit(&weight, "a dense matrix, as config.json says of this layer".into())
            }
            (Some(DType::U32), None) => {
                unfit(&weight, "dtype F32, F16 or BF16, as config.json has no `quantization`".into())
            }
            _ => {
                let formats: Vec<&str> = BlockFormat::ALL.into_iter().map(BlockFormat::name).collect();
                unfit(&weight, format!("dtype F32, F16 or BF16, or one of {}", formats.join(", ")))
            }
        }
    }

    fn stored_affine<'a>(
        &'a self,
        layer: &str,
        weight: &Named<'a>,
        quantization: Quantization,
        [rows, columns]: [usize; 2],
    ) -> Result<StoredMatrix<'a>> {
        let group_size = quantization.block_len();
        let Some(row_bytes) = quantization.row_bytes(columns) else {
            let expected = format!("rows of a multiple of {group_size} weights ({quantization}), not of {columns}");
            return Err(self.unfit(weight, expected));
        };
        let [scales, offsets] = [self.stored(layer, SCALES)?, self.stored(layer, OFFSETS)?];
        let words = Shape::from([rows, row_bytes / size_of::<u32>()]);
        let groups = Shape::from([rows, columns / group_size]);
        for (part, shape) in [(weight, &words), (&scales, &groups), (&offsets, &groups)] {
            if part.stored.shape() != shape {
                return Err(self.unfit(part, format!("shape {shape} ({quantization})")));
            }
        }
        let Some(dtype) = scales.stored.dtype().filter(|dtype| dtype.is_float()) else {
            return Err(self.unfit(&scales, "dtype F32, F16 or BF16".into()));
        };
        if offsets.stored.dtype() != Some(dtype) {
            return Err(self.unfit(&offsets, format!("dtype {dtype}, that of the scales")));
        }
        let parts = vec![
            (weight.stored, Spec::new(words, DType::U32)),
            (scales.stored, Spec::new(groups.clone(), dtype)),
            (offsets.stored, Spec::new(groups, dtype)),
        ];
        Ok(StoredMatrix::Quantised(Quantised { parts, quantization, dtype }))
    }

    /// A tensor of a layer.
    fn stored(&self, layer: &str, name: &str) -> Result<Named<'_>> {
        let name = join(layer, name);
        let stored = self.checkpoint.get(&name).ok_or_else(|| self.missing(&name))?;
        Ok(Named { name, stored })
    }

    fn unfit(&self, tensor: &Named<'_>, expected: String) -> Error {
        let checkpoint = self.checkpoint;
        Error::UnfitTensor {
            file: checkpoint.locate_tensor(tensor.stored).into(),
            tensor: checkpoint.name_in_file(&tensor.name),
            expected,
            found: tensor.stored.describe(),
        }
    }
}

/// A stored tensor and what the model calls it.
struct Named<'a> {
    name: String,
    stored: &'a StoredTensor,
}

/// A matrix as its file holds it.
enum StoredMatrix<'a> {
    Dense(&'a StoredTensor, DType),
    Quantised(Quantised<'a>),
}

/// A quantised matrix as its file holds it.
struct Quantised<'a> {
    /// The inputs of [`Tensor::dequantize`].
    parts: Vec<(&'a StoredTensor, Spec)>,
    quantization: Quantization,
    /// Of what it stands for.
    dtype: DType,
}

impl Loader<'_> {
    fn dense(&self, stored: &StoredTensor, spec: Spec) -> Result<Tensor> {
        let tensor = self.cast(self.upload(stored, spec)?)?.pack()?;
        self.count(tensor.shape().elements(), tensor.spec().bytes());
        self.report(stored.bytes());
        Ok(tensor)
    }

    fn quantised(&self, Quantised { parts, quantization, dtype }: Quantised<'_>) -> Result<Tensor> {
        let bytes = parts.iter().map(|(stored, _)| stored.bytes()).sum();
        let inputs = parts.into_iter().map(|(stored, spec)| self.upload(stored, spec)).collect::<Result<_>>()?;
        let tensor = Tensor::dequantize(inputs, quantization, self.dtype.unwrap_or(dtype))?;
        self.count(tensor.shape().elements(), bytes);
        self.report(bytes);
        Ok(tensor)
    }
}

#[cfg(test)]
mod tests;
