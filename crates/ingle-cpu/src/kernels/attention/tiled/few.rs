// SPDX-License-Identifier: EUPL-1.2
//! A few rows of each head against a chunk, by tiles: keys and values are read where they lie, about in the
//! order in which they lie.

use std::ops::Range;

use bytemuck::{Zeroable, cast_slice, cast_slice_mut};

use super::super::CHUNK;
use super::super::gather::Cache;
use super::pack::{GROUP, Group, PackValues, Slots};
use super::{STEP, steps};
use crate::simd::tiles::{HeadsAhead, HeadsProduct, Matrix, PanelProduct, PlainProduct, SIDE};
use crate::simd::tiles::{multiply_few_panels_bf16, multiply_heads_bf16, multiply_plain_bf16};
use crate::simd::{ProductKernel, Products, Simd, Source};

/// Some heads of the keys or of the values, at some positions of a chunk. Heads are whole steps wide.
pub(super) struct Part<'a, T> {
    pub(super) cache: Cache<'a, T>,
    pub(super) slots: Slots<'a>,
    pub(super) heads: Range<usize>,
    /// What will be read after it.
    pub(super) next: Cache<'a, T>,
}

impl<T: Copy + Zeroable> Part<'_, T> {
    /// What to ask for while a group of keys is read that ends before `end`: the next group, or else the first one of
    /// the next cache.
    #[inline(always)]
    fn ahead(&self, end: usize) -> HeadsAhead {
        let span = &self.slots.span;
        let next = (self.next, span.start / GROUP * GROUP);
        let (cache, start) = if end < span.end { (self.cache, end) } else { next };
        self.group_of(cache, start)
    }

    /// What to ask for while values are read at a step that ends before `end`: the groups of the next one.
    #[inline(always)]
    fn step_ahead(&self, end: usize) -> [HeadsAhead; 2] {
        let last = self.slots.span.end - 1;
        [end, end + GROUP].map(|start| self.group_of(self.cache, start.min(last / GROUP * GROUP)))
    }

    /// The lines of a group's heads: where it lies in one piece in their order, so that the memory is asked for
    /// everything in order, else tile by tile.
    #[inline(always)]
    fn group_of(&self, cache: Cache<'_, T>, start: usize) -> HeadsAhead {
        const LINE: usize = 64;
        let elements = cache.elements.as_ptr();
        let Some(pitch) = self.slots.pitch else { return HeadsAhead { at: elements.cast(), stride: 0, step: 0 } };
        let first = self.slots.first(start, pitch) + self.heads.start * cache.row;
        let at = elements.wrapping_add(first).cast();
        match self.heads.len() == cache.kv_heads {
            true => HeadsAhead { at, stride: LINE, step: SIDE * LINE },
            false => HeadsAhead { at, stride: pitch * size_of::<T>(), step: LINE },
        }
    }

    /// The groups of values at a step, and elements from one slot to the next: where they lie, or copied to `spare`
    /// with zeros for what is outside the span.
    #[inline(always)]
    fn step(&self, positions: &Range<usize>, spare: &mut [T]) -> ([*const T; 2], usize) {
        let Cache { row, .. } = self.cache;
        let span = &self.slots.span;
        let is_whole = span.start <= positions.start && positions.end <= span.end;
        if let Some(pitch) = self.slots.pitch.filter(|_| is_whole) {
            let at = |start| self.slots.first(start, pitch) + self.heads.start * row;
            let at = [positions.start, positions.start + GROUP].map(at);
            return (at.map(|at| self.cache.elements[at..].as_ptr()), pitch);
        }
        let pitch = self.heads.len() * row;
        let spare = &mut spare[..STEP * pitch];
        spare.fill(T::zeroed());
        for position in span.start.max(positions.start)..span.end.min(positions.end) {
            let from = &self.cache.elements[self.slots.firsts[position] + self.heads.start * row..][..pitch];
            spare[(position - positions.start) * pitch..][..pitch].copy_from_slice(from);
        }
        ([spare.as_ptr(), spare[GROUP * pitch..].as_ptr()], pitch)
    }
}

/// The scores of `rows` rows of each head.
pub(super) struct Scores<'a, F: Source> {
    pub(super) keys: Part<'a, F::Element>,
    pub(super) rows: usize,
    /// Head by head, row by row.
    pub(super) queries: &'a [F::Factor],
    /// Room for as many.
    pub(super) packed: &'a mut [F::Factor],
    /// Room for a group of keys.
    pub(super) spare: &'a mut [F::Factor],
    /// Room for the scores of all rows, up to whole tiles of them, with a group of keys.
    pub(super) sums: &'a mut [f32],
    /// Row by row, [`CHUNK`] apart, up to whole tiles of them.
    pub(super) scores: &'a mut [f32],
}

impl<F: Source> ProductKernel<F> for Scores<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<P: Products<F>>(self) {
        let Scores { keys: part, rows, queries, packed, spare, sums, scores } = self;
        let width = part.cache.width;
        for (queries, packed) in queries.chunks_exact(rows * width).zip(packed.chunks_exact_mut(rows * width)) {
            // Two features of each row beside each other.
            for (r, query) in queries.chunks_exact(width).enumerate() {
                for (pair, features) in query.chunks_exact(2).enumerate() {
                    packed[(pair * rows + r) * 2..][..2].copy_from_slice(features);
                }
            }
        }
        let heads = part.heads.len();
        let all = (heads * rows).next_multiple_of(SIDE);
        // Where keys do not lie in whole groups, they are copied head by head.
        let together = if part.slots.pitch.is_some() { heads } else { 1 };
        for start in part.slots.groups() {
            for i in (0..heads).step_by(together) {
                let spare = cast_slice_mut::<F::Factor, F::Element>(spare);
                let Group { first, pitch } = part.slots.group(part.cache, part.heads.start + i, start, spare);
                let first = Matrix { at: first.cast(), stride: 2 * pitch };
                let product = HeadsProduct {
                    first,
                    second: packed[i * rows * width..].as_ptr().cast(),
                    columns: rows,
                    heads: together,
                    tiles: width / STEP,
                    sums: Matrix { at: sums[i * rows..][..(GROUP - 1) * all].as_mut_ptr().cast(), stride: 4 * all },
                    ahead: part.ahead(start + GROUP),
                };
                // SAFETY: attention goes by tiles only where they are available; keys are as wide as queries, and heads
                // follow each other in the cache.
                unsafe { multiply_heads_bf16(product) }
            }
            let lanes = P::Floats::LANES;
            for column in (0..all).step_by(lanes) {
                for row in (0..GROUP).step_by(lanes) {
                    let from = sums[row * all + column..].as_ptr().cast();
                    let to = scores[column * CHUNK + start + row..].as_mut_ptr().cast();
                    // SAFETY: below `dispatch`; there are whole squares of sums, and as many scores.
                    unsafe { P::Floats::turn(from, all, to, CHUNK) }
                }
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
    /// Room for two tiles of each head.
    pub(super) packed: &'a mut [F::Factor],
    /// Room for a step of all heads' values.
    pub(super) spare: &'a mut [F::Factor],
    /// Room for twice the sums.
    pub(super) partial: &'a mut [f32],
    /// Row by row, as wide as the values.
    pub(super) sums: &'a mut [f32],
}

impl<F: Source> ProductKernel<F> for Values<'_, F> {
    type Output = ();

    /// Values are read as they lie, two features to a word. A row of weights that meet each first one, and a row of
    /// those that meet each second one, with zeros beside them, make the sums that positions beside each other would.
    #[inline(always)]
    fn run<P: Products<F>>(self) {
        let Values { values: part, weights, seen, packed, spare, partial, sums } = self;
        let (width, heads, rows) = (part.cache.width, part.heads.len(), seen.len());
        let (now, rest) = partial.split_at_mut(sums.len());
        let total = &mut rest[..sums.len()];
        total.fill(0.0);
        let words: &[u32] = cast_slice(weights);
        let packed: &mut [u32] = &mut cast_slice_mut(packed)[..heads * 2 * SIDE * SIDE];
        for step in steps(&part.slots.span) {
            let positions = step * STEP..(step + 1) * STEP;
            for (i, tiles) in packed.chunks_exact_mut(2 * SIDE * SIDE).enumerate() {
                let (first, second) = tiles.split_at_mut(SIDE * SIDE);
                for r in 0..rows {
                    let words = &words[(i * rows + r) * (CHUNK / 2) + step * SIDE..][..SIDE];
                    let (even, odd) = (r * SIDE, (rows + r) * SIDE);
                    for (k, word) in words.iter().enumerate() {
                        first[even + k] = word & 0xffff;
                        first[odd + k] = word << 16;
                        second[even + k] = word >> 16;
                        second[odd + k] = word & 0xffff_0000;
                    }
                }
            }
            let (second, pitch) = part.step(&positions, cast_slice_mut(&mut *spare));
            let ahead = part.step_ahead(positions.end);
            let product = PlainProduct {
                first: packed.as_ptr().cast(),
                rows: 2 * rows,
                second: second.map(<*const F::Element>::cast),
                stride: 2 * pitch,
                tiles: width / STEP,
                heads,
                sums: now.as_mut_ptr().cast(),
                ahead: ahead[0],
                ahead_too: ahead[1].at,
            };
            // SAFETY: attention goes by tiles only where they are available; a step's groups have all heads, and for
            // each there are two tiles of weights, and room for its sums.
            unsafe { multiply_plain_bf16(product) }
            for (total, now) in total.iter_mut().zip(&*now) {
                // As tiles add: what is too small to be normal is zero.
                let sum = *total + now;
                *total = if sum.abs() < f32::MIN_POSITIVE { 0.0 } else { sum };
            }
        }
        for i in 0..heads {
            let total = &total[i * rows * width..][..rows * width];
            let sums = &mut sums[i * rows * width..][..rows * width];
            if !total.iter().fold(true, |all, x| all & x.is_finite()) {
                // What is beside it was not to be touched.
                let weights = &weights[i * rows * CHUNK..];
                part.add_apart::<F, P>((part.heads.start + i, seen), weights, spare, sums);
                continue;
            }
            for (tile, total) in total.chunks_exact(rows * STEP).enumerate() {
                let (even, odd) = total.split_at(rows * SIDE);
                for r in 0..rows {
                    let to = &mut sums[r * width + tile * STEP..][..STEP];
                    for (k, to) in to.chunks_exact_mut(2).enumerate() {
                        to[0] = even[r * SIDE + k];
                        to[1] = odd[r * SIDE + k];
                    }
                }
            }
        }
    }
}

impl<T: Copy + Zeroable> Part<'_, T> {
    /// The sums of a head, where values are not finite: each row's with what it attends to, and no feature's with
    /// another.
    #[inline(always)]
    fn add_apart<F: Source<Element = T>, P: Products<F>>(
        &self,
        (head, seen): (usize, &[Range<usize>]),
        weights: &[F::Factor],
        panels: &mut [F::Factor],
        sums: &mut [f32],
    ) {
        let width = self.cache.width;
        for (row, (seen, sums)) in seen.iter().zip(sums.chunks_exact_mut(width)).enumerate() {
            sums.fill(0.0);
            for step in steps(seen) {
                let slots = self.slots.within(&(seen.start.max(step * STEP)..seen.end.min((step + 1) * STEP)));
                let (values, panels) = (self.cache, &mut *panels);
                PackValues::<F> { values, slots, head, apart: STEP, panels, checks: false }.run::<P>();
                let part = PanelProduct {
                    first: Matrix { at: weights[row * CHUNK + step * STEP..].as_ptr().cast(), stride: 2 * CHUNK },
                    second: panels.as_ptr().cast(),
                    panel: 2 * STEP * STEP,
                    panels: width / STEP,
                    tiles: 1,
                    sums: Matrix { at: sums.as_mut_ptr().cast(), stride: 4 * width },
                };
                // SAFETY: attention goes by tiles only where they are available; there is one row, and panels of a step.
                unsafe { multiply_few_panels_bf16(1, part, true) }
            }
        }
    }
}
