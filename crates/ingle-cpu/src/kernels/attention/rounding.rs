// SPDX-License-Identifier: EUPL-1.2
//! How queries and weights become factors.

use half::bf16;

use crate::math::ROUND;
use crate::number::Number;
use crate::simd::Factor;

/// Factors that f32 round to.
pub(super) trait Rounding: Factor {
    /// Rounds a query; `to` is as long. Gives what one unit of a factor stands for.
    fn query(from: &[f32], to: &mut [Self]) -> f32;

    /// Rounds a row's weights; `to` is as long. Gives what one unit of a factor stands for.
    fn weights(from: &[f32], to: &mut [Self]) -> f32;

    /// Sums of products where they are, as the f32 that they stand for.
    fn settle(sums: &mut [f32], unit: f32);
}

impl Rounding for f32 {
    #[inline(always)]
    fn query(from: &[f32], to: &mut [f32]) -> f32 {
        to.copy_from_slice(from);
        1.0
    }

    #[inline(always)]
    fn weights(from: &[f32], to: &mut [f32]) -> f32 {
        to.copy_from_slice(from);
        1.0
    }

    #[inline(always)]
    fn settle(_sums: &mut [f32], _unit: f32) {}
}

impl Rounding for bf16 {
    #[inline(always)]
    fn query(from: &[f32], to: &mut [bf16]) -> f32 {
        bf16::narrow_all(from, to);
        1.0
    }

    #[inline(always)]
    fn weights(from: &[f32], to: &mut [bf16]) -> f32 {
        bf16::narrow_all(from, to);
        1.0
    }

    #[inline(always)]
    fn settle(_sums: &mut [f32], _unit: f32) {}
}

/// Against the largest magnitude: the sums are exact, so that nothing else is lost beside 8-bit keys and values.
impl Rounding for i16 {
    #[inline(always)]
    fn query(from: &[f32], to: &mut [i16]) -> f32 {
        // A sum of so many products with 8-bit integers, at most 128, fits in 32 bits.
        let limit = (i32::MAX as usize / (128 * from.len().max(1))).min(i16::MAX as usize);
        round(from, to, limit as f32)
    }

    #[inline(always)]
    fn weights(from: &[f32], to: &mut [i16]) -> f32 {
        const { assert!(super::CHUNK * 128 * (i16::MAX as usize) < i32::MAX as usize) };
        round(from, to, i16::MAX.into())
    }

    #[inline(always)]
    fn settle(sums: &mut [f32], unit: f32) {
        for sum in sums {
            *sum = sum.to_bits().cast_signed() as f32 * unit;
        }
    }
}

/// Rounds so that the largest magnitude becomes `limit`; gives what one unit stands for, which is NaN if a number
/// is not finite.
#[inline(always)]
fn round(from: &[f32], to: &mut [i16], limit: f32) -> f32 {
    // The bits of magnitudes are in their order, infinity and NaN last.
    let largest = from.iter().fold(0, |largest, x| x.abs().to_bits().max(largest));
    let largest = f32::from_bits(largest);
    let units = (limit / largest).min(f32::MAX);
    for (x, to) in from.iter().zip(to) {
        *to = (x * units + ROUND).to_bits() as i16;
    }
    if largest.is_finite() { 1.0 / units } else { f32::NAN }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_stand_for_what_was_rounded_good() {
        for scale in [1.0, 1e-33, 1e30] {
            let from: Vec<f32> = (0..600).map(|i| (i as f32).sin() * scale).collect();
            let mut to = vec![0; 600];
            let unit = i16::query(&from, &mut to);
            assert!(to.iter().all(|to| (i64::from(*to) * 128 * 600).abs() <= i32::MAX.into()));
            let close = |(from, to): (&f32, &i16)| (from - f32::from(*to) * unit).abs() <= 0.501 * unit;
            assert!(from.iter().zip(&to).all(close) && unit < scale / 27_000.0, "{scale}: {unit}");
        }
    }

    #[test]
    fn nothing_and_what_is_not_finite_ugly() {
        let mut to = [7; 3];
        assert!(i16::weights(&[0.0; 3], &mut to).is_finite());
        assert_eq!(to, [0; 3]);
        assert!(i16::weights(&[0.0, f32::NAN, 1.0], &mut to).is_nan());
        assert!(i16::query(&[0.0, f32::NEG_INFINITY, 1.0], &mut to).is_nan());
    }

    #[test]
    fn sums_become_what_they_stand_for_good() {
        let mut sums = [-40, 0, i32::MAX].map(|sum: i32| f32::from_bits(sum.cast_unsigned()));
        i16::settle(&mut sums, 0.5);
        assert_eq!(sums, [-20.0, 0.0, 1_073_741_824.0]);
    }
}
