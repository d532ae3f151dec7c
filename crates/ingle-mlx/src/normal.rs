// SPDX-License-Identifier: EUPL-1.2
//! Normalisations and softmax, by MLX's own kernels.

use ingle_tensor::{BinaryOp, DType, Result, Spec, Tensor};

use crate::array::Array;
use crate::bridge;
use crate::elementwise::{binary, cast};
use crate::layout;
use crate::storage::{Factor, MlxStorage};

/// `x / √(mean(x²) + eps) · factor`.
pub(crate) fn rms_norm(op: &'static str, x: &Array, factor: &Array, eps: f32) -> Result<Array> {
    Array::new(op, bridge::rms_norm(x.get(), factor.get(), eps))
}

/// `offset + weight` in f32, which has more bits than the weight; kept beside the weight for the next step.
pub(crate) fn factor(op: &'static str, weight: &Tensor, offset: f32) -> Result<Array> {
    let storage = weight.storage().get::<MlxStorage>();
    let known = storage.and_then(|storage| storage.factor.get());
    if let Some(known) = known.filter(|known| known.offset == offset) {
        return Ok(known.weight.clone());
    }
    let plain = MlxStorage::of(op, weight.clone())?.plain(op, weight.dtype())?;
    let mut sum = cast(op, &plain, weight.dtype(), DType::F32)?;
    if offset != 0.0 {
        let offset = layout::full(op, &Spec::new([], DType::F32), offset.into())?;
        sum = binary(op, BinaryOp::Add, &sum, &offset)?;
    }
    if let Some(storage) = storage {
        // Another offset of the same weight, or another thread that was as fast, is no reason to fail.
        let _ = storage.factor.set(Factor { offset, weight: sum.clone() });
    }
    Ok(sum)
}

/// `(x − mean) / √(variance + eps) · weight + bias`.
pub(crate) fn layer_norm(op: &'static str, [x, weight, bias]: [&Array; 3], eps: f32) -> Result<Array> {
    Array::new(op, bridge::layer_norm(x.get(), weight.get(), bias.get(), eps))
}

/// Softmax along the last axis.
pub(crate) fn softmax(op: &'static str, x: &Array) -> Result<Array> {
    Array::new(op, bridge::softmax(x.get()))
}
