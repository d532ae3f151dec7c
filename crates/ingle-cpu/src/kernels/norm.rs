// SPDX-License-Identifier: EUPL-1.2
//! Operations on whole rows: softmax and the normalisations.

mod grad;

use ingle_tensor::{Result, Spec};

pub(crate) use self::grad::{rms_norm_grad, rms_norm_weight_grad};

use super::reduce::{max, sum};
use super::rows::packed;
use super::{Context, Pieces, contiguous_f32, in_dtype};
use crate::math;
use crate::simd::{Kernel, Simd};
use crate::storage::CpuStorage;

/// What a row's element costs, about.
const COST: usize = 4;

/// Computes each row of the result from the same row of `x`.
fn rows(
    cx: &Context,
    op: &'static str,
    (x, output): (CpuStorage, &Spec),
    compute: impl Fn(&[f32], &mut [f32]) + Sync,
) -> Result<CpuStorage> {
    let width = output.shape.last().copied().unwrap_or(1);
    let x = contiguous_f32(cx, x)?;
    let x = packed::<f32>(&x);
    in_dtype(cx, op, output, |out| {
        cx.pieces(op, out, Pieces { size: width, cost: COST }, |row, out| compute(&x[row * width..][..width], out))
    })
}

/// [`ingle_tensor::Op::Softmax`].
pub(crate) fn softmax(cx: &Context, x: CpuStorage, output: &Spec) -> Result<CpuStorage> {
    rows(cx, "softmax", (x, output), |x, out| cx.isa.dispatch(Softmax { x, out }))
}

struct Softmax<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let largest = max(self.x);
        for (out, x) in self.out.iter_mut().zip(self.x) {
            *out = math::exp::<S>(*x - largest);
        }
        let total = sum::<S>(self.out);
        for out in self.out {
            *out /= total;
        }
    }
}

/// [`ingle_tensor::Op::RmsNorm`].
pub(crate) fn rms_norm(
    cx: &Context,
    [x, weight]: [CpuStorage; 2],
    (eps, offset): (f32, f32),
    output: &Spec,
) -> Result<CpuStorage> {
    let weight = contiguous_f32(cx, weight)?;
    let weight = packed::<f32>(&weight);
    rows(cx, "rms_norm", (x, output), |x, out| cx.isa.dispatch(RmsNorm { x, weight, eps, offset, out }))
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    offset: f32,
    out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let RmsNorm { x, weight, eps, offset, out } = self;
        let scale = inverse_deviation::<S>(x, eps);
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = (x * scale) * (weight + offset);
        }
    }
}

/// `1 / √(mean(x²) + eps)`.
#[inline(always)]
fn inverse_deviation<S: Simd>(x: &[f32], eps: f32) -> f32 {
    let mean_square = dot::<S>(x, x) * per(x.len());
    1.0 / (mean_square + eps).sqrt()
}

/// `1 / n`.
#[inline(always)]
fn per(n: usize) -> f32 {
    (1.0 / n as f64) as f32
}

/// The sum of the products of two rows of one length, in the order of [`sum`].
#[inline(always)]
fn dot<S: Simd>(x: &[f32], y: &[f32]) -> f32 {
    debug_assert_eq!(x.len(), y.len());
    // SAFETY: below `dispatch`; every load stays inside the rows.
    unsafe {
        let zero = S::splat(0.0);
        let mut sums = [zero; 4];
        let mut start = 0;
        while start + 4 * S::LANES <= x.len() {
            for (i, sum) in sums.iter_mut().enumerate() {
                let at = start + i * S::LANES;
                *sum = S::mul_add(S::load(x.as_ptr().add(at)), S::load(y.as_ptr().add(at)), *sum);
            }
            start += 4 * S::LANES;
        }
        let mut turn = 0;
        while start < x.len() {
            let left = x.len() - start;
            let (x, y) = (x.as_ptr().add(start), y.as_ptr().add(start));
            let (x, y) = if left >= S::LANES {
                (S::load(x), S::load(y))
            } else {
                (S::load_part(x, left), S::load_part(y, left))
            };
            sums[turn] = S::mul_add(x, y, sums[turn]);
            start += S::LANES;
            turn += 1;
        }
        S::sum(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3])))
    }
}

/// [`ingle_tensor::Op::LayerNorm`].
pub(crate) fn layer_norm(cx: &Context, inputs: [CpuStorage; 3], eps: f32, output: &Spec) -> Result<CpuStorage> {
    let [x, weight, bias] = inputs;
    let (weight, bias) = (contiguous_f32(cx, weight)?, contiguous_f32(cx, bias)?);
    let (weight, bias) = (packed::<f32>(&weight), packed::<f32>(&bias));
    rows(cx, "layer_norm", (x, output), |x, out| cx.isa.dispatch(LayerNorm { x, weight, bias, eps, out }))
}

struct LayerNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let LayerNorm { x, weight, bias, eps, out } = self;
        let mean = sum::<S>(x) * per(x.len());
        for (out, x) in out.iter_mut().zip(x) {
            *out = x - mean;
        }
        let scale = inverse_deviation::<S>(out, eps);
        for ((out, weight), bias) in out.iter_mut().zip(weight).zip(bias) {
            *out = (*out * scale) * weight + bias;
        }
    }
}
