// SPDX-License-Identifier: EUPL-1.2
//! Scores to weights as tiles take them.

use std::ops::Range;

use super::super::softmax::{Extent, base};
use super::{STEP, steps};
use crate::kernels::activation::soft_cap_all;
use crate::math;
use crate::simd::tiles::SIDE;
use crate::simd::{Kernel, Simd};

/// Turns one row's scores in a chunk into weights against the largest of them.
pub(super) struct Weights<'a> {
    pub(super) scores: &'a mut [f32],
    /// The positions in the chunk that the row attends to.
    pub(super) seen: Range<usize>,
    /// Those that it shares tiles with; what it does not attend to weighs zero.
    pub(super) all: Range<usize>,
    pub(super) scale: f32,
    pub(super) soft_cap: Option<f32>,
    /// bf16, two to a word: of 32 positions, the first one and the seventeenth, and so on.
    pub(super) weights: &'a mut [u32],
}

/// Lanes that sums and maxima are taken in: one for each position of a step, whatever else the row attends to.
type Lanes = [f32; STEP];

impl Kernel for Weights<'_> {
    type Output = Extent;

    #[inline(always)]
    fn run<S: Simd>(self) -> Extent {
        let Weights { scores, seen, all, mut scale, soft_cap, weights } = self;
        let (all, own) = (steps(&all), steps(&seen));
        if seen.is_empty() {
            weights[all.start * SIDE..all.end * SIDE].fill(0);
            return [f32::NEG_INFINITY, 0.0];
        }
        weights[all.start * SIDE..own.start * SIDE].fill(0);
        weights[own.end * SIDE..all.end * SIDE].fill(0);
        scores[own.start * STEP..seen.start].fill(f32::NEG_INFINITY);
        scores[seen.end..own.end * STEP].fill(f32::NEG_INFINITY);
        // The largest score is that of the largest product only where the scale is positive.
        if soft_cap.is_some() || scale <= 0.0 {
            for score in &mut scores[seen.clone()] {
                *score *= scale;
            }
            if let Some(cap) = soft_cap {
                soft_cap_all::<S>(&mut scores[seen], cap);
            }
            scale = 1.0;
        }
        let scores = scores[own.start * STEP..own.end * STEP].as_chunks::<STEP>().0;
        let weights = weights[own.start * SIDE..own.end * SIDE].as_chunks_mut::<SIDE>().0;
        let mut lanes = [f32::NEG_INFINITY; STEP];
        for scores in scores {
            for (largest, score) in lanes.iter_mut().zip(scores) {
                // NaN needs no care: its weight is NaN, and so is the sum.
                *largest = if *score > *largest { *score } else { *largest };
            }
        }
        let largest = fold(lanes, |a, b| if b > a { b } else { a }) * scale;
        let base = base(largest);
        let mut sums: Lanes = [0.0; STEP];
        for (scores, words) in scores.iter().zip(weights) {
            let mut weights = [0.0; STEP];
            for ((weight, score), sum) in weights.iter_mut().zip(scores).zip(&mut sums) {
                *weight = math::exp_down::<S>(S::mul_add1(*score, scale, -base));
                // Of the weights as they are: only what meets the values is rounded.
                *sum += *weight;
            }
            for (i, word) in words.iter_mut().enumerate() {
                *word = rounded(weights[SIDE + i]) & 0xffff_0000 | rounded(weights[i]) >> 16;
            }
        }
        [largest, fold(sums, |a, b| a + b)]
    }
}

/// The halves with each other, and their halves, down to one.
#[inline(always)]
fn fold(mut lanes: Lanes, join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = STEP / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = join(lanes[i], lanes[half + i]);
        }
        half /= 2;
    }
    lanes[0]
}

/// In the high half, the nearest bf16's bits, an even one's of two. A weight is at most 1; where it is NaN, so is the
/// sum of the weights, and nothing else matters.
#[inline(always)]
fn rounded(weight: f32) -> u32 {
    let bits = weight.to_bits();
    bits.wrapping_add(0x7fff).wrapping_add(bits >> 16 & 1)
}
