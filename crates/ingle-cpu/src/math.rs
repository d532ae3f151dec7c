// SPDX-License-Identifier: EUPL-1.2
//! Functions of an f32, without branches, so that loops over them become vector code.
//!
//! Each is within a few units in the last place. Polynomials are minimax fits of relative error (Lawson's
//! iteration), their coefficients rounded to f32; ranges are reduced after Cody & Waite (1980).

// The coefficients are given with the digits that identify an f32.
#![allow(clippy::excessive_precision)]

use std::f32::consts::LOG2_E;

use crate::simd::Simd;

/// Adding this, 1.5 · 2²³, leaves an f32's nearest integer, ties to even, in its low bits.
pub(crate) const ROUND: f32 = 12_582_912.0;

/// `ln 2` in two parts: products of the first with small integers are exact.
const LN_2: [f32; 2] = [0.693_359_375, -2.121_944_4e-4];

/// The polynomial with these coefficients, constant first, at `x`.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut sum = coefficients[N - 1];
    for i in (0..N - 1).rev() {
        sum = S::mul_add1(sum, x, coefficients[i]);
    }
    sum
}

/// Of `(eʳ − 1 − r) / r²`.
const EXP: [f32; 5] = [
    0.499_999_940_395_355_2,
    0.166_665_151_715_278_63,
    0.041_668_456_047_773_36,
    0.008_369_418_792_426_586,
    0.001_381_314_243_189_990_5,
];

/// `eˣ`.
#[inline(always)]
pub(crate) fn exp<S: Simd>(x: f32) -> f32 {
    // Beyond these the result is infinite or zero; comparisons leave NaN alone.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -105.0 { -105.0 } else { x };
    let shifted = S::mul_add1(x, LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = S::mul_add1(n, -LN_2[1], S::mul_add1(n, -LN_2[0], x));
    let q = polynomial::<S, 5>(r, EXP);
    let fraction = S::mul_add1(r * r, q, r) + 1.0;
    // Two factors, since 2ⁿ alone may be below or above what an f32 holds.
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    fraction * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// `eˣ` of numbers that are not positive; zero where it is below `e⁻⁸⁷`.
#[cfg(any(test, target_arch = "x86_64"))]
#[inline(always)]
pub(crate) fn exp_down<S: Simd>(x: f32) -> f32 {
    let shifted = S::mul_add1(x, LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = S::mul_add1(n, -LN_2[1], S::mul_add1(n, -LN_2[0], x));
    let fraction = S::mul_add1(r * r, polynomial::<S, 5>(r, EXP), r) + 1.0;
    // The low bits of `ROUND` are zero, so that those of the sum are `n`; it goes to the exponent, which stays in range.
    let power = f32::from_bits(fraction.to_bits().wrapping_add(shifted.to_bits() << 23));
    if x < -87.0 { 0.0 } else { power }
}

/// `2ⁿ` for `−126 ≤ n ≤ 127`.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<S>(-x))
}

/// The hyperbolic tangent.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(x: f32) -> f32 {
    let size = x.abs();
    let square = x * x;
    let p = polynomial::<S, 5>(
        square,
        [
            -0.333_332_806_825_637_8,
            0.133_314_415_812_492_37,
            -0.053_739_711_642_265_32,
            0.020_639_078_691_601_753,
            -0.005_704_978_480_935_097,
        ],
    );
    // The sign is for −0, which the sum loses.
    let near = S::mul_add1(x * square, p, x).copysign(x);
    let far = (1.0 - 2.0 / (exp::<S>(2.0 * size) + 1.0)).copysign(x);
    if size < 0.625 { near } else { far }
}

/// The error function.
#[inline(always)]
pub(crate) fn erf<S: Simd>(x: f32) -> f32 {
    let size = x.abs();
    let p = polynomial::<S, 7>(
        x * x,
        [
            0.128_379_166_126_251_22,
            -0.376_126_319_169_998_17,
            0.112_836_636_602_878_57,
            -0.026_857_705_786_824_226,
            0.005_196_951_795_369_387,
            -0.000_809_770_193_882_286_5,
            0.000_081_850_870_628_841_22,
        ],
    );
    let near = S::mul_add1(x, p, x);
    // erf x = 1 − e^(−q(x)); from 4 on it is 1.
    let clamped = if size > 4.0 { 4.0 } else { size };
    let q = polynomial::<S, 7>(
        clamped,
        [
            0.000_211_304_039_112_292_23,
            1.127_611_279_487_609_9,
            0.637_290_358_543_396,
            0.103_836_968_541_145_32,
            -0.022_181_419_655_680_656,
            0.003_031_828_673_556_447,
            -0.000_194_778_651_348_315_18,
        ],
    );
    let far = (1.0 - exp::<S>(-q)).copysign(x);
    if size < 0.94 { near } else { far }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Isa, Kernel};

    /// A function of this module, to be run on every instruction set.
    struct Each<'a> {
        name: &'static str,
        x: &'a mut [f32],
    }

    impl Kernel for Each<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self) {
            for x in self.x {
                *x = match self.name {
                    "exp" => exp::<S>(*x),
                    "exp_down" => exp_down::<S>(*x),
                    "sigmoid" => sigmoid::<S>(*x),
                    "tanh" => tanh::<S>(*x),
                    _ => erf::<S>(*x),
                };
            }
        }
    }

    fn every(name: &'static str, x: &[f32], check: impl Fn(f32, f32, Isa)) {
        for isa in Isa::available() {
            let mut y = x.to_vec();
            isa.dispatch(Each { name, x: &mut y });
            x.iter().zip(y).for_each(|(x, y)| check(*x, y, isa));
        }
    }

    #[test]
    fn functions_are_within_three_ulps_good() {
        let x: Vec<f32> = (-80_000..80_000).map(|i| i as f32 / 1000.0).chain((0..60).map(|i| 0.5f32.powi(i))).collect();
        for (name, exact) in
            [("exp", f64::exp as fn(f64) -> f64), ("sigmoid", |x| 1.0 / (1.0 + (-x).exp())), ("tanh", f64::tanh)]
        {
            every(name, &x, |x, y, isa| {
                let exact = exact(x.into());
                let ulp = exact.abs() * 2f64.powi(-23);
                assert!((f64::from(y) - exact).abs() <= 3.0 * ulp, "{isa}: {name}({x}) = {y}, not {exact}");
            });
        }
    }

    #[test]
    fn powers_that_are_not_above_one_good() {
        let x: Vec<f32> = (0..=87_000).map(|i| i as f32 / -1000.0).collect();
        every("exp_down", &x, |x, y, isa| {
            let exact = f64::from(x).exp();
            assert!((f64::from(y) - exact).abs() <= exact * 3.0 * 2f64.powi(-23), "{isa}: e^{x} = {y}, not {exact}");
        });
        every("exp_down", &[-87.1, -1e30, f32::NEG_INFINITY], |x, y, _| assert_eq!(y.to_bits(), 0, "e^{x} = {y}"));
        every("exp_down", &[f32::NAN], |_, y, _| assert!(y.is_nan()));
    }

    #[test]
    fn functions_at_their_ends_ugly() {
        let ends = [f32::NEG_INFINITY, -1e30, -104.5, -0.0, 0.0, 88.8, 1e30, f32::INFINITY];
        every("exp", &ends, |x, y, _| {
            let exact = f64::from(x).exp() as f32;
            assert!(y == exact, "exp({x}) = {y}, not {exact}");
        });
        every("tanh", &ends, |x, y, _| assert_eq!(y.to_bits(), x.tanh().to_bits(), "tanh({x}) = {y}"));
        every("erf", &ends, |x, y, _| {
            let exact = if x == 0.0 { x } else { x.signum() };
            assert_eq!(y.to_bits(), exact.to_bits(), "erf({x}) = {y}");
        });
        for name in ["exp", "sigmoid", "tanh", "erf"] {
            every(name, &[f32::NAN], |_, y, _| assert!(y.is_nan(), "{name}(NaN) = {y}"));
        }
    }

    #[test]
    fn erf_has_its_known_values_good() {
        // Abramowitz & Stegun, table 7.1.
        let known = [(0.1, 0.112_462_916), (0.5, 0.520_499_878), (0.93, 0.811_563_559), (0.95, 0.820_890_807)];
        let known = known.into_iter().chain([(1.0, 0.842_700_793), (1.5, 0.966_105_146), (2.0, 0.995_322_265)]);
        for (x, exact) in known {
            every("erf", &[x, -x], |x, y, isa| {
                let exact = f32::copysign(exact, x);
                assert!((y - exact).abs() <= 1.2e-7, "{isa}: erf({x}) = {y}, not {exact}");
            });
        }
    }
}
