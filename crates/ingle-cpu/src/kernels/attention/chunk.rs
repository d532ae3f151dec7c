// SPDX-License-Identifier: EUPL-1.2
//! The arithmetic of attention: one tile against one chunk of positions, and the merging of chunks.

use std::ops::Range;

use super::{Attention, CHUNK, Partial, Tile, within};
use crate::kernels::Pointer;
use crate::kernels::activation::soft_cap_all;
use crate::kernels::matmul::{Operand, Single, dot_tile};
use crate::kernels::reduce::{max, sum};
use crate::math;
use crate::simd::{Kernel, Simd};

/// Vectors of a value's features that are summed at once.
const VECTORS: usize = 4;

/// One tile's heads that share `kv_head`, against the positions of one chunk. Fills `partial`; the rows of
/// tokens that attend to nothing there are left without meaning.
pub(super) struct Chunk<'a, C> {
    pub(super) attention: &'a Attention<'a, C>,
    pub(super) tile: &'a Tile,
    pub(super) kv_head: usize,
    pub(super) chunk: usize,
    pub(super) partial: &'a mut Partial,
}

impl<C: Operand> Kernel for Chunk<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Chunk { attention, tile, kv_head, chunk, partial } = self;
        let (width, group) = (attention.width, attention.group());
        let rows = attention.rows(tile);
        let span = within(tile.all(), chunk);
        let places = Places::new(attention, tile, kv_head, span.clone());

        let q: Vec<*const f32> = (0..rows)
            .map(|row| {
                let head = (tile.token + row / group) * attention.heads + kv_head * group + row % group;
                attention.q[head * width..(head + 1) * width].as_ptr()
            })
            .collect();
        let mut scores = vec![0.0f32; rows * CHUNK];
        let mut row = 0;
        while row < rows {
            let left = (rows - row).min(S::TILE_ROWS);
            let (q, scores) = (&q[row..row + left], &mut scores[row * CHUNK..]);
            match left {
                1 => dots::<S, C, 1>(q, &places, width, scores),
                2 => dots::<S, C, 2>(q, &places, width, scores),
                3 => dots::<S, C, 3>(q, &places, width, scores),
                4 => dots::<S, C, 4>(q, &places, width, scores),
                5 => dots::<S, C, 5>(q, &places, width, scores),
                _ => dots::<S, C, 6>(q, &places, width, scores),
            }
            row += left;
        }

        // From here on positions count from the span's start.
        let seen = |row: usize| {
            let seen = within(tile.attended(row / group), chunk);
            seen.start.saturating_sub(span.start)..seen.end.saturating_sub(span.start)
        };
        for row in 0..rows {
            let scores = &mut scores[row * CHUNK..][seen(row)];
            for score in scores.iter_mut() {
                *score *= attention.parameters.scale;
            }
            if let Some(cap) = attention.parameters.soft_cap {
                soft_cap_all::<S>(scores, cap);
            }
            partial.max[row] = max(scores);
            let base = base(partial.max[row]);
            for score in scores.iter_mut() {
                *score = math::exp::<S>(*score - base);
            }
            partial.sum[row] = sum::<S>(scores);
        }

        partial.values.fill(0.0);
        let mut row = 0;
        while row < rows {
            let left = (rows - row).min(S::TILE_ROWS);
            let sums = Sums {
                weights: &scores[row * CHUNK..(row + left) * CHUNK],
                places: &places,
                values: &mut partial.values[row * width..(row + left) * width],
                width,
            };
            let ranges = (row..row + left).map(seen);
            match left {
                1 => sums.run::<S, 1>(ranges),
                2 => sums.run::<S, 2>(ranges),
                3 => sums.run::<S, 3>(ranges),
                4 => sums.run::<S, 4>(ranges),
                5 => sums.run::<S, 5>(ranges),
                _ => sums.run::<S, 6>(ranges),
            }
            row += left;
        }
    }
}

/// What scores are taken against: the largest, unless nothing is attended to at all.
#[inline(always)]
fn base(largest: f32) -> f32 {
    if largest == f32::NEG_INFINITY { 0.0 } else { largest }
}

/// Where the keys and values of some consecutive positions lie.
struct Places<C> {
    len: usize,
    keys: [*const C; CHUNK],
    values: [*const C; CHUNK],
}

impl<C: Operand> Places<C> {
    #[inline(always)]
    fn new(attention: &Attention<'_, C>, tile: &Tile, kv_head: usize, span: Range<usize>) -> Self {
        let Attention { table, parameters, width, kv_heads, .. } = attention;
        let blocks = &table.blocks[tile.sequence * table.width..][..table.width];
        let len = span.len();
        let mut places = Places { len, keys: [std::ptr::null(); CHUNK], values: [std::ptr::null(); CHUNK] };
        for (i, position) in span.enumerate() {
            let block = blocks[position / parameters.block_size] as usize;
            let slot = block * parameters.block_size + position % parameters.block_size;
            let start = (slot * kv_heads + kv_head) * width;
            places.keys[i] = attention.keys[start..start + width].as_ptr();
            places.values[i] = attention.values[start..start + width].as_ptr();
        }
        places
    }
}

/// The dot products of `R` queries with all keys; row `r`'s start at `scores[r · CHUNK]`.
#[inline(always)]
fn dots<S: Simd, C: Operand, const R: usize>(q: &[*const f32], places: &Places<C>, width: usize, scores: &mut [f32]) {
    let q: [*const f32; R] = std::array::from_fn(|r| q[r]);
    let mut at = 0;
    // SAFETY: below `dispatch`; queries and keys hold `width` elements each.
    unsafe {
        while at + 4 <= places.len {
            let keys: [*const C; 4] = std::array::from_fn(|c| places.keys[at + c]);
            for (r, sums) in dot_tile::<Single<S, C>, R, 4>(q, keys, width).into_iter().enumerate() {
                scores[r * CHUNK + at..][..4].copy_from_slice(&S::sum4(sums));
            }
            at += 4;
        }
        while at < places.len {
            for (r, [lanes]) in dot_tile::<Single<S, C>, R, 1>(q, [places.keys[at]], width).into_iter().enumerate() {
                scores[r * CHUNK + at] = S::sum(lanes);
            }
            at += 1;
        }
    }
}

/// Weighted sums of values for some rows.
struct Sums<'a, C> {
    /// Row by row, [`CHUNK`] apart.
    weights: &'a [f32],
    places: &'a Places<C>,
    /// Row by row, `width` apart; added to.
    values: &'a mut [f32],
    width: usize,
}

impl<C: Operand> Sums<'_, C> {
    /// Adds each row's positions in order: alone where only it attends, else beside the others.
    #[inline(always)]
    fn run<S: Simd, const R: usize>(mut self, ranges: impl Iterator<Item = Range<usize>> + Clone) {
        let start = ranges.clone().map(|range| range.start).max().unwrap_or(0);
        let end = ranges.clone().map(|range| range.end).min().unwrap_or(0);
        if R == 1 || start >= end {
            for (row, range) in ranges.enumerate() {
                self.add::<S, 1>(row, range);
            }
            return;
        }
        for (row, range) in ranges.clone().enumerate() {
            self.add::<S, 1>(row, range.start..start);
        }
        self.add::<S, R>(0, start..end);
        for (row, range) in ranges.enumerate() {
            self.add::<S, 1>(row, end..range.end);
        }
    }

    /// Adds the same positions to `R` rows from `first` on.
    #[inline(always)]
    fn add<S: Simd, const R: usize>(&mut self, first: usize, positions: Range<usize>) {
        if positions.is_empty() {
            return;
        }
        let mut at = 0;
        while at + VECTORS * S::LANES <= self.width {
            self.add_vectors::<S, R, VECTORS>(first, positions.clone(), at);
            at += VECTORS * S::LANES;
        }
        while at + S::LANES <= self.width {
            self.add_vectors::<S, R, 1>(first, positions.clone(), at);
            at += S::LANES;
        }
        if at < self.width {
            self.add_part::<S, R>(first, positions, at);
        }
    }

    /// `V` vectors of features from `at` on.
    #[inline(always)]
    fn add_vectors<S: Simd, const R: usize, const V: usize>(
        &mut self,
        first: usize,
        positions: Range<usize>,
        at: usize,
    ) {
        let width = self.width;
        let values = &mut self.values[first * width..(first + R) * width];
        let weights = &self.weights[first * CHUNK..(first + R) * CHUNK];
        let places = &self.places.values[positions.clone()];
        // SAFETY: below `dispatch`; `at` and the vectors from there lie inside `width`, which every row of
        // `values` and every place holds; positions lie inside the chunk.
        unsafe {
            let mut sums: [[S::Vector; V]; R] = std::array::from_fn(|r| {
                std::array::from_fn(|v| S::load(values.as_ptr().add(r * width + at + v * S::LANES)))
            });
            for (position, place) in positions.zip(places) {
                let weights: [S::Vector; R] =
                    std::array::from_fn(|r| S::splat(*weights.get_unchecked(r * CHUNK + position)));
                let values: [S::Vector; V] = std::array::from_fn(|v| C::load::<S>(place.add(at + v * S::LANES)));
                for (sums, weight) in sums.iter_mut().zip(weights) {
                    for (sum, value) in sums.iter_mut().zip(values) {
                        *sum = S::mul_add(weight, value, *sum);
                    }
                }
            }
            for (r, sums) in sums.into_iter().enumerate() {
                for (v, sum) in sums.into_iter().enumerate() {
                    S::store(values.as_mut_ptr().add(r * width + at + v * S::LANES), sum);
                }
            }
        }
    }

    /// The features from `at` on, less than a vector.
    #[inline(always)]
    fn add_part<S: Simd, const R: usize>(&mut self, first: usize, positions: Range<usize>, at: usize) {
        let (width, n) = (self.width, self.width - at);
        let values = &mut self.values[first * width..(first + R) * width];
        let weights = &self.weights[first * CHUNK..(first + R) * CHUNK];
        let places = &self.places.values[positions.clone()];
        // SAFETY: below `dispatch`; the `n` features from `at` on are the last of `width`, which every row of
        // `values` and every place holds; positions lie inside the chunk.
        unsafe {
            let mut sums: [S::Vector; R] =
                std::array::from_fn(|r| S::load_part(values.as_ptr().add(r * width + at), n));
            for (position, place) in positions.zip(places) {
                let value = C::load_part::<S>(place.add(at), n);
                for (r, sum) in sums.iter_mut().enumerate() {
                    *sum = S::mul_add(S::splat(weights[r * CHUNK + position]), value, *sum);
                }
            }
            for (r, sum) in sums.into_iter().enumerate() {
                S::store_part(values.as_mut_ptr().add(r * width + at), n, sum);
            }
        }
    }
}

/// Takes a chunk's partial result into the total of those before it.
pub(super) struct Merge<'a> {
    pub(super) tile: &'a Tile,
    pub(super) group: usize,
    pub(super) chunk: usize,
    pub(super) partial: &'a Partial,
    pub(super) total: &'a mut Partial,
}

impl Kernel for Merge<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Merge { tile, group, chunk, partial, total } = self;
        let rows = total.max.len();
        let width = total.values.len() / rows.max(1);
        for row in 0..rows {
            if within(tile.attended(row / group), chunk).is_empty() {
                continue;
            }
            let largest = total.max[row].max(partial.max[row]);
            let before = math::exp::<S>(total.max[row] - base(largest));
            let now = math::exp::<S>(partial.max[row] - base(largest));
            total.max[row] = largest;
            total.sum[row] = total.sum[row] * before + partial.sum[row] * now;
            let place = row * width..(row + 1) * width;
            for (total, partial) in total.values[place.clone()].iter_mut().zip(&partial.values[place]) {
                *total = *total * before + partial * now;
            }
        }
    }
}

/// Divides a tile's totals by the sums of their weights, into the result.
pub(super) struct Finish<'a, C> {
    pub(super) attention: &'a Attention<'a, C>,
    pub(super) tile: &'a Tile,
    pub(super) kv_head: usize,
    pub(super) total: &'a Partial,
    /// The result's first element.
    pub(super) out: Pointer<f32>,
}

impl<C: Operand> Kernel for Finish<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Finish { attention, tile, kv_head, total, out } = self;
        let (width, group) = (attention.width, attention.group());
        for (row, &sum) in total.sum.iter().enumerate() {
            let head = (tile.token + row / group) * attention.heads + kv_head * group + row % group;
            // SAFETY: the result has `width` elements for each head of each token, and only this tile and
            // key head write to this one's.
            let out = unsafe { std::slice::from_raw_parts_mut(out.get().add(head * width), width) };
            for (out, value) in out.iter_mut().zip(&total.values[row * width..]) {
                *out = value / sum;
            }
        }
    }
}
