// SPDX-License-Identifier: EUPL-1.2
//! Scores to weights, and the gradient of the weights to that of the scores.

use std::ops::Range;

use super::product::COLUMNS;
use crate::kernels::attention::rounding::Rounding;
use crate::kernels::attention::softmax::{base, largest};
use crate::math;
use crate::simd::{Kernel, Simd};

/// Rows of queries against the columns that any of them attends to. With `P` the weights and `dP` their gradient, that
/// of the scores is `P ∘ (dP − Σ P ∘ dP)`, times the slope of the soft cap and the scale.
pub(super) struct Scores<'a, F> {
    /// Products of queries and keys, row by row, overwritten.
    pub(super) products: &'a mut [f32],
    /// The gradient of the weights, row by row, overwritten.
    pub(super) by_weight: &'a mut [f32],
    /// Columns of a row.
    pub(super) columns: usize,
    /// Those that each row attends to. Rows behind the last get zeros.
    pub(super) seen: &'a [Range<usize>],
    pub(super) scale: f32,
    pub(super) soft_cap: Option<f32>,
    /// As long as a row.
    pub(super) slopes: &'a mut [f32],
    /// Row by row, zeros where a row does not attend.
    pub(super) weights: &'a mut [F],
    /// The gradient of the products, likewise.
    pub(super) by_product: &'a mut [F],
}

impl<F: Rounding> Kernel for Scores<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Scores { products, by_weight, columns, seen, scale, soft_cap, slopes, weights, by_product } = self;
        for (row, seen) in seen.iter().enumerate() {
            let first = row * columns;
            // Whole vectors: what the row does not see there weighs nothing.
            let whole = seen.start / COLUMNS * COLUMNS..seen.end.next_multiple_of(COLUMNS);
            let own = first + whole.start..first + whole.end;
            let (scores, gradient) = (&mut products[own.clone()], &mut by_weight[own.clone()]);
            let slopes = &mut slopes[..whole.len()];
            for score in scores.iter_mut() {
                *score *= scale;
            }
            if let Some(cap) = soft_cap {
                let inverse = (1.0 / f64::from(cap)) as f32;
                for (score, slope) in scores.iter_mut().zip(slopes.iter_mut()) {
                    let t = math::tanh::<S>(*score * inverse);
                    (*score, *slope) = (cap * t, (1.0 - t * t) * scale);
                }
            } else {
                slopes.fill(scale);
            }
            for outside in [0..seen.start - whole.start, seen.end - whole.start..whole.len()] {
                scores[outside.clone()].fill(f32::NEG_INFINITY);
                gradient[outside].fill(0.0);
            }
            differentiate::<S>(scores, gradient, slopes);
            F::weights(scores, &mut weights[own.clone()]);
            F::weights(gradient, &mut by_product[own]);
            for rest in [first..first + whole.start, first + whole.end..first + columns] {
                weights[rest.clone()].fill(F::default());
                by_product[rest].fill(F::default());
            }
        }
        let rest = seen.len() * columns;
        weights[rest..].fill(F::default());
        by_product[rest..].fill(F::default());
    }
}

/// Of one row, in place: scores become weights, and the gradient of the weights that of the products.
#[inline(always)]
fn differentiate<S: Simd>(scores: &mut [f32], gradient: &mut [f32], slopes: &[f32]) {
    let (chunks, _) = scores.as_chunks_mut::<COLUMNS>();
    let base = base(largest::<S>(chunks));
    let (mut total, mut mean) = ([0.0; COLUMNS], [0.0; COLUMNS]);
    for (scores, gradient) in chunks.iter_mut().zip(gradient.as_chunks::<COLUMNS>().0) {
        for i in 0..COLUMNS {
            scores[i] = math::exp::<S>(scores[i] - base);
            total[i] += scores[i];
            mean[i] = S::mul_add1(scores[i], gradient[i], mean[i]);
        }
    }
    let inverse = 1.0 / total.iter().sum::<f32>();
    let mean = mean.iter().sum::<f32>() * inverse;
    // Element by element: of chunks the compiler would make vectors across them.
    for ((score, gradient), slope) in scores.iter_mut().zip(gradient).zip(slopes) {
        *score *= inverse;
        *gradient = *score * (*gradient - mean) * slope;
    }
}
