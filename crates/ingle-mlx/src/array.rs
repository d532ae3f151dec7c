// SPDX-License-Identifier: EUPL-1.2
//! A handle to an array of MLX, and the small conversions around it.

use std::fmt;
use std::sync::Arc;

use cxx::UniquePtr;
use ingle_tensor::{DType, Result, Shape};

use crate::bridge;
use crate::engine::{failed, unsuited};

/// A shared handle to an array. When the last one drops, MLX may reuse the array's memory.
#[derive(Clone)]
pub(crate) struct Array(pub(crate) Arc<UniquePtr<bridge::Array>>);

impl Array {
    /// What a function of the bridge made.
    pub(crate) fn new(op: &'static str, made: Result<UniquePtr<bridge::Array>, cxx::Exception>) -> Result<Array> {
        made.map(|array| Array(Arc::new(array))).map_err(|exception| failed(op, &exception))
    }

    /// What the bridge works on.
    pub(crate) fn get(&self) -> &bridge::Array {
        &self.0
    }
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Array")
    }
}

/// Several arrays, for the bridge.
pub(crate) fn arrays<'a>(list: impl IntoIterator<Item = &'a Array>) -> UniquePtr<bridge::Arrays> {
    let mut arrays = bridge::new_arrays();
    for array in list {
        arrays.pin_mut().push(array.get());
    }
    arrays
}

/// A dtype as the bridge names it.
pub(crate) fn kind(dtype: DType) -> bridge::Kind {
    match dtype {
        DType::F32 => bridge::Kind::F32,
        DType::F16 => bridge::Kind::F16,
        DType::BF16 => bridge::Kind::BF16,
        DType::U8 => bridge::Kind::U8,
        DType::I8 => bridge::Kind::I8,
        DType::I32 => bridge::Kind::I32,
        DType::U32 => bridge::Kind::U32,
        DType::I64 => bridge::Kind::I64,
    }
}

/// A length or an index as MLX counts it: in 32 bits.
pub(crate) fn int(op: &'static str, number: usize) -> Result<i32> {
    i32::try_from(number).map_err(|_| unsuited(op, format!("MLX counts an axis in 32 bits, found {number}")))
}

/// Lengths as MLX counts them.
pub(crate) fn ints(op: &'static str, lengths: &[usize]) -> Result<Vec<i32>> {
    lengths.iter().map(|&len| int(op, len)).collect()
}

/// A shape as MLX counts it.
pub(crate) fn dims(op: &'static str, shape: &Shape) -> Result<Vec<i32>> {
    ints(op, shape)
}
