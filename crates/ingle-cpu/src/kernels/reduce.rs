// SPDX-License-Identifier: EUPL-1.2
//! Reductions along one axis.
//!
//! Along the last axis an element's sum takes lanes in a fixed pattern; along another axis it takes blocks of
//! [`STEPS`] in turn. Which of the two depends on the axis alone, so a result never depends on its neighbours.

use ingle_tensor::{Op, ReduceOp, Result, Shape};

use super::rows::packed;
use super::{Context, Narrow, Pieces, contiguous_f32};
use crate::number::{Number, with_float};
use crate::simd::{Kernel, Simd};
use crate::storage::CpuStorage;

/// Terms added to one partial sum along an outer axis.
const STEPS: usize = 128;

/// [`ingle_tensor::Op::Reduce`].
pub(crate) fn reduce(cx: &Context, op: ReduceOp, axis: usize, x: CpuStorage) -> Result<CpuStorage> {
    let name = Op::Reduce { op, axis }.name();
    let dtype = x.dtype();
    let out_shape = x.layout().shape().with_axis(axis, 1);
    let (len, inner) = extent(x.layout().shape(), axis);
    let last = axis + 1 == out_shape.len();
    let x = contiguous_f32(cx, x)?;
    let x = packed::<f32>(&x);
    with_float!(name, dtype, T => cx.make::<T>(&out_shape, |out| {
        if last {
            cx.pieces(name, out, Pieces { size: 1, cost: len }, |row, out| {
                out[0] = T::narrow(cx.isa.dispatch(Row { op, x: &x[row * len..(row + 1) * len] }));
            })
        } else {
            cx.pieces(name, out, Pieces { size: inner, cost: len }, |outer, out| {
                let mut sums = vec![0.0; inner];
                let x = &x[outer * len * inner..(outer + 1) * len * inner];
                cx.isa.dispatch(Columns { op, x, sums: &mut sums });
                cx.isa.dispatch(Narrow { from: &sums, to: out });
            })
        }
    }))
}

/// Length of an axis, and how many elements lie in one index of it.
fn extent(shape: &Shape, axis: usize) -> (usize, usize) {
    (shape[axis], shape[axis + 1..].iter().product())
}

/// The sum or maximum of a row.
struct Row<'a> {
    op: ReduceOp,
    x: &'a [f32],
}

impl Kernel for Row<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self) -> f32 {
        match self.op {
            ReduceOp::Sum => sum::<S>(self.x),
            ReduceOp::Max => max(self.x),
        }
    }
}

/// The sum of a row: four vectors of lanes take turns, and are added up in a fixed order.
#[inline(always)]
pub(super) fn sum<S: Simd>(x: &[f32]) -> f32 {
    // SAFETY: below `dispatch`; every load stays inside `x`.
    unsafe {
        let zero = S::splat(0.0);
        let mut sums = [zero; 4];
        let mut start = 0;
        while start + 4 * S::LANES <= x.len() {
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = S::add(*sum, S::load(x.as_ptr().add(start + i * S::LANES)));
            }
            start += 4 * S::LANES;
        }
        let mut turn = 0;
        while start < x.len() {
            let left = x.len() - start;
            let from = x.as_ptr().add(start);
            let v = if left >= S::LANES { S::load(from) } else { S::load_part(from, left) };
            sums[turn] = S::add(sums[turn], v);
            start += S::LANES;
            turn += 1;
        }
        S::sum(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3])))
    }
}

/// The largest element of a row, −∞ if it is empty, NaN if there is one.
#[inline(always)]
pub(super) fn max(x: &[f32]) -> f32 {
    const LANES: usize = 64;
    let mut largest = [f32::NEG_INFINITY; LANES];
    let mut nan = [false; LANES];
    for chunk in x.chunks(LANES) {
        for ((largest, nan), x) in largest.iter_mut().zip(&mut nan).zip(chunk) {
            *largest = if *x > *largest { *x } else { *largest };
            *nan |= x.is_nan();
        }
    }
    if nan.contains(&true) {
        return f32::NAN;
    }
    largest.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
}

/// The sums or maxima of columns.
struct Columns<'a> {
    op: ReduceOp,
    x: &'a [f32],
    sums: &'a mut [f32],
}

impl Kernel for Columns<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let width = self.sums.len();
        match self.op {
            ReduceOp::Sum => {
                let mut partial = vec![0.0f32; width];
                for block in self.x.chunks(STEPS * width) {
                    partial.fill(0.0);
                    for row in block.chunks_exact(width) {
                        for (sum, x) in partial.iter_mut().zip(row) {
                            *sum += x;
                        }
                    }
                    for (sum, partial) in self.sums.iter_mut().zip(&partial) {
                        *sum += partial;
                    }
                }
            }
            ReduceOp::Max => {
                self.sums.fill(f32::NEG_INFINITY);
                for row in self.x.chunks_exact(width) {
                    for (max, x) in self.sums.iter_mut().zip(row) {
                        *max = if max.is_nan() || *max > *x { *max } else { *x };
                    }
                }
            }
        }
    }
}

/// [`ingle_tensor::Op::ArgMax`].
pub(crate) fn argmax(cx: &Context, axis: usize, x: CpuStorage) -> Result<CpuStorage> {
    let out_shape = x.layout().shape().with_axis(axis, 1);
    let (len, inner) = extent(x.layout().shape(), axis);
    let x = contiguous_f32(cx, x)?;
    let x = packed::<f32>(&x);
    cx.make::<i32>(&out_shape, |out| {
        cx.pieces("argmax", out, Pieces { size: 1, cost: len }, |element, out| {
            let start = element / inner * len * inner + element % inner;
            out[0] = if inner == 1 {
                cx.isa.dispatch(First { x: &x[start..start + len] })
            } else {
                let column: Vec<f32> = x[start..].iter().step_by(inner).take(len).copied().collect();
                cx.isa.dispatch(First { x: &column })
            };
        })
    })
}

/// The index of the first largest element.
struct First<'a> {
    x: &'a [f32],
}

impl Kernel for First<'_> {
    type Output = i32;

    #[inline(always)]
    fn run<S: Simd>(self) -> i32 {
        const LANES: usize = 64;
        let mut lanes = [f32::NEG_INFINITY; LANES];
        for chunk in self.x.chunks(LANES) {
            for (largest, x) in lanes.iter_mut().zip(chunk) {
                *largest = if *x > *largest { *x } else { *largest };
            }
        }
        let largest = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
        // Whole chunks are looked through at once; only in the one that has it, its place is asked for.
        let first = self.x.chunks(LANES).position(|chunk| chunk.iter().fold(false, |found, x| found | (*x == largest)));
        let place = first.and_then(|first| {
            (first * LANES..).zip(&self.x[first * LANES..]).find(|(_, x)| **x == largest).map(|(i, _)| i)
        });
        // Nothing but NaN is not even the least: then the first is as good as any.
        place.map_or(0, |i| i as i32)
    }
}
