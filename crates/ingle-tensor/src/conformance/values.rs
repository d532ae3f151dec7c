// SPDX-License-Identifier: EUPL-1.2
//! Input values: counter-based random numbers, and lists of the numbers that bite.

use bytes::Bytes;

use super::array::{encode_floats, encode_integers};
use crate::Spec;

/// Where the elements of an input come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Spread evenly from `low` up to `high`; whole numbers for an integer dtype.
    Uniform {
        /// The least value.
        low: f64,
        /// Above every value.
        high: f64,
    },
    /// These, over and over.
    Floats(Vec<f64>),
    /// These, over and over; for an integer dtype, wrapped to its range.
    Integers(Vec<i64>),
}

/// A random 64-bit number for each seed and index: SplitMix64 (Steele et al. 2014), jumped to the index.
pub(super) fn random(seed: u64, index: u64) -> u64 {
    let mut z = mix(seed).wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = mix(z);
    z
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A random number in `0..1`.
pub(super) fn unit(seed: u64, index: u64) -> f64 {
    (random(seed, index) >> 11) as f64 / (1u64 << 53) as f64
}

/// A random number in `0..bound`, which is at least 1.
pub(super) fn below(seed: u64, index: u64, bound: usize) -> usize {
    (random(seed, index) % bound as u64) as usize
}

/// `0..len` in a random order (Fisher & Yates).
pub(super) fn shuffled(seed: u64, len: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    for i in (1..len).rev() {
        order.swap(i, below(seed, i as u64, i + 1));
    }
    order
}

impl Values {
    /// Spread evenly from `low` up to `high`.
    pub(crate) fn uniform(low: f64, high: f64) -> Values {
        Values::Uniform { low, high }
    }

    /// Row-major bytes of a tensor of `spec`, each value rounded to its dtype.
    pub(crate) fn bytes(&self, spec: &Spec, seed: u64) -> Bytes {
        let elements = spec.shape.elements();
        let float = spec.dtype.is_float();
        let floats = |value: &dyn Fn(usize) -> f64| encode_floats((0..elements).map(value), spec.dtype);
        let integers = |value: &dyn Fn(usize) -> i64| encode_integers((0..elements).map(value), spec.dtype);
        Bytes::from(match self {
            Values::Uniform { low, high } => {
                let value = |i: usize| low + (high - low) * unit(seed, i as u64);
                if float { floats(&value) } else { integers(&|i| value(i).floor() as i64) }
            }
            Values::Floats(list) => floats(&|i| list.get(i % list.len().max(1)).copied().unwrap_or(0.0)),
            Values::Integers(list) => {
                let value = |i: usize| list.get(i % list.len().max(1)).copied().unwrap_or(0);
                if float { floats(&|i| value(i) as f64) } else { integers(&value) }
            }
        })
    }
}

/// Numbers at the edges of a float dtype, where formulas and casts go wrong. What a dtype cannot hold becomes
/// infinite or zero in it.
pub(super) const EDGES: [f64; 36] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    1.5,
    2.5,
    -2.5,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::NAN,
    1e-3,
    -1e-3,
    1e-6,
    -1e-6,
    6.0,
    -6.0,
    88.0,
    -88.0,
    100.0,
    -100.0,
    127.9,
    255.0,
    256.5,
    -129.0,
    1e4,
    -1e4,
    65504.0,
    1e6,
    -1e6,
    3e9,
    -3e9,
    1e30,
    -1e30,
    3.4028234e38,
];

/// Numbers below the smallest normal one of f32 or of f16.
pub(super) const SUBNORMALS: [f64; 6] = [1e-39, -1e-39, 1e-45, 1e-40, 5.960_464_477_539_063e-8, -3e-5];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;

    #[test]
    fn random_numbers_depend_on_seed_and_index_alone_good() {
        assert_eq!(random(3, 7), random(3, 7));
        assert_ne!(random(3, 7), random(3, 8));
        assert_ne!(random(3, 7), random(4, 7));
        let mean = (0..10_000).map(|i| unit(1, i)).sum::<f64>() / 1e4;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
    }

    #[test]
    fn a_shuffle_is_a_permutation_good() {
        let mut order = shuffled(5, 100);
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn lists_repeat_and_empty_shapes_have_no_bytes_ugly() {
        let spec = Spec::new([3], DType::U8);
        assert_eq!(Values::Integers(vec![1, 2]).bytes(&spec, 0).as_ref(), [1, 2, 1]);
        assert_eq!(Values::Integers(vec![]).bytes(&spec, 0).as_ref(), [0, 0, 0]);
        assert!(Values::uniform(0.0, 1.0).bytes(&Spec::new([0, 4], DType::F32), 0).is_empty());
    }
}
