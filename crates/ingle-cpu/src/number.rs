// SPDX-License-Identifier: EUPL-1.2
//! Element types as kernels compute with them: half-width floats in f32, everything else in itself.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use ingle_tensor::Element;

/// An element type and the type its arithmetic is done in.
pub(crate) trait Number: Element {
    /// What it is computed in: f32 for floats, itself for integers.
    type Wide: Arithmetic;

    fn widen(self) -> Self::Wide;
    fn narrow(wide: Self::Wide) -> Self;

    /// Widens elements of equally long slices.
    #[inline(always)]
    fn widen_all(from: &[Self], to: &mut [Self::Wide]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = from.widen();
        }
    }

    /// Rounds elements of equally long slices to nearest, ties to even.
    #[inline(always)]
    fn narrow_all(from: &[Self::Wide], to: &mut [Self]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = Self::narrow(*from);
        }
    }

    /// The elements themselves, where they are already wide.
    fn as_wide(elements: &[Self]) -> Option<&[Self::Wide]>;

    /// The elements themselves to write to, where they are already wide.
    fn as_wide_mut(elements: &mut [Self]) -> Option<&mut [Self::Wide]>;
}

/// Types that arithmetic is done in.
pub(crate) trait Arithmetic: Copy + PartialOrd + Default + Send + Sync + 'static {
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// Infer allows it for floats only.
    fn div(self, other: Self) -> Self;
    /// The larger; NaN if either is.
    fn larger(self, other: Self) -> Self;
    /// The smaller; NaN if either is.
    fn smaller(self, other: Self) -> Self;
}

impl Arithmetic for f32 {
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self + other
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self - other
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self * other
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self / other
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        if self.is_nan() || self > other { self } else { other }
    }

    #[inline(always)]
    fn smaller(self, other: Self) -> Self {
        if self.is_nan() || self < other { self } else { other }
    }
}

macro_rules! integers {
    ($($rust:ty),*) => {
        $(impl Arithmetic for $rust {
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                self.wrapping_add(other)
            }

            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }

            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }

            #[inline(always)]
            fn div(self, other: Self) -> Self {
                self.checked_div(other).unwrap_or(0)
            }

            #[inline(always)]
            fn larger(self, other: Self) -> Self {
                self.max(other)
            }

            #[inline(always)]
            fn smaller(self, other: Self) -> Self {
                self.min(other)
            }
        }

        impl Number for $rust {
            type Wide = $rust;

            #[inline(always)]
            fn widen(self) -> Self {
                self
            }

            #[inline(always)]
            fn narrow(wide: Self) -> Self {
                wide
            }

            fn as_wide(elements: &[Self]) -> Option<&[Self]> {
                Some(elements)
            }

            fn as_wide_mut(elements: &mut [Self]) -> Option<&mut [Self]> {
                Some(elements)
            }
        })*
    };
}

integers!(u8, i8, i32, u32, i64);

impl Number for f32 {
    type Wide = f32;

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn narrow(wide: f32) -> Self {
        wide
    }

    fn as_wide(elements: &[Self]) -> Option<&[f32]> {
        Some(elements)
    }

    fn as_wide_mut(elements: &mut [Self]) -> Option<&mut [f32]> {
        Some(elements)
    }
}

impl Number for f16 {
    type Wide = f32;

    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    fn narrow(wide: f32) -> Self {
        f16::from_f32(wide)
    }

    #[inline(always)]
    fn widen_all(from: &[Self], to: &mut [f32]) {
        from.convert_to_f32_slice(to);
    }

    #[inline(always)]
    fn narrow_all(from: &[f32], to: &mut [Self]) {
        to.convert_from_f32_slice(from);
    }

    fn as_wide(_elements: &[Self]) -> Option<&[f32]> {
        None
    }

    fn as_wide_mut(_elements: &mut [Self]) -> Option<&mut [f32]> {
        None
    }
}

impl Number for bf16 {
    type Wide = f32;

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn narrow(wide: f32) -> Self {
        let bits = wide.to_bits();
        // Half of the last kept place, less one unless the last kept place is odd, carries exactly where
        // rounding to nearest even goes up.
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let quiet = (bits >> 16) | 0x40;
        bf16::from_bits(if wide.is_nan() { quiet } else { rounded } as u16)
    }

    fn as_wide(_elements: &[Self]) -> Option<&[f32]> {
        None
    }

    fn as_wide_mut(_elements: &mut [Self]) -> Option<&mut [f32]> {
        None
    }
}

/// Runs code with `$T` standing for the Rust type of a dtype.
macro_rules! with_number {
    ($dtype:expr, $T:ident => $body:expr) => {
        crate::number::with_float_or_integer!($dtype, $T => $body, $T => $body)
    };
}
pub(crate) use with_number;

/// Element types that hold floats.
pub(crate) trait Float: Convert + Number<Wide = f32> {}
impl Float for f32 {}
impl Float for f16 {}
impl Float for bf16 {}

/// Element types that hold integers.
pub(crate) trait Integer: Convert + Number<Wide = Self> + Default + Into<i64> {}
impl Integer for u8 {}
impl Integer for i8 {}
impl Integer for i32 {}
impl Integer for u32 {}
impl Integer for i64 {}

/// Runs code with `$F` standing for the Rust type of a float dtype, or with `$I` for that of an integer dtype.
macro_rules! with_float_or_integer {
    ($dtype:expr, $F:ident => $float:expr, $I:ident => $integer:expr) => {
        match $dtype {
            ingle_tensor::DType::F32 => {
                type $F = f32;
                $float
            }
            ingle_tensor::DType::F16 => {
                type $F = half::f16;
                $float
            }
            ingle_tensor::DType::BF16 => {
                type $F = half::bf16;
                $float
            }
            ingle_tensor::DType::U8 => {
                type $I = u8;
                $integer
            }
            ingle_tensor::DType::I8 => {
                type $I = i8;
                $integer
            }
            ingle_tensor::DType::I32 => {
                type $I = i32;
                $integer
            }
            ingle_tensor::DType::U32 => {
                type $I = u32;
                $integer
            }
            ingle_tensor::DType::I64 => {
                type $I = i64;
                $integer
            }
        }
    };
}
pub(crate) use with_float_or_integer;

/// Runs code with `$T` standing for the Rust type of a float dtype. [`ingle_tensor::Op::infer`] lets no other
/// dtype through to where this is used; an error says so should it ever.
macro_rules! with_float {
    ($op:expr, $dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            ingle_tensor::DType::F32 => {
                type $T = f32;
                $body
            }
            ingle_tensor::DType::F16 => {
                type $T = half::f16;
                $body
            }
            ingle_tensor::DType::BF16 => {
                type $T = half::bf16;
                $body
            }
            other => Err(ingle_tensor::Error::DType {
                op: $op,
                expected: "floating-point operands".into(),
                found: other.to_string(),
            }),
        }
    };
}
pub(crate) use with_float;

/// Conversions between any two dtypes as [`ingle_tensor::Op::Cast`] defines them.
pub(crate) trait Convert: Number {
    /// From a float: narrower floats round to nearest even, integers truncate towards zero and saturate.
    fn from_f32(value: f32) -> Self;

    /// [`Convert::from_f32`] of equally long slices.
    #[inline(always)]
    fn from_f32_all(from: &[f32], to: &mut [Self]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = Self::from_f32(*from);
        }
    }

    /// From an integer: narrower integers wrap, floats round to nearest even.
    fn from_i64(value: i64) -> Self;
    /// From a parameter of an operation: as from a float, but without rounding on the way.
    fn from_f64(value: f64) -> Self;
}

macro_rules! convert_integers {
    ($($rust:ty),*) => {
        $(impl Convert for $rust {
            #[inline(always)]
            fn from_f32(value: f32) -> Self {
                value as $rust
            }

            #[inline(always)]
            fn from_i64(value: i64) -> Self {
                value as $rust
            }

            fn from_f64(value: f64) -> Self {
                value as $rust
            }

        })*
    };
}

convert_integers!(u8, i8, i32, u32, i64);

impl Convert for f32 {
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn from_i64(value: i64) -> Self {
        value as f32
    }

    fn from_f64(value: f64) -> Self {
        value as f32
    }
}

macro_rules! convert_halves {
    ($($rust:ty),*) => {
        $(impl Convert for $rust {
            #[inline(always)]
            fn from_f32(value: f32) -> Self {
                Self::narrow(value)
            }

            #[inline(always)]
            fn from_f32_all(from: &[f32], to: &mut [Self]) {
                Self::narrow_all(from, to);
            }

            #[inline(always)]
            fn from_i64(value: i64) -> Self {
                // An f64 holds every integer that does not overflow either of these types exactly.
                <$rust>::from_f64(value as f64)
            }

            fn from_f64(value: f64) -> Self {
                <$rust>::from_f64(value)
            }
        })*
    };
}

convert_halves!(f16, bf16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_as_the_standard_says_good() {
        let near = [0x3f80_8000u32, 0x3f81_8000, 0x3f80_8001, 0x7f7f_ffff, 0xff80_0000, 0x0000_0001, 0x8000_8000];
        for bits in near.into_iter().chain((0..=u32::MAX).step_by(65_521)) {
            let value = f32::from_bits(bits);
            let (ours, theirs) = (bf16::narrow(value), bf16::from_f32(value));
            assert_eq!(ours.to_bits(), theirs.to_bits(), "{bits:x}");
        }
    }

    #[test]
    fn floats_saturate_into_integers_ugly() {
        assert_eq!(<u8 as Convert>::from_f32(-1.5), 0);
        assert_eq!(<i8 as Convert>::from_f32(1e9), 127);
        assert_eq!(<i32 as Convert>::from_f32(f32::NAN), 0);
        assert_eq!(<i64 as Convert>::from_f32(-2.9), -2);
    }

    #[test]
    fn integers_wrap_into_narrower_ones_ugly() {
        assert_eq!(<u8 as Convert>::from_i64(-1), 255);
        assert_eq!(<i8 as Convert>::from_i64(200), -56);
        assert_eq!(<u32 as Convert>::from_i64(1 << 32), 0);
    }
}
