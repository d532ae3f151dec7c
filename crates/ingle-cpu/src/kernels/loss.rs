// SPDX-License-Identifier: EUPL-1.2
//! Cross-entropy of rows of logits and its gradient, neither of which holds a softmax of more than a block.

use ingle_tensor::{Error, Result, Spec};

use super::reduce::{max, sum};
use super::rows::packed;
use super::{BLOCK, Context, Pieces, contiguous, views};
use crate::math;
use crate::number::{Float, with_float};
use crate::simd::{Kernel, Simd};
use crate::storage::CpuStorage;

/// What a logit costs, about.
const COST: usize = 8;

/// Each row's target, `None` where it is negative; the others checked against the number of classes.
fn targets(op: &'static str, targets: &CpuStorage, classes: usize) -> Result<Vec<Option<usize>>> {
    let target = |&target: &i32| match usize::try_from(target) {
        Ok(target) if target >= classes => Err(Error::Index { op, index: target as i64, len: classes }),
        Ok(target) => Ok(Some(target)),
        Err(_) => Ok(None),
    };
    packed::<i32>(targets).iter().map(target).collect()
}

/// [`ingle_tensor::Op::CrossEntropy`].
pub(crate) fn cross_entropy(cx: &Context, inputs: [CpuStorage; 2], output: &Spec) -> Result<CpuStorage> {
    let [logits, indices] = inputs;
    let (logits, indices) = (contiguous(cx, logits)?, contiguous(cx, indices)?);
    let classes = logits.layout().shape()[1];
    let targets = targets("cross_entropy", &indices, classes)?;
    let dtype = logits.dtype();
    with_float!("cross_entropy", dtype, T => {
        let logits = packed::<T>(&logits);
        cx.make::<f32>(&output.shape, |out| {
            cx.pieces("cross_entropy", out, Pieces { size: 1, cost: classes * COST }, |t, out| {
                out[0] = targets[t].map_or(0.0, |target| {
                    cx.isa.dispatch(Loss { row: &logits[t * classes..][..classes], target })
                });
            })
        })
    })
}

/// [`ingle_tensor::Op::CrossEntropyGrad`], in place of the logits if they are given away.
pub(crate) fn cross_entropy_grad(cx: &Context, inputs: [CpuStorage; 3]) -> Result<CpuStorage> {
    let [logits, indices, gradient] = inputs;
    let (indices, gradient) = (contiguous(cx, indices)?, contiguous(cx, gradient)?);
    let classes = logits.layout().shape()[1];
    let targets = targets("cross_entropy_grad", &indices, classes)?;
    let dtype = logits.dtype();
    with_float!("cross_entropy_grad", dtype, T => gradient_as::<T>(cx, logits, &targets, packed::<f32>(&gradient)))
}

fn gradient_as<T: Float>(
    cx: &Context,
    mut logits: CpuStorage,
    targets: &[Option<usize>],
    gradient: &[f32],
) -> Result<CpuStorage> {
    let classes = logits.layout().shape()[1];
    if logits.donated::<T>().is_none() {
        logits = views::copy(cx, &logits)?;
    }
    let Some(out) = logits.donated::<T>() else { return Ok(logits) };
    cx.pieces("cross_entropy_grad", out, Pieces { size: classes, cost: COST }, |t, row| match targets[t] {
        Some(target) => cx.isa.dispatch(Gradient { row, target, gradient: gradient[t] }),
        None => row.fill(T::narrow(0.0)),
    })?;
    Ok(logits)
}

/// A row's largest logit, and the sum of the exponentials of all less that one, block by block.
#[inline(always)]
fn statistics<S: Simd, T: Float>(row: &[T]) -> (f32, f32) {
    let mut scratch = [0.0; BLOCK];
    let mut largest = f32::NEG_INFINITY;
    for block in row.chunks(BLOCK) {
        let here = max(T::as_wide(block).unwrap_or_else(|| {
            let wide = &mut scratch[..block.len()];
            T::widen_all(block, wide);
            wide
        }));
        largest = if here > largest || here.is_nan() { here } else { largest };
    }
    let mut total = 0.0;
    for block in row.chunks(BLOCK) {
        let wide = &mut scratch[..block.len()];
        T::widen_all(block, wide);
        for x in wide.iter_mut() {
            *x = math::exp::<S>(*x - largest);
        }
        total += sum::<S>(wide);
    }
    (largest, total)
}

struct Loss<'a, T> {
    row: &'a [T],
    target: usize,
}

impl<T: Float> Kernel for Loss<'_, T> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self) -> f32 {
        let (largest, total) = statistics::<S, T>(self.row);
        total.ln() - (self.row[self.target].widen() - largest)
    }
}

struct Gradient<'a, T> {
    row: &'a mut [T],
    target: usize,
    gradient: f32,
}

impl<T: Float> Kernel for Gradient<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Gradient { row, target, gradient } = self;
        if let Some(wide) = T::as_wide_mut(row) {
            // Each exponential is made once, and waits in the row.
            let largest = max(wide);
            let mut total = 0.0;
            for block in wide.chunks_mut(BLOCK) {
                for x in block.iter_mut() {
                    *x = math::exp::<S>(*x - largest);
                }
                total += sum::<S>(block);
            }
            let at_target = wide[target] / total;
            let factor = gradient / total;
            for x in wide.iter_mut() {
                *x *= factor;
            }
            wide[target] = (at_target - 1.0) * gradient;
            return;
        }
        let (largest, total) = statistics::<S, T>(row);
        let at_target = math::exp::<S>(row[target].widen() - largest) / total;
        let factor = gradient / total;
        let mut scratch = [0.0; BLOCK];
        for block in row.chunks_mut(BLOCK) {
            let wide = &mut scratch[..block.len()];
            T::widen_all(block, wide);
            for x in wide.iter_mut() {
                *x = math::exp::<S>(*x - largest) * factor;
            }
            T::narrow_all(wide, block);
        }
        row[target] = T::narrow((at_target - 1.0) * gradient);
    }
}
