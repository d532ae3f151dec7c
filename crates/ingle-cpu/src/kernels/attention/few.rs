// SPDX-License-Identifier: EUPL-1.2
//! A few rows of each head against a chunk: bound by memory, so keys and values are read where they lie, about in
//! the order in which they lie.

use std::ops::Range;

use super::CHUNK;
use super::dots::{InPlace, KEYS, Queries, dots};
use super::gather::{Ahead, Cache};
use super::weigh::{self, Rows, weigh};
use crate::simd::{Factor, Lane, ProductKernel, Products, Source};

/// Positions at which all heads are read before the next: the second cache holds many times as many.
const BLOCK: usize = 2 * KEYS;

/// Some heads of the keys or of the values, at some positions of a chunk. Heads are whole vectors wide.
pub(super) struct Part<'a, T> {
    pub(super) cache: Cache<'a, T>,
    /// The first element of each position's slot; past the span, of any slot.
    pub(super) slots: &'a [usize; CHUNK],
    pub(super) span: Range<usize>,
    pub(super) heads: Range<usize>,
}

impl<T: Copy> Part<'_, T> {
    /// The blocks that it is read by, at multiples of [`BLOCK`].
    #[inline(always)]
    fn blocks(&self) -> std::iter::StepBy<Range<usize>> {
        (self.span.start / BLOCK * BLOCK..self.span.end).step_by(BLOCK)
    }

    /// Where a head's row at a position of the span lies.
    #[inline(always)]
    fn row(&self, position: usize, head: usize) -> *const T {
        // SAFETY: the cache has these slots and these heads.
        unsafe { self.cache.row(self.slots[position], head) }
    }

    /// What to ask for while the `i`-th head reads its block from `start` on: a share of the next block, of the same
    /// cache or else the first of `next`. Where that lies in one piece the shares are parts of it, so that the
    /// memory is asked for everything in order; else they are the head's own rows.
    #[inline(always)]
    fn ahead(&self, start: usize, i: usize, next: Cache<'_, T>) -> Ahead<T> {
        let Cache { row, kv_heads, .. } = self.cache;
        let (cache, start) = match start + BLOCK {
            ahead if ahead < self.span.end => (self.cache, ahead),
            _ => (next, self.span.start),
        };
        let (first, last) = (self.slots[start], self.slots[(start + BLOCK).min(CHUNK) - 1]);
        let (at, pitch) = if self.heads.len() == kv_heads && last == first + (BLOCK - 1) * kv_heads * row {
            (first + i * BLOCK * row, row)
        } else {
            (first + (self.heads.start + i) * row, kv_heads * row)
        };
        Ahead { first: cache.elements.as_ptr().wrapping_add(at), pitch }
    }
}

/// The scores of the same number of rows of each head.
pub(super) struct Scores<'a, F: Source> {
    pub(super) keys: Part<'a, F::Element>,
    /// What will be read after the keys.
    pub(super) next: Cache<'a, F::Element>,
    /// Head by head.
    pub(super) queries: Queries<'a, F::Factor>,
    /// Row by row, [`CHUNK`] apart.
    pub(super) scores: &'a mut [f32],
}

impl<F: Source> ProductKernel<F> for Scores<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<P: Products<F>>(self) {
        let Scores { keys: part, next, queries: Queries { factors, width }, scores } = self;
        let per_head = factors.len() / part.heads.len();
        for start in part.blocks() {
            for i in 0..part.heads.len() {
                let head = part.heads.start + i;
                let ahead = part.ahead(start, i, next);
                let factors = &factors[i * per_head..(i + 1) * per_head];
                let scores = &mut scores[i * per_head / width * CHUNK..];
                let mut at = start;
                while at < (start + BLOCK).min(part.span.end) {
                    let mut keys = [std::ptr::null(); KEYS];
                    for (k, key) in keys.iter_mut().enumerate() {
                        *key = part.row(at + k, head);
                    }
                    // SAFETY: below `dispatch`; a head is as wide as a query, and a row of scores has a whole chunk.
                    unsafe {
                        dots::<F, P>(
                            Queries { factors, width },
                            InPlace { rows: keys, width: part.cache.width, ahead: ahead.skip(at - start) },
                            &mut scores[at..],
                        )
                    }
                    at += KEYS;
                }
            }
        }
    }
}

/// The scales of the values, head by head, [`CHUNK`] apart.
pub(super) struct Scales<'a, F: Source> {
    pub(super) values: Part<'a, F::Element>,
    pub(super) scales: &'a mut [f32],
}

impl<F: Source> Scales<'_, F> {
    pub(super) fn read(self) {
        let Scales { values: part, scales } = self;
        for position in part.span.clone() {
            for (i, head) in part.heads.clone().enumerate() {
                // SAFETY: rows are as wide as the cache says, with their scales beside the features.
                scales[i * CHUNK + position] = unsafe { F::scale(part.row(position, head), part.cache.width) };
            }
        }
    }
}

/// The weighted values of the same number of rows of each head.
pub(super) struct Values<'a, F: Source> {
    pub(super) values: Part<'a, F::Element>,
    /// Row by row, [`CHUNK`] apart.
    pub(super) weights: &'a [F::Factor],
    /// What each of a head's rows attends to.
    pub(super) seen: &'a [Range<usize>],
    /// Row by row, `width` apart; added to.
    pub(super) sums: &'a mut [Lane<F>],
    pub(super) width: usize,
}

impl<F: Source> ProductKernel<F> for Values<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<P: Products<F>>(self) {
        let Values { values: part, weights, seen, sums, width } = self;
        for start in part.blocks() {
            for i in 0..part.heads.len() {
                let first = i * seen.len();
                let sums = &mut sums[first * width..(first + seen.len()) * width];
                let mut rows = Rows { weights: &weights[first * CHUNK..], seen, sums, width };
                let head = part.heads.start + i;
                let ahead = part.ahead(start, i, part.cache);
                let values = InPlaceValues { cache: part.cache, slots: part.slots, head, start, ahead };
                // SAFETY: below `dispatch`; slots past the span are any, and rows are as long as they say.
                unsafe { weigh::<F, P>(&mut rows, values, start..start + BLOCK) }
            }
        }
    }
}

/// One head's values where they lie.
#[derive(Clone, Copy)]
struct InPlaceValues<'a, T> {
    cache: Cache<'a, T>,
    slots: &'a [usize; CHUNK],
    head: usize,
    /// The position that `ahead` begins with.
    start: usize,
    ahead: Ahead<T>,
}

impl<F: Source, P: Products<F>> weigh::Values<F, P> for InPlaceValues<'_, F::Element> {
    #[inline(always)]
    unsafe fn lanes(&self, position: usize, at: usize) -> [P::Vector; 2] {
        // SAFETY: the caller's promise; the cache has these slots and this head.
        unsafe {
            let first = *self.slots.get_unchecked(position);
            let second = *self.slots.get_unchecked(position + F::Factor::DEPTH - 1);
            let rows = [self.cache.row(first, self.head).add(at), self.cache.row(second, self.head).add(at)];
            for i in 0..F::Factor::DEPTH {
                self.ahead.prefetch::<P::Floats>(position - self.start + i, at);
            }
            P::read_beside(rows)
        }
    }
}
