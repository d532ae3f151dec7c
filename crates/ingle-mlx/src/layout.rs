// SPDX-License-Identifier: EUPL-1.2
//! Operations that make arrays and lay them out: views of MLX's, which it computes without copying where it can.

use ingle_tensor::{DType, Result, Shape, Spec};

use crate::array::{Array, arrays, dims, int, ints, kind};
use crate::bridge;

/// No elements at all.
pub(crate) fn empty(op: &'static str, output: &Spec) -> Result<Array> {
    Array::new(op, bridge::upload(&[], &dims(op, &output.shape)?, kind(output.dtype)))
}

/// Every element `value`.
pub(crate) fn full(op: &'static str, output: &Spec, value: f64) -> Result<Array> {
    let shape = dims(op, &output.shape)?;
    let made = match output.dtype {
        dtype if dtype.is_float() => bridge::full(&shape, kind(dtype), value),
        // Towards zero, and to the nearest that the dtype holds.
        dtype => bridge::full_integer(&shape, kind(dtype), saturated(value, dtype)),
    };
    Array::new(op, made)
}

fn saturated(value: f64, dtype: DType) -> i64 {
    match dtype {
        DType::U8 => i64::from(value as u8),
        DType::I8 => i64::from(value as i8),
        DType::I32 => i64::from(value as i32),
        DType::U32 => i64::from(value as u32),
        _ => value as i64,
    }
}

/// `0, 1, … len − 1`.
pub(crate) fn arange(op: &'static str, len: usize) -> Result<Array> {
    Array::new(op, bridge::arange(int(op, len)?))
}

/// The same elements under another shape.
pub(crate) fn reshape(op: &'static str, x: &Array, shape: &Shape) -> Result<Array> {
    Array::new(op, bridge::reshape(x.get(), &dims(op, shape)?))
}

/// Axes in another order.
pub(crate) fn permute(op: &'static str, x: &Array, axes: &[usize]) -> Result<Array> {
    Array::new(op, bridge::transpose(x.get(), &ints(op, axes)?))
}

/// Every `step`-th index of `axis` from `start`, `range` being `[start, end, step]`.
pub(crate) fn slice(op: &'static str, x: &Array, shape: &Shape, axis: usize, range: [usize; 3]) -> Result<Array> {
    let [start, end, step] = range;
    let mut first = vec![0; shape.len()];
    let mut stop = dims(op, shape)?;
    let mut steps = vec![1; shape.len()];
    first[axis] = int(op, start)?;
    stop[axis] = int(op, end)?;
    // A step past the end takes the first index alone, as any other step past the end does.
    steps[axis] = int(op, step.min(shape[axis].max(1)))?;
    Array::new(op, bridge::slice(x.get(), &first, &stop, &steps))
}

/// Stretched to `shape`.
pub(crate) fn broadcast(op: &'static str, x: &Array, shape: &Shape) -> Result<Array> {
    Array::new(op, bridge::broadcast(x.get(), &dims(op, shape)?))
}

/// Joined along `axis`.
pub(crate) fn concat(op: &'static str, parts: &[Array], axis: usize) -> Result<Array> {
    Array::new(op, bridge::concat(&arrays(parts), int(op, axis)?))
}
