// SPDX-License-Identifier: EUPL-1.2
//! Element types of tensors, and the Rust types that hold them.

use std::fmt;

use half::{bf16, f16};

/// The element type of a tensor.
///
/// The floating-point types carry activations and weights; the integer types are those that checkpoints
/// and index tensors use. A truth value is a [`DType::U8`] of 0 or 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of a single: 8 bits of exponent, 7 of fraction.
    BF16,
    /// Unsigned byte; also the type of a comparison's result.
    U8,
    /// Signed byte.
    I8,
    /// Signed 32-bit integer; the type of every index tensor.
    I32,
    /// Unsigned 32-bit integer; the packed words of quantised weights.
    U32,
    /// Signed 64-bit integer.
    I64,
}

impl DType {
    /// Every dtype, in a fixed order.
    pub const ALL: [DType; 8] =
        [DType::F32, DType::F16, DType::BF16, DType::U8, DType::I8, DType::I32, DType::U32, DType::I64];

    /// The floating-point dtypes.
    pub const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

    /// Size of one element in bytes.
    pub fn size(self) -> usize {
        match self {
            DType::U8 | DType::I8 => 1,
            DType::F16 | DType::BF16 => 2,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::I64 => 8,
        }
    }

    /// Whether this is one of [`DType::FLOATS`].
    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::BF16)
    }

    /// The short lower-case name: `f32`, `bf16`, `i32`…
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::U8 => "u8",
            DType::I8 => "i8",
            DType::I32 => "i32",
            DType::U32 => "u32",
            DType::I64 => "i64",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A Rust type that is the element of some [`DType`].
pub trait Element: bytemuck::Pod + Send + Sync + fmt::Debug + PartialOrd {
    /// The dtype whose elements this type holds.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident),* $(,)?) => {
        $(impl Element for $rust {
            const DTYPE: DType = DType::$dtype;
        })*
    };
}

elements!(f32 => F32, f16 => F16, bf16 => BF16, u8 => U8, i8 => I8, i32 => I32, u32 => U32, i64 => I64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_have_the_size_of_their_dtype_good() {
        fn of<T: Element>() -> (DType, usize) {
            (T::DTYPE, size_of::<T>())
        }
        let all =
            [of::<f32>(), of::<f16>(), of::<bf16>(), of::<u8>(), of::<i8>(), of::<i32>(), of::<u32>(), of::<i64>()];
        assert_eq!(all.map(|(dtype, _)| dtype), DType::ALL);
        assert!(all.iter().all(|(dtype, size)| dtype.size() == *size));
    }

    #[test]
    fn floats_are_the_dtypes_that_are_float_good() {
        assert_eq!(DType::ALL.into_iter().filter(|dtype| dtype.is_float()).collect::<Vec<_>>(), DType::FLOATS);
        assert_eq!(DType::ALL.map(|dtype| dtype.to_string()).join(" "), "f32 f16 bf16 u8 i8 i32 u32 i64");
    }
}
