// SPDX-License-Identifier: EUPL-1.2
//! Products with weights, dense and quantised.

use ingle_tensor::{BinaryOp, DType, Quantization, Result, Shape, Spec, Tensor, UnpackedRow};

use crate::array::{Array, arrays, kind};
use crate::bridge::{self, Engine};
use crate::elementwise::{binary, cast};
use crate::engine::unsuited;
use crate::layout;
use crate::storage::{Affine, Form, MlxStorage, narrowed};

/// A weight or a bias, and what it is.
pub(crate) type Operand<'a> = (MlxStorage, &'a Spec);

/// `x · weightᵀ + bias`.
pub(crate) fn linear(
    op: &'static str,
    engine: Engine,
    (x, x_spec): (&Array, &Spec),
    (weight, weight_spec): Operand<'_>,
    bias: Option<Operand<'_>>,
    output: &Spec,
) -> Result<Array> {
    let dtype = output.dtype;
    let bias = match bias {
        Some((bias, spec)) => Some((bias.plain(op, spec.dtype)?, spec.dtype)),
        None => None,
    };
    if output.shape.elements() == 0 || weight_spec.shape[1] == 0 {
        let zeros = layout::full(op, &Spec::new(output.shape.clone(), DType::F32), 0.0)?;
        return finish(op, &zeros, bias, dtype);
    }
    let k = weight_spec.shape[1];
    let count = x_spec.shape.elements() / k;
    let rows = layout::reshape(op, x, &Shape::from([count, k]))?;
    let native = engine != Engine::Cpu && dtype != DType::F32;
    // A bias is added before the one rounding.
    let own = native && bias.is_none();
    let form = match weight.form {
        Form::Affine(affine) if unpacks(engine, &affine, [count, k], own) => {
            Form::Dense(affine.weights(op, weight_spec.dtype)?)
        }
        form => form,
    };
    let product = match form {
        Form::Affine(affine) => {
            // MLX multiplies in the wider dtype of `x` and the scales.
            let rows = if own { rows } else { cast(op, &rows, dtype, DType::F32)? };
            let Affine { words, scales, offsets, .. } = &affine;
            let (group, bits) = (affine.group(), affine.bits());
            let made = bridge::quantized_linear(rows.get(), words.get(), scales.get(), offsets.get(), group, bits);
            let product = Array::new(op, made)?;
            if own {
                let product = Array::new(op, bridge::cast(product.get(), kind(dtype)))?;
                return layout::reshape(op, &product, &output.shape);
            }
            product
        }
        Form::Dense(weight) if own && dtype == weight_spec.dtype => {
            let product = bridge::linear(rows.get(), weight.get());
            return layout::reshape(op, &Array::new(op, product)?, &output.shape);
        }
        Form::Dense(weight) if native && dtype == weight_spec.dtype => in_f32(op, &rows, &weight)?,
        // The head's product, on a GPU.
        Form::Dense(weight) if engine != Engine::Cpu && weight_spec.dtype == DType::BF16 => {
            let rows = cast(op, &rows, dtype, DType::F32)?;
            in_two_parts(op, &rows, &weight, [count, weight_spec.shape[0]])?
        }
        Form::Dense(weight) => {
            let weight = cast(op, &weight, weight_spec.dtype, DType::F32)?;
            let rows = cast(op, &rows, dtype, DType::F32)?;
            Array::new(op, bridge::linear(rows.get(), weight.get()))?
        }
        Form::Turned(weight) => {
            let rows = cast(op, &rows, dtype, DType::F32)?;
            Array::new(op, bridge::matmul(rows.get(), weight.get()))?
        }
    };
    let product = layout::reshape(op, &product, &output.shape)?;
    finish(op, &product, bias, dtype)
}

/// Whether a quantised weight is unpacked, in memory of this product alone, for so many rows of width `k`; `own` says that
/// they and the result are of one narrow dtype.
///
/// MLX's kernels for CUDA read the packed weight again for every tile of rows, and compute at a quarter of cuBLAS's rate.
/// That for f32 is compiled anew for each shape of tile, which takes it many seconds, and has no room for more than 32
/// rows with groups of 128. That for rows of one group needs headers that MLX's own packages do not bring.
fn unpacks(engine: Engine, affine: &Affine, [rows, k]: [usize; 2], own: bool) -> bool {
    const FEWEST: usize = 128;
    const FEWEST_WIDE: usize = 8;
    let fewest = match () {
        () if affine.group_size >= k => 2,
        () if own => FEWEST,
        () => FEWEST_WIDE,
    };
    engine == Engine::Cuda && rows >= fewest
}

/// `x · weightᵀ` in f32, both being of one narrower dtype, without a copy of the weight in f32, which for the table of a
/// vocabulary would cost more than the rest of a step.
///
/// MLX's products are as narrow as their operands, but for the sums within. So the result is taken as the sum of two
/// numbers: what the product rounds to, and what the product less that rounds to. It reads the weight twice.
fn in_f32(op: &'static str, x: &Array, weight: &Array) -> Result<Array> {
    let product = Array::new(op, bridge::linear(x.get(), weight.get()))?;
    let left = Array::new(op, bridge::linear_less(x.get(), weight.get(), product.get()))?;
    Array::new(op, bridge::sum_of_parts(&arrays(&[product, left])))
}

/// As [`in_f32`], `x [rows, k]` being f32 and the weight bf16: `x`, too, is taken as the sum of two numbers of bf16, one
/// below the other, what it rounds to and what is left of it.
fn in_two_parts(op: &'static str, x: &Array, weight: &Array, [rows, outputs]: [usize; 2]) -> Result<Array> {
    let (wide, narrow) = (DType::F32, DType::BF16);
    let high = cast(op, x, wide, narrow)?;
    let rest = binary(op, BinaryOp::Sub, x, &cast(op, &high, narrow, wide)?)?;
    let both = layout::concat(op, &[high, cast(op, &rest, wide, narrow)?], 0)?;
    let product = Array::new(op, bridge::linear(both.get(), weight.get()))?;
    let left = Array::new(op, bridge::linear_less(both.get(), weight.get(), product.get()))?;
    let shape = Shape::from([2 * rows, outputs]);
    let half = |part: &Array, start: usize| layout::slice(op, part, &shape, 0, [start, start + rows, 1]);
    let parts = [half(&product, 0)?, half(&left, 0)?, half(&product, rows)?, half(&left, rows)?];
    Array::new(op, bridge::sum_of_parts(&arrays(&parts)))
}

/// Adds the bias to a product in f32, and rounds once.
fn finish(op: &'static str, product: &Array, bias: Option<(Array, DType)>, dtype: DType) -> Result<Array> {
    let sum = match bias {
        Some((bias, own)) => binary(op, BinaryOp::Add, product, &cast(op, &bias, own, DType::F32)?)?,
        None => product.clone(),
    };
    narrowed(op, &sum, dtype)
}

/// A weight as [`linear`] reads it fastest.
pub(crate) fn pack(op: &'static str, engine: Engine, (weight, spec): Operand<'_>) -> Result<MlxStorage> {
    let form = match weight.form {
        Form::Dense(array) if engine == Engine::Cpu && spec.shape.elements() > 0 => {
            Form::Turned(Array::new(op, bridge::turned(array.get()))?)
        }
        form => form,
    };
    Ok(MlxStorage::new(form))
}

/// A quantised matrix: MLX's own format stays packed; GGUF's blocks, which MLX does not know, become floats.
pub(crate) fn dequantize(
    op: &'static str,
    inputs: Vec<Tensor>,
    quantization: Quantization,
    output: &Spec,
) -> Result<MlxStorage> {
    match quantization {
        Quantization::Affine { bits, group_size } => {
            let parts = inputs.into_iter().map(|part| {
                let dtype = part.dtype();
                MlxStorage::of(op, part)?.plain(op, dtype)
            });
            let parts: Vec<Array> = parts.collect::<Result<_>>()?;
            let [words, scales, offsets] = <[Array; 3]>::try_from(parts)
                .map_err(|parts| unsuited(op, format!("a quantised matrix has 3 parts, found {}", parts.len())))?;
            let form = match output.shape.elements() {
                // MLX takes no empty matrix.
                0 => Form::Dense(layout::empty(op, output)?),
                _ => Form::Affine(Affine { words, scales, offsets, group_size, bits }),
            };
            Ok(MlxStorage::new(form))
        }
        Quantization::Blocks(_) => {
            let [blocks] = <[Tensor; 1]>::try_from(inputs)
                .map_err(|parts| unsuited(op, format!("blocks are 1 tensor, found {}", parts.len())))?;
            let packed = blocks.device().download(&blocks)?;
            drop(blocks);
            Ok(MlxStorage::dense(upload(op, &floats(&packed, quantization, output), output)?))
        }
    }
}

/// The floats that rows of blocks stand for, as bytes of `output`.
fn floats(packed: &[u8], quantization: Quantization, output: &Spec) -> Vec<u8> {
    let (n, k) = (output.shape[0], output.shape[1]);
    let groups = k / quantization.form().group_size;
    let mut bytes = Vec::with_capacity(output.bytes());
    let (mut quants, mut scales, mut offsets) = (vec![0; k], vec![0.0; groups], vec![0.0; groups]);
    for packed in packed.chunks_exact((packed.len() / n.max(1)).max(1)).take(n) {
        let into = UnpackedRow { quants: &mut quants, scales: &mut scales, offsets: &mut offsets };
        quantization.unpack_row(packed, into);
        let row = UnpackedRow { quants: &mut quants, scales: &mut scales, offsets: &mut offsets };
        for weight in quantization.weights(&row) {
            match output.dtype {
                DType::F16 => bytes.extend(half::f16::from_f32(weight).to_le_bytes()),
                DType::BF16 => bytes.extend(half::bf16::from_f32(weight).to_le_bytes()),
                _ => bytes.extend(weight.to_le_bytes()),
            }
        }
    }
    bytes
}

/// An array of host bytes.
pub(crate) fn upload(op: &'static str, bytes: &[u8], spec: &Spec) -> Result<Array> {
    let shape = crate::array::dims(op, &spec.shape)?;
    // MLX reads elements, which must lie as their type wants it.
    if bytes.as_ptr().align_offset(spec.dtype.size()) == 0 {
        return Array::new(op, bridge::upload(bytes, &shape, kind(spec.dtype)));
    }
    let mut words = vec![0u64; bytes.len().div_ceil(size_of::<u64>())];
    let aligned = &mut bytemuck::cast_slice_mut(&mut words)[..bytes.len()];
    aligned.copy_from_slice(bytes);
    Array::new(op, bridge::upload(aligned, &shape, kind(spec.dtype)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ingle_tensor::DeviceHandle;

    use super::*;
    use crate::MlxDevice;

    /// What a GPU computes, on whatever MLX has here.
    #[test]
    fn products_in_two_parts_are_as_near_as_f32_good() -> Result<()> {
        let device: DeviceHandle = Arc::new(MlxDevice::new()?);
        let numbers = |count: usize, step: usize| -> Vec<f32> {
            (0..count).map(|i| ((i * step) % 1999) as f32 / 999.5 - 1.0).collect()
        };
        let [rows, k, n] = [3, 65, 17];
        let x = Tensor::from_slice(&device, &numbers(rows * k, 37), [rows, k])?;
        let weight = Tensor::from_slice(&device, &numbers(n * k, 101), [n, k])?.cast(DType::BF16)?;
        let expected = x.linear(&weight.cast(DType::F32)?, None)?.to_vec::<f32>()?;
        let operand = |tensor: &Tensor| (MlxStorage::of("linear", tensor.clone()), tensor.spec().clone());
        let ((x, x_spec), (weight, weight_spec)) = (operand(&x), operand(&weight));
        let (x, output) = (x?.plain("linear", DType::F32)?, Spec::new([rows, n], DType::F32));
        let found = linear("linear", Engine::Cuda, (&x, &x_spec), (weight?, &weight_spec), None, &output)?;
        let mut bytes = vec![0; output.bytes()];
        bridge::read(found.get(), &mut bytes).map_err(|exception| crate::engine::failed("read", &exception))?;
        for (found, expected) in bytemuck::pod_collect_to_vec::<u8, f32>(&bytes).into_iter().zip(expected) {
            assert!((found - expected).abs() < 3e-5 * expected.abs().max(1.0), "{found} {expected}");
        }
        Ok(())
    }
}
