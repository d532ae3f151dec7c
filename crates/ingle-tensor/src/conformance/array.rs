// SPDX-License-Identifier: EUPL-1.2
//! Elements of the reference: row-major, on the host, and how they are read from and written to bytes.

use bytemuck::{Pod, pod_collect_to_vec};
use half::{bf16, f16};

use super::tolerance::{Real, round_to};
use crate::DType;

/// The elements of a tensor in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Array {
    /// Of a float dtype.
    Floats(Vec<Real>),
    /// Of an integer dtype, whose range each lies in.
    Integers(Vec<i64>),
}

impl Array {
    /// Elements of `dtype` from little-endian bytes.
    pub(super) fn decode(bytes: &[u8], dtype: DType) -> Array {
        fn each<T: Pod, U>(bytes: &[u8], convert: impl Fn(T) -> U) -> Vec<U> {
            pod_collect_to_vec::<u8, T>(bytes).into_iter().map(convert).collect()
        }
        match dtype {
            DType::F32 => Array::Floats(each(bytes, |x: f32| Real::exact(x.into()))),
            DType::F16 => Array::Floats(each(bytes, |x: f16| Real::exact(x.into()))),
            DType::BF16 => Array::Floats(each(bytes, |x: bf16| Real::exact(x.into()))),
            DType::U8 => Array::Integers(each(bytes, |x: u8| x.into())),
            DType::I8 => Array::Integers(each(bytes, |x: i8| x.into())),
            DType::I32 => Array::Integers(each(bytes, |x: i32| x.into())),
            DType::U32 => Array::Integers(each(bytes, |x: u32| x.into())),
            DType::I64 => Array::Integers(each(bytes, |x: i64| x)),
        }
    }

    /// Little-endian bytes of the elements, rounded to `dtype`.
    pub(super) fn encode(&self, dtype: DType) -> Vec<u8> {
        match self {
            Array::Floats(xs) => encode_floats(xs.iter().map(|x| x.value), dtype),
            Array::Integers(xs) => encode_integers(xs.iter().copied(), dtype),
        }
    }

    /// The elements at these row-major positions.
    pub(super) fn gather(&self, positions: impl Iterator<Item = usize>) -> Array {
        match self {
            Array::Floats(xs) => Array::Floats(positions.map(|i| xs[i]).collect()),
            Array::Integers(xs) => Array::Integers(positions.map(|i| xs[i]).collect()),
        }
    }

    /// The elements as f64.
    pub(super) fn values(&self) -> Vec<f64> {
        match self {
            Array::Floats(xs) => xs.iter().map(|x| x.value).collect(),
            Array::Integers(xs) => xs.iter().map(|&x| x as f64).collect(),
        }
    }
}

/// Floats as bytes of a float dtype, each rounded to nearest even.
pub(super) fn encode_floats(values: impl Iterator<Item = f64>, dtype: DType) -> Vec<u8> {
    // Rounded first, so that the conversions below are exact.
    let rounded = values.map(|x| round_to(x, dtype) as f32);
    match dtype {
        DType::F16 => rounded.flat_map(|x| f16::from_f32(x).to_le_bytes()).collect(),
        DType::BF16 => rounded.flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect(),
        _ => rounded.flat_map(f32::to_le_bytes).collect(),
    }
}

/// Integers as bytes of an integer dtype, each wrapped to its range.
pub(super) fn encode_integers(values: impl Iterator<Item = i64>, dtype: DType) -> Vec<u8> {
    // The low bytes of two's complement are the number modulo the range.
    values.flat_map(|x| x.to_le_bytes().into_iter().take(dtype.size())).collect()
}

/// An integer wrapped to the range of an integer dtype.
pub(super) fn wrap(value: i64, dtype: DType) -> i64 {
    match dtype {
        DType::U8 => (value as u8).into(),
        DType::I8 => (value as i8).into(),
        DType::I32 => (value as i32).into(),
        DType::U32 => (value as u32).into(),
        DType::I64 | DType::F32 | DType::F16 | DType::BF16 => value,
    }
}

/// A float truncated towards zero and saturated to the range of an integer dtype; NaN gives 0.
pub(super) fn truncate(value: f64, dtype: DType) -> i64 {
    match dtype {
        DType::U8 => (value as u8).into(),
        DType::I8 => (value as i8).into(),
        DType::I32 => (value as i32).into(),
        DType::U32 => (value as u32).into(),
        DType::I64 | DType::F32 | DType::F16 | DType::BF16 => value as i64,
    }
}

/// Row-major positions in a source, for each element of a result of `shape`: a step along axis `i` of the
/// result is `strides[i]` elements in the source.
pub(super) fn positions(shape: &[usize], strides: &[usize], offset: usize) -> Vec<usize> {
    let mut result = vec![offset];
    for (&len, &stride) in shape.iter().zip(strides) {
        result = result.iter().flat_map(|&base| (0..len).map(move |i| base + i * stride)).collect();
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_the_round_trip_good() {
        let bytes: Vec<u8> = (0..=255).collect();
        for dtype in [DType::U8, DType::I8, DType::I32, DType::U32, DType::I64] {
            assert_eq!(Array::decode(&bytes, dtype).encode(dtype), bytes, "{dtype}");
        }
        for dtype in DType::FLOATS {
            let floats = encode_floats([-2.5, 0.0, -0.0, 1024.0, f64::INFINITY].into_iter(), dtype);
            assert_eq!(Array::decode(&floats, dtype).encode(dtype), floats, "{dtype}");
        }
    }

    #[test]
    fn integers_wrap_and_floats_saturate_ugly() {
        assert_eq!(wrap(300, DType::U8), 44);
        assert_eq!(wrap(-1, DType::U32), 4_294_967_295);
        assert_eq!(wrap(128, DType::I8), -128);
        assert_eq!(truncate(-1.9, DType::I32), -1);
        assert_eq!(truncate(-1.9, DType::U8), 0);
        assert_eq!(truncate(1e30, DType::I8), 127);
        assert_eq!(truncate(f64::NAN, DType::I64), 0);
    }

    #[test]
    fn positions_of_a_transposed_matrix_good() {
        assert_eq!(positions(&[3, 2], &[1, 3], 0), [0, 3, 1, 4, 2, 5]);
        assert_eq!(positions(&[], &[], 4), [4], "a scalar has one element");
        assert_eq!(positions(&[2, 0], &[1, 1], 0), [] as [usize; 0]);
    }
}
