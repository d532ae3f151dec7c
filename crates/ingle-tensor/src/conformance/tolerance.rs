// SPDX-License-Identifier: EUPL-1.2
//! How far a device may stray from the reference: a bound carried beside every reference value.
//!
//! The reference computes each value in f64 and, beside it, how large the error of a sound f32 computation of
//! the same value may be. It is Wilkinson's running error analysis: every primitive passes on its operands'
//! errors and adds its own. Because a fused operation is a composition of primitives, its tolerance follows
//! from its decomposition, and nobody chooses a number per operation or per test.
//!
//! What a primitive adds of its own:
//!
//! - Every float result is rounded once to its dtype: half an ulp of that dtype.
//! - `+ − ·` add nothing else: IEEE 754 rounds them correctly, and f32 (24 bits) is wide enough that rounding
//!   to f16 or bf16 by way of it changes nothing. Division, square root and the reciprocal may be 1 f32 ulp
//!   off, the reciprocal square root 2, since GPUs approximate them.
//! - `exp, log, tanh, sigmoid, erf`: [`FUNCTION_ULPS`] f32 ulps of the result. `sin, cos`: as many ulps of 1,
//!   since their argument reduction limits them, but in proportion to the argument where it is below 1.
//! - A sum of n terms, accumulated in f32 in whatever order: at most n roundings, and unless they conspire
//!   about √n, so `min(n, 4·√n)` unit roundoffs of `Σ|x|` (Higham & Mary 2019, with λ = 4). Products of
//!   matrices are sums of products: one roundoff more.
//! - A device may flush subnormal f32 and bf16 numbers to zero: results below the smallest normal number
//!   have that as their ulp. (f16's subnormals are normal in f32, where they are computed.)

use crate::{BinaryOp, DType, UnaryOp};

/// f32 ulps that a transcendental function may be off, before rounding to the result's dtype.
const FUNCTION_ULPS: f64 = 4.0;

/// Unit roundoff of f32: half the distance from 1 to the next number.
const ROUNDOFF: f64 = 1.0 / (1 << 24) as f64;

/// A reference value, and how far from it a device's result may lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Real {
    pub(super) value: f64,
    pub(super) error: f64,
}

/// A floating-point format: bits of significand (the hidden one included), smallest normal exponent, largest
/// finite number.
struct Format {
    bits: i32,
    min_exponent: i32,
    max: f64,
}

/// The format of a float dtype; an integer dtype has none.
fn format(dtype: DType) -> Option<Format> {
    match dtype {
        DType::F32 => Some(Format { bits: 24, min_exponent: -126, max: f32::MAX.into() }),
        DType::F16 => Some(Format { bits: 11, min_exponent: -14, max: half::f16::MAX.into() }),
        DType::BF16 => Some(Format { bits: 8, min_exponent: -126, max: half::bf16::MAX.into() }),
        DType::U8 | DType::I8 | DType::I32 | DType::U32 | DType::I64 => None,
    }
}

impl Format {
    /// The distance between neighbours at the magnitude of `value`.
    fn ulp(&self, value: f64) -> f64 {
        let biased = (value.to_bits() >> 52) & 0x7ff;
        let exponent = (biased as i32 - 1023).max(self.min_exponent) - self.bits + 1;
        // A power of two by its bits; the exponents of the formats above are all normal in f64.
        f64::from_bits(((exponent + 1023) as u64) << 52)
    }
}

/// The number of `dtype` nearest to `value`, ties to even, infinite past its range. To f16 and bf16 in f64,
/// because rounding by way of a third format would round twice.
pub(super) fn round_to(value: f64, dtype: DType) -> f64 {
    if dtype == DType::F32 {
        return (value as f32).into();
    }
    let Some(format) = format(dtype) else { return value };
    if !value.is_finite() {
        return value;
    }
    let ulp = format.ulp(value);
    let rounded = (value / ulp).round_ties_even() * ulp;
    if rounded.abs() > format.max { f64::INFINITY.copysign(value) } else { rounded }
}

/// The distance between neighbours of `dtype` at the magnitude of `value`; 1 for an integer dtype.
pub(super) fn ulp(value: f64, dtype: DType) -> f64 {
    format(dtype).map_or(1.0, |format| format.ulp(value))
}

/// Half an ulp of `dtype` at `magnitude`, or all of the smallest normal number where f32 may be flushed.
fn half_ulp(magnitude: f64, dtype: DType) -> f64 {
    let Some(format) = format(dtype) else { return 0.0 };
    if dtype != DType::F16 && magnitude < f64::from(f32::MIN_POSITIVE) {
        return f32::MIN_POSITIVE.into();
    }
    format.ulp(magnitude) / 2.0
}

impl Real {
    /// Whether a device's result of `dtype` is within the tolerance. Infinite results and NaN must be the same,
    /// but where rounding may overflow either side of it is right.
    pub(super) fn admits(self, found: f64, dtype: DType) -> bool {
        let Real { value, error } = self;
        if value.is_nan() || found.is_nan() {
            return value.is_nan() && found.is_nan();
        }
        if value.is_infinite() || found.is_infinite() {
            let max = format(dtype).map_or(f64::INFINITY, |format| format.max);
            let may_overflow = value.abs() + error > max && value.signum() == found.signum();
            return value == found || may_overflow && found.is_infinite();
        }
        error.is_finite() && (found - value).abs() <= error
    }

    /// A value that every device holds exactly.
    pub(super) fn exact(value: f64) -> Real {
        Real { value, error: 0.0 }
    }

    /// A computed value, rounded once to `dtype`. What is not finite is either right or wrong, not near.
    fn rounded(value: f64, error: f64, dtype: DType) -> Real {
        if !value.is_finite() {
            return Real::exact(value);
        }
        Real { value, error: error + half_ulp(value.abs() + error, dtype) }
    }

    /// Converted to another float dtype; the value itself is never rounded here.
    pub(super) fn cast(self, dtype: DType) -> Real {
        if self.error == 0.0 && round_to(self.value, dtype).to_bits() == self.value.to_bits() {
            return self;
        }
        Real::rounded(self.value, self.error, dtype)
    }

    /// Converted from an integer; a device may pass through f32 on the way.
    pub(super) fn from_integer(value: i64, dtype: DType) -> Real {
        let value = value as f64;
        Real::exact(value).cast(DType::F32).cast(dtype)
    }

    /// A function of one value, with a result of `dtype`.
    pub(super) fn unary(self, op: UnaryOp, dtype: DType) -> Real {
        let value = function(op, self.value);
        if matches!(op, UnaryOp::Neg | UnaryOp::Abs) || !value.is_finite() {
            return Real { value, error: if value.is_finite() { self.error } else { 0.0 } };
        }
        // All but sine and cosine are monotonic, so the operand's error does most harm at its ends.
        let passed_on = match op {
            UnaryOp::Sin | UnaryOp::Cos => self.error,
            _ if self.error == 0.0 => 0.0,
            _ => {
                let harm = |end: f64| {
                    let off = (function(op, end) - value).abs();
                    if off.is_nan() { f64::INFINITY } else { off }
                };
                harm(self.value - self.error).max(harm(self.value + self.error))
            }
        };
        let ulp = 2.0 * ROUNDOFF;
        let own = match op {
            UnaryOp::Neg | UnaryOp::Abs => 0.0,
            UnaryOp::Sqrt | UnaryOp::Recip => ulp * value.abs(),
            UnaryOp::Rsqrt => 2.0 * ulp * value.abs(),
            UnaryOp::Exp | UnaryOp::Log | UnaryOp::Tanh | UnaryOp::Sigmoid | UnaryOp::Erf => {
                FUNCTION_ULPS * ulp * value.abs()
            }
            UnaryOp::Sin => FUNCTION_ULPS * ulp * self.value.abs().min(1.0),
            UnaryOp::Cos => FUNCTION_ULPS * ulp,
        };
        Real::rounded(value, passed_on + own + f64::from(f32::MIN_POSITIVE), dtype)
    }

    /// A function of two values, with a result of `dtype`.
    pub(super) fn binary(self, op: BinaryOp, other: Real, dtype: DType) -> Real {
        let (a, b) = (self, other);
        match op {
            BinaryOp::Add => Real::rounded(a.value + b.value, a.error + b.error, dtype),
            BinaryOp::Sub => Real::rounded(a.value - b.value, a.error + b.error, dtype),
            BinaryOp::Mul => Real::rounded(a.value * b.value, a.product_error(b), dtype),
            BinaryOp::Div => {
                let value = a.value / b.value;
                let passed_on = if a.error == 0.0 && b.error == 0.0 {
                    0.0
                } else if b.error < b.value.abs() {
                    (a.value.abs() + a.error) / (b.value.abs() - b.error) - value.abs()
                } else {
                    f64::INFINITY
                };
                Real::rounded(value, passed_on + 2.0 * ROUNDOFF * value.abs(), dtype)
            }
            BinaryOp::Max | BinaryOp::Min => {
                let (below, above) = if a.value < b.value { (a, b) } else { (b, a) };
                let chosen = match op {
                    _ if a.value.is_nan() || b.value.is_nan() => Real::exact(f64::NAN),
                    BinaryOp::Max => above,
                    _ => below,
                };
                Real { error: if chosen.value.is_finite() { a.error.max(b.error) } else { 0.0 }, ..chosen }
            }
        }
    }

    /// The error passed on to a product, which is not rounded yet.
    fn product_error(self, other: Real) -> f64 {
        self.value.abs() * other.error + other.value.abs() * self.error + self.error * other.error
    }
}

/// A sum that a device accumulates in f32 in an order of its own.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum {
    value: f64,
    magnitude: f64,
    passed_on: f64,
    terms: usize,
    roundings: usize,
}

impl Sum {
    /// Adds a term.
    pub(super) fn add(&mut self, x: Real) {
        self.value += x.value;
        self.magnitude += x.value.abs();
        self.passed_on += x.error;
        self.terms += 1;
    }

    /// Adds a product of two terms.
    pub(super) fn add_product(&mut self, a: Real, b: Real) {
        self.add(Real { value: a.value * b.value, error: a.product_error(b) });
        self.roundings = 1;
    }

    /// The sum, rounded to `dtype`.
    pub(super) fn finish(self, dtype: DType) -> Real {
        let terms = self.terms as f64;
        let roundings = terms.min(4.0 * terms.sqrt()) + self.roundings as f64;
        Real::rounded(self.value, self.passed_on + roundings * ROUNDOFF * self.magnitude, dtype)
    }
}

/// A unary function in f64.
fn function(op: UnaryOp, x: f64) -> f64 {
    match op {
        UnaryOp::Neg => -x,
        UnaryOp::Abs => x.abs(),
        UnaryOp::Exp => x.exp(),
        UnaryOp::Log => x.ln(),
        UnaryOp::Sqrt => x.sqrt(),
        UnaryOp::Rsqrt => 1.0 / x.sqrt(),
        UnaryOp::Recip => 1.0 / x,
        UnaryOp::Sin => x.sin(),
        UnaryOp::Cos => x.cos(),
        UnaryOp::Tanh => x.tanh(),
        UnaryOp::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        UnaryOp::Erf => erf(x),
    }
}

/// The error function by the series `2/√π · e^(−x²) · Σ 2ⁿ x^(2n+1) / (1·3·5·…·(2n+1))`, whose terms all have
/// one sign (Abramowitz & Stegun 7.1.6); past 6 it is ±1 in f64.
fn erf(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x.abs() > 6.0 {
        return 1f64.copysign(x);
    }
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > sum.abs() * f64::EPSILON / 8.0 {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    #[test]
    fn rounding_agrees_with_hardware_good() {
        for i in 0..10_000u32 {
            let x = f32::from_bits(i.wrapping_mul(429_497) ^ 0x3f80_0000);
            if x.is_finite() {
                assert_eq!(round_to(x.into(), DType::F32), f64::from(x));
                assert_eq!(round_to(x.into(), DType::BF16), f64::from(bf16::from_f32(x)), "{x}");
                assert_eq!(round_to(x.into(), DType::F16), f64::from(f16::from_f32(x)), "{x}");
            }
        }
        assert_eq!(round_to(0.1, DType::F32), f64::from(0.1f32));
    }

    #[test]
    fn rounding_at_the_edges_ugly() {
        assert_eq!(round_to(65519.9, DType::F16), 65504.0);
        assert_eq!(round_to(65520.0, DType::F16), f64::INFINITY);
        assert_eq!(round_to(-1e300, DType::F32), f64::NEG_INFINITY);
        assert_eq!(round_to(-1e-300, DType::F32).to_bits(), (-0.0f64).to_bits());
        assert_eq!(round_to(2f64.powi(-24), DType::F16), 2f64.powi(-24), "the smallest f16 subnormal");
        assert_eq!(round_to(2f64.powi(-25), DType::F16), 0.0, "a tie, to even");
        assert!(round_to(f64::NAN, DType::BF16).is_nan());
        // Halfway between two bf16 numbers but for the last bit that f64 holds: not a tie.
        assert_eq!(round_to(1.0 + 2f64.powi(-8) + f64::EPSILON, DType::BF16), 1.0 + 2f64.powi(-7));
        assert_eq!(round_to(1.0 + 2f64.powi(-8), DType::BF16), 1.0);
    }

    #[test]
    fn erf_has_its_known_values_good() {
        for (x, y) in [(0.5, 0.520_499_877_813_046_5), (1.0, 0.842_700_792_949_714_9), (3.0, 0.999_977_909_503_001_4)] {
            assert!((erf(x) - y).abs() < 1e-15, "erf({x}) = {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
        assert_eq!((erf(0.0), erf(f64::INFINITY)), (0.0, 1.0));
        assert!(erf(f64::NAN).is_nan());
    }

    #[test]
    fn a_bound_holds_f32_arithmetic_and_little_more_good() {
        let (a, b) = (Real::exact(0.1f32.into()), Real::exact(3.7f32.into()));
        let product = a.binary(BinaryOp::Mul, b, DType::F32);
        assert!((f64::from(0.1f32 * 3.7f32) - product.value).abs() <= product.error);
        assert_eq!(product.error, 2f64.powi(-26), "half an ulp of a number between ¼ and ½");

        let mut sum = Sum::default();
        let (mut single, mut half) = (0f32, half::bf16::ZERO);
        for i in 0..1000u16 {
            let x = f32::from(i).sin();
            sum.add(Real::exact(x.into()));
            single += x;
            half += half::bf16::from_f32(x);
        }
        let sum = sum.finish(DType::F32);
        assert!(sum.admits(single.into(), DType::F32), "accumulated in f32");
        assert!(!sum.admits(half.into(), DType::F32), "accumulated in bf16");
    }

    #[test]
    fn what_a_tolerance_admits_ugly() {
        let near = Real { value: 2.0, error: 0.5 };
        assert!(near.admits(2.5, DType::F32) && !near.admits(2.6, DType::F32));
        assert!(!near.admits(f64::NAN, DType::F32));
        assert!(!near.admits(f64::INFINITY, DType::F32));
        let nan = Real::exact(f64::NAN);
        assert!(nan.admits(f64::NAN, DType::F32) && !nan.admits(1.0, DType::F32));
        let infinite = Real::exact(f64::INFINITY);
        assert!(infinite.admits(f64::INFINITY, DType::F32));
        assert!(!infinite.admits(f64::NEG_INFINITY, DType::F32) && !infinite.admits(3e38, DType::F32));
        let beyond = Real { value: 65_510.0, error: 16.0 };
        assert!(beyond.admits(f64::INFINITY, DType::F16), "it may round to infinity");
        assert!(beyond.admits(65_504.0, DType::F16), "or to the largest number");
        let unbounded = Real { value: 1.0, error: f64::INFINITY };
        assert!(!unbounded.admits(2.0, DType::F32), "no bound is no licence");
    }

    #[test]
    fn a_lost_divisor_has_no_bound_ugly() {
        let one = Real::exact(1.0);
        let vague = Real { value: 1e-9, error: 1e-8 };
        assert_eq!(one.binary(BinaryOp::Div, vague, DType::F32).error, f64::INFINITY);
        assert_eq!(vague.unary(UnaryOp::Log, DType::F32).error, f64::INFINITY);
    }
}
