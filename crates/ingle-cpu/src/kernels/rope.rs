// SPDX-License-Identifier: EUPL-1.2
//! Rotary position embedding.

use ingle_tensor::{Result, RopeLayout, Spec};

use super::rows::packed;
use super::{Context, Pieces, cast, contiguous, contiguous_f32, in_dtype};
use crate::simd::{Kernel, Simd};
use crate::storage::CpuStorage;

/// Angles up to here are reduced by a plain f64 remainder; beyond it, `std` does it.
const LARGE: f32 = 1e6;

/// [`ingle_tensor::Op::Rope`].
pub(crate) fn rope(
    cx: &Context,
    [x, positions, frequencies]: [CpuStorage; 3],
    layout: RopeLayout,
    output: &Spec,
) -> Result<CpuStorage> {
    let (heads, width) = (output.shape[1], output.shape[2]);
    let mut x = contiguous_f32(cx, x)?;
    let positions = contiguous(cx, positions)?;
    let positions = packed::<i32>(&positions);
    let frequencies = contiguous_f32(cx, frequencies)?;
    let frequencies = packed::<f32>(&frequencies);
    let half = frequencies.len();
    let work = Pieces { size: heads * width, cost: 4 };
    let turn = |token: usize, out: &mut [f32]| {
        let mut table = vec![0.0; 2 * half];
        let (cos, sin) = table.split_at_mut(half);
        cx.isa.dispatch(Turns { position: positions[token] as f32, frequencies, cos, sin });
        cx.isa.dispatch(Turn { layout, cos, sin, width, heads: out });
    };
    if let Some(own) = x.donated::<f32>() {
        cx.pieces("rope", own, work, turn)?;
        return cast::cast(cx, x, output.dtype);
    }
    let x = packed::<f32>(&x);
    in_dtype(cx, "rope", output, |out| {
        cx.pieces("rope", out, work, |token, out| {
            out.copy_from_slice(&x[token * heads * width..][..heads * width]);
            turn(token, out);
        })
    })
}

/// The cosines and sines of `position · frequency`.
struct Turns<'a> {
    position: f32,
    frequencies: &'a [f32],
    cos: &'a mut [f32],
    sin: &'a mut [f32],
}

impl Kernel for Turns<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Turns { position, frequencies, cos, sin } = self;
        let mut large = false;
        for ((frequency, cos), sin) in frequencies.iter().zip(cos.iter_mut()).zip(sin.iter_mut()) {
            let angle = position * frequency;
            (*cos, *sin) = cos_sin(angle);
            large |= is_large(angle);
        }
        if large {
            for ((frequency, cos), sin) in frequencies.iter().zip(cos).zip(sin) {
                let angle = position * frequency;
                if is_large(angle) {
                    (*sin, *cos) = angle.sin_cos();
                }
            }
        }
    }
}

/// Whether [`cos_sin`] is not for this angle; NaN included.
#[inline(always)]
fn is_large(angle: f32) -> bool {
    angle.abs() > LARGE || angle.is_nan()
}

/// Cosine and sine of an angle up to [`LARGE`]: reduced by quarter turns in f64, then the power series, which
/// there falls below f32's precision after these terms.
#[inline(always)]
fn cos_sin(angle: f32) -> (f32, f32) {
    /// Adding this leaves an f64's nearest integer in its low bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let angle = f64::from(angle);
    let shifted = angle * std::f64::consts::FRAC_2_PI + ROUND;
    let quarters = shifted.to_bits() as u32;
    let r = angle - (shifted - ROUND) * std::f64::consts::FRAC_PI_2;
    let s = r * r;
    let sin = r + r * s * (-1.0 / 6.0 + s * (1.0 / 120.0 + s * (-1.0 / 5040.0 + s * (1.0 / 362_880.0))));
    let tail = 1.0 / 24.0 + s * (-1.0 / 720.0 + s * (1.0 / 40_320.0 + s * (-1.0 / 3_628_800.0)));
    let cos = 1.0 - 0.5 * s + s * s * tail;
    let (c, s) = if quarters & 1 == 0 { (cos, sin) } else { (sin, cos) };
    // The cosine is negative in the second and third quarter, the sine in the third and fourth.
    let c = if (quarters.wrapping_add(1)) & 2 == 0 { c } else { -c };
    let s = if quarters & 2 == 0 { s } else { -s };
    (c as f32, s as f32)
}

/// Turns the features of a token's heads, in place.
struct Turn<'a> {
    layout: RopeLayout,
    cos: &'a [f32],
    sin: &'a [f32],
    /// Features of a head.
    width: usize,
    heads: &'a mut [f32],
}

impl Kernel for Turn<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Turn { layout, cos, sin, width, heads } = self;
        let half = cos.len();
        let turn = |a: &mut f32, b: &mut f32, (cos, sin): (&f32, &f32)| {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        };
        for head in heads.chunks_exact_mut(width) {
            let turns = cos.iter().zip(sin);
            match layout {
                RopeLayout::Halves => {
                    let (first, second) = head[..2 * half].split_at_mut(half);
                    first.iter_mut().zip(second).zip(turns).for_each(|((a, b), by)| turn(a, b, by));
                }
                RopeLayout::Interleaved => {
                    for (pair, by) in head.chunks_exact_mut(2).zip(turns) {
                        let (a, b) = pair.split_at_mut(1);
                        turn(&mut a[0], &mut b[0], by);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_and_sine_are_right_to_the_last_place_good() {
        let mut angle = 1e-6f32;
        while angle < LARGE {
            for angle in [angle, -angle] {
                let (cos, sin) = cos_sin(angle);
                let exact = f64::from(angle);
                assert!((f64::from(cos) - exact.cos()).abs() <= 6.1e-8, "cos {angle}: {cos}");
                assert!((f64::from(sin) - exact.sin()).abs() <= 6.1e-8 * exact.abs().min(1.0), "sin {angle}: {sin}");
            }
            angle *= 1.0007;
        }
        assert_eq!(cos_sin(0.0), (1.0, 0.0));
    }
}
