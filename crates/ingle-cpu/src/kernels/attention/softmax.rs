// SPDX-License-Identifier: EUPL-1.2
//! Scores to weights, and the joining of chunks.

use std::marker::PhantomData;
use std::ops::Range;

use super::rounding::Rounding;
use crate::kernels::activation::soft_cap_all;
use crate::kernels::reduce::sum;
use crate::math;
use crate::simd::{Kernel, Simd};

/// A row's largest score, and the sum of its weights.
pub(super) type Extent = [f32; 2];

/// Turns one row's scores in a chunk into weights against the largest of them.
pub(super) struct Weights<'a, F> {
    pub(super) scores: &'a mut [f32],
    /// The positions in the chunk that the row attends to.
    pub(super) seen: Range<usize>,
    pub(super) scale: f32,
    pub(super) soft_cap: Option<f32>,
    /// Of the values that the weights will meet, if they have scales: the weights become the products.
    pub(super) value_scales: Option<&'a [f32]>,
    pub(super) weights: &'a mut [F],
}

/// Scores at a time: whole vectors on every instruction set.
const LANES: usize = 16;

impl<F: Rounding> Kernel for Weights<'_, F> {
    /// And what one unit of a weight stands for.
    type Output = (Extent, f32);

    #[inline(always)]
    fn run<S: Simd>(self) -> (Extent, f32) {
        let Weights { scores, seen, scale, soft_cap, value_scales, weights } = self;
        // Whole vectors, and with them whole lanes of factors: what the row does not see there weighs nothing.
        let whole = seen.start / LANES * LANES..seen.end.next_multiple_of(LANES);
        let (before, after) = (seen.start - whole.start, whole.end - seen.end);
        let (scores, weights) = (&mut scores[whole.clone()], &mut weights[whole]);
        let (scores, _) = scores.as_chunks_mut::<LANES>();
        for score in scores.as_flattened_mut() {
            *score *= scale;
        }
        if let Some(cap) = soft_cap {
            soft_cap_all::<S>(scores.as_flattened_mut(), cap);
        }
        let flat = scores.as_flattened_mut();
        let end = flat.len() - after;
        flat[..before].fill(f32::NEG_INFINITY);
        flat[end..].fill(f32::NEG_INFINITY);
        let largest = largest::<S>(scores);
        let base = base(largest);
        for scores in scores.iter_mut() {
            for score in scores {
                *score = math::exp::<S>(*score - base);
            }
        }
        let flat = scores.as_flattened_mut();
        // Of the weights as they are: only what meets the values is rounded.
        let sum = sum::<S>(flat);
        if let Some(scales) = value_scales {
            // Beyond what the row sees weights are zeros, and scales may be NaN.
            for (weight, scale) in flat[before..end].iter_mut().zip(&scales[seen]) {
                *weight *= scale;
            }
        }
        ([largest, sum], F::weights(flat, weights))
    }
}

/// The largest number, −∞ if there is none. NaN needs no care here: its weight is NaN, and so is the sum.
#[inline(always)]
pub(super) fn largest<S: Simd>(scores: &[[f32; LANES]]) -> f32 {
    // SAFETY: below `dispatch`; loads and the store stay inside `LANES`.
    unsafe {
        let mut lanes = [S::splat(f32::NEG_INFINITY); 2];
        for scores in scores {
            lanes[0] = S::max(S::load(scores.as_ptr()), lanes[0]);
            lanes[1] = S::max(S::load(scores.as_ptr().add(LANES - S::LANES)), lanes[1]);
        }
        let mut found = [f32::NEG_INFINITY; LANES];
        S::store(found.as_mut_ptr(), S::max(lanes[0], lanes[1]));
        found.into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
    }
}

/// What scores are taken against: the largest, unless nothing is attended to at all.
#[inline(always)]
pub(super) fn base(largest: f32) -> f32 {
    if largest == f32::NEG_INFINITY { 0.0 } else { largest }
}

/// Makes f32 of one row's sums of products.
pub(super) struct Settle<'a, F> {
    pub(super) sums: &'a mut [f32],
    pub(super) unit: f32,
    pub(super) factor: PhantomData<F>,
}

impl<F: Rounding> Kernel for Settle<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        F::settle(self.sums, self.unit);
    }
}

/// Takes one row's result in a chunk into that of the chunks before.
pub(super) struct Merge<'a> {
    pub(super) extent: &'a Extent,
    pub(super) values: &'a [f32],
    pub(super) total: &'a mut Extent,
    pub(super) total_values: &'a mut [f32],
}

impl Kernel for Merge<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Merge { extent, values, total, total_values } = self;
        let [max, sum] = *extent;
        let largest = if max > total[0] { max } else { total[0] };
        let before = math::exp::<S>(total[0] - base(largest));
        let now = math::exp::<S>(max - base(largest));
        *total = [largest, total[1] * before + sum * now];
        for (total, value) in total_values.iter_mut().zip(values) {
            // Either zero becomes the positive one: sums may differ in it.
            *total = *total * before + (value + 0.0) * now;
        }
    }
}

/// Divides one row's values by the sum of their weights.
pub(super) struct Finish<'a> {
    pub(super) extent: &'a Extent,
    pub(super) values: &'a [f32],
    pub(super) out: &'a mut [f32],
}

impl Kernel for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        for (out, value) in self.out.iter_mut().zip(self.values) {
            *out = value / self.extent[1];
        }
    }
}
