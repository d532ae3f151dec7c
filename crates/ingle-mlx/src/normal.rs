// SPDX-License-Identifier: EUPL-1.2
//! Normalisations and softmax, by MLX's own kernels.

use ingle_tensor::{BinaryOp, DType, Result, Spec};

use crate::array::Array;
use crate::bridge;
use crate::elementwise::{binary, cast};
use crate::layout;

/// `x / √(mean(x²) + eps) · (offset + weight)`, `(eps, offset)` being its constants.
pub(crate) fn rms_norm(
    op: &'static str,
    x: &Array,
    (weight, dtype): (&Array, DType),
    (eps, offset): (f32, f32),
) -> Result<Array> {
    let weight = match offset {
        0.0 => weight.clone(),
        _ => {
            // In f32: the sum has more bits than the weight.
            let wide = cast(op, weight, dtype, DType::F32)?;
            let offset = layout::full(op, &Spec::new([], DType::F32), offset.into())?;
            binary(op, BinaryOp::Add, &wide, &offset)?
        }
    };
    Array::new(op, bridge::rms_norm(x.get(), weight.get(), eps))
}

/// `(x − mean) / √(variance + eps) · weight + bias`.
pub(crate) fn layer_norm(op: &'static str, [x, weight, bias]: [&Array; 3], eps: f32) -> Result<Array> {
    Array::new(op, bridge::layer_norm(x.get(), weight.get(), bias.get(), eps))
}

/// Softmax along the last axis.
pub(crate) fn softmax(op: &'static str, x: &Array) -> Result<Array> {
    Array::new(op, bridge::softmax(x.get()))
}
