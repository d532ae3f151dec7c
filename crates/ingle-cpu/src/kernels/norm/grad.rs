// SPDX-License-Identifier: EUPL-1.2
//! Gradients of the normalisations.

use ingle_tensor::{Result, Spec};

use super::{COST, dot, inverse_deviation, per};
use crate::kernels::rows::packed;
use crate::kernels::{BLOCK, Context, Pieces, cast, contiguous_f32, elements_mut, in_dtype};
use crate::memory::Contents;
use crate::simd::{Kernel, Simd};
use crate::storage::CpuStorage;

/// [`ingle_tensor::Op::RmsNormGrad`], in place of the gradient if it is given away.
pub(crate) fn rms_norm_grad(
    cx: &Context,
    [x, weight, gradient]: [CpuStorage; 3],
    (eps, offset): (f32, f32),
    output: &Spec,
) -> Result<CpuStorage> {
    const OP: &str = "rms_norm_grad";
    let (x, weight) = (contiguous_f32(cx, x)?, contiguous_f32(cx, weight)?);
    let mut gradient = contiguous_f32(cx, gradient)?;
    let (x, weight) = (packed::<f32>(&x), packed::<f32>(&weight));
    let width = weight.len();
    let work = Pieces { size: width, cost: 2 * COST };
    let row = |row: usize, out: &mut [f32]| {
        cx.isa.dispatch(RmsNormGrad { x: &x[row * width..][..width], weight, eps, offset, out });
    };
    if let Some(own) = gradient.donated::<f32>() {
        cx.pieces(OP, own, work, row)?;
        return cast::cast(cx, gradient, output.dtype);
    }
    let gradient = packed::<f32>(&gradient);
    in_dtype(cx, OP, output, |out| {
        cx.pieces(OP, out, work, |number, out| {
            out.copy_from_slice(&gradient[number * width..][..width]);
            row(number, out);
        })
    })
}

/// One row, with its gradient in `out`. With `r` the inverse deviation, `n = r·x`, and `w` the weight with its offset:
/// `r (w ∘ dy − n mean(w ∘ dy ∘ n))`.
struct RmsNormGrad<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    offset: f32,
    out: &'a mut [f32],
}

impl Kernel for RmsNormGrad<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let RmsNormGrad { x, weight, eps, offset, out } = self;
        let scale = inverse_deviation::<S>(x, eps);
        for (out, weight) in out.iter_mut().zip(weight) {
            *out *= weight + offset;
        }
        let mean = dot::<S>(out, x) * scale * per(x.len());
        for (out, x) in out.iter_mut().zip(x) {
            *out = (*out - (x * scale) * mean) * scale;
        }
    }
}

/// Sums over rows are cut into as many at most. Not by the threads, on whose number no sum may depend.
const PARTS: usize = 64;

/// Rows of a part at least.
const LEAST_ROWS: usize = 32;

/// [`ingle_tensor::Op::RmsNormWeightGrad`].
pub(crate) fn rms_norm_weight_grad(
    cx: &Context,
    [x, gradient]: [CpuStorage; 2],
    eps: f32,
    output: &Spec,
) -> Result<CpuStorage> {
    const OP: &str = "rms_norm_weight_grad";
    let (x, gradient) = (contiguous_f32(cx, x)?, contiguous_f32(cx, gradient)?);
    let (x, gradient) = (packed::<f32>(&x), packed::<f32>(&gradient));
    let width = output.shape.elements();
    let rows = x.len() / width.max(1);
    let together = rows.div_ceil(PARTS).max(LEAST_ROWS);
    let mut parts = cx.buffer::<f32>(rows.div_ceil(together) * width, Contents::Anything)?;
    let sums = elements_mut::<f32>(&mut parts);
    cx.pieces(OP, sums, Pieces { size: width, cost: 2 * COST * together }, |part, sums| {
        let rows = part * together * width..((part + 1) * together * width).min(x.len());
        cx.isa.dispatch(WeightGrad { x: &x[rows.clone()], gradient: &gradient[rows], eps, sums });
    })?;
    let sums = &*sums;
    cx.make::<f32>(&output.shape, |out| {
        cx.pieces(OP, out, Pieces { size: BLOCK, cost: rows.div_ceil(together) }, |block, out| {
            out.fill(0.0);
            for part in sums.chunks_exact(width) {
                out.iter_mut().zip(&part[block * BLOCK..]).for_each(|(out, x)| *out += x);
            }
        })
    })
}

/// The sum of some rows' gradients, each times its row of `x` over the deviation.
struct WeightGrad<'a> {
    x: &'a [f32],
    gradient: &'a [f32],
    eps: f32,
    sums: &'a mut [f32],
}

impl Kernel for WeightGrad<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let WeightGrad { x, gradient, eps, sums } = self;
        let width = sums.len();
        sums.fill(0.0);
        for (x, gradient) in x.chunks_exact(width).zip(gradient.chunks_exact(width)) {
            let scale = inverse_deviation::<S>(x, eps);
            for ((sum, x), gradient) in sums.iter_mut().zip(x).zip(gradient) {
                *sum = S::mul_add1(x * scale, *gradient, *sum);
            }
        }
    }
}
