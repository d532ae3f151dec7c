// SPDX-License-Identifier: EUPL-1.2
//! Many rows of one head against a chunk: bound by arithmetic, so keys and values are gathered once for all.

use std::ops::Range;

use super::CHUNK;
use super::dots::{self, KEYS, Queries, dots};
use super::weigh::{self, Rows, weigh};
use crate::simd::{Lane, ProductKernel, Products, Source};

/// Rows whose scores are computed together, so that they stay near.
pub(super) const ROWS: usize = 16;

/// Positions at a time: their keys, or their values, stay in the first cache for all rows.
const BLOCK: usize = 64;

/// The scores of at most [`ROWS`] rows.
pub(super) struct Scores<'a, F: Source> {
    pub(super) queries: Queries<'a, F::Factor>,
    /// All of the chunk's.
    pub(super) keys: &'a [F::Factor],
    /// Of each key, if keys have them.
    pub(super) scales: &'a [f32],
    /// The positions in the chunk that each row attends to, in order.
    pub(super) seen: &'a [Range<usize>],
    /// Row by row, [`CHUNK`] apart.
    pub(super) scores: &'a mut [f32],
}

impl<F: Source> ProductKernel<F> for Scores<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<P: Products<F>>(self) {
        let Scores { queries: Queries { factors, width }, keys, scales, seen, scores } = self;
        for block in blocks(seen) {
            for first in (0..seen.len()).step_by(2) {
                let last = (first + 2).min(seen.len()) - 1;
                let factors = &factors[first * width..(last + 1) * width];
                let start = seen[first].start.max(block.start) / KEYS * KEYS;
                for at in (start..seen[last].end.min(block.end)).step_by(KEYS) {
                    let factors_of_keys = keys[at * width..][..KEYS * width].as_ptr();
                    let scales = scales.as_ptr().wrapping_add(at);
                    let keys = dots::Gathered { factors: factors_of_keys, width, scales };
                    let scores = &mut scores[first * CHUNK + at..];
                    // SAFETY: below `dispatch`; there are as many keys, and places for their scores.
                    unsafe { dots::<F, P>(Queries { factors, width }, keys, scores) }
                }
            }
        }
    }
}

/// The weighted values of at most [`ROWS`] rows.
pub(super) struct Values<'a, F: Source> {
    pub(super) weights: &'a [F::Factor],
    /// All of the chunk's.
    pub(super) values: &'a [F::Factor],
    /// The positions in the chunk that each row attends to, in order.
    pub(super) seen: &'a [Range<usize>],
    /// Row by row, `width` apart; added to.
    pub(super) sums: &'a mut [Lane<F>],
    pub(super) width: usize,
}

impl<F: Source> ProductKernel<F> for Values<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<P: Products<F>>(self) {
        let Values { weights, values, seen, sums, width } = self;
        let mut rows = Rows { weights, seen, sums, width };
        let values = weigh::Gathered { factors: values.as_ptr(), width };
        for block in blocks(seen) {
            // SAFETY: below `dispatch`; there are values for the whole chunk, and rows are as long as they say.
            unsafe { weigh::<F, P>(&mut rows, values, block) }
        }
    }
}

/// Blocks of the positions that any row attends to, at multiples of [`BLOCK`].
#[inline(always)]
fn blocks(seen: &[Range<usize>]) -> impl Iterator<Item = Range<usize>> {
    let start = seen.first().map_or(0, |seen| seen.start) / BLOCK * BLOCK;
    let end = seen.last().map_or(0, |seen| seen.end);
    (start..end).step_by(BLOCK).map(|start| start..start + BLOCK)
}
