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

/// The most rows of a tile's part.
const MOST: usize = 6;

/// How many positions ahead keys and values are asked for: they lie too far apart for the machine to guess.
const AHEAD: usize = 8;

/// One tile's heads that share `kv_head`, against the positions of one chunk. Fills `partial`; the rows of
/// tokens that attend to nothing there are left without meaning.
pub(super) struct Chunk<'a, C> {
    pub(super) attention: &'a Attention<'a, C>,
    pub(super) tile: &'a Tile,
    pub(super) kv_head: usize,
    pub(super) chunk: usize,
    pub(super) partial: &'a mut Partial,
    /// Where a chunk's keys and values may be gathered.
    pub(super) room: Option<&'a mut [f32]>,
}

impl<C: Operand> Kernel for Chunk<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self) {
        let span = within(self.tile.all(), self.chunk);
        let room = self.room.take();
        let places = Places::new(&self, span.clone());
        match room {
            Some(room) => {
                let gathered = places.gather::<S>(self.attention.width, room);
                self.compute::<S, f32>(&gathered, span.start);
            }
            None => self.compute::<S, C>(&places, span.start),
        }
    }
}

impl<C: Operand> Chunk<'_, C> {
    /// A few rows at a time, so that their scores stay near. Positions count from `origin`.
    #[inline(always)]
    fn compute<S: Simd, K: Operand>(&mut self, places: &Places<K>, origin: usize) {
        let rows = self.attention.rows(self.tile);
        let mut scores = [0.0f32; MOST * CHUNK];
        let mut row = 0;
        while row < rows {
            let left = (rows - row).min(S::TILE_ROWS);
            match left {
                1 => self.rows::<S, K, 1>(row, places, &mut scores, origin),
                2 => self.rows::<S, K, 2>(row, places, &mut scores, origin),
                3 => self.rows::<S, K, 3>(row, places, &mut scores, origin),
                4 => self.rows::<S, K, 4>(row, places, &mut scores, origin),
                5 => self.rows::<S, K, 5>(row, places, &mut scores, origin),
                _ => self.rows::<S, K, 6>(row, places, &mut scores, origin),
            }
            row += left;
        }
    }

    /// `R` rows from `first` on.
    #[inline(always)]
    fn rows<S: Simd, K: Operand, const R: usize>(
        &mut self,
        first: usize,
        places: &Places<K>,
        scores: &mut [f32],
        origin: usize,
    ) {
        let Chunk { attention, tile, kv_head, chunk, .. } = *self;
        let (width, group) = (attention.width, attention.group());
        let partial = &mut *self.partial;
        let seen: [Range<usize>; R] = std::array::from_fn(|r| {
            let seen = within(tile.attended((first + r) / group), chunk);
            seen.start.saturating_sub(origin)..seen.end.saturating_sub(origin)
        });
        let q: [*const f32; R] = std::array::from_fn(|r| {
            let row = first + r;
            let head = (tile.token + row / group) * attention.heads + kv_head * group + row % group;
            attention.q[head * width..(head + 1) * width].as_ptr()
        });
        // Tokens are in order of position.
        dots::<S, K, R>(q, places, (width, seen[0].start..seen[R - 1].end), scores);

        for (r, seen) in seen.iter().enumerate() {
            let scores = &mut scores[r * CHUNK..][seen.clone()];
            for score in scores.iter_mut() {
                *score *= attention.parameters.scale;
            }
            if let Some(cap) = attention.parameters.soft_cap {
                soft_cap_all::<S>(scores, cap);
            }
            let largest = max(scores);
            let base = base(largest);
            for score in scores.iter_mut() {
                *score = math::exp::<S>(*score - base);
            }
            partial.max[first + r] = largest;
            partial.sum[first + r] = sum::<S>(scores);
        }

        let values = &mut partial.values[first * width..(first + R) * width];
        values.fill(0.0);
        Sums { weights: scores, places, values, width }.run::<S, R>(&seen);
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
    fn new(chunk: &Chunk<'_, C>, span: Range<usize>) -> Self {
        let Attention { table, parameters, width, kv_heads, .. } = chunk.attention;
        let blocks = &table.blocks[chunk.tile.sequence * table.width..][..table.width];
        let len = span.len();
        let mut places = Places { len, keys: [std::ptr::null(); CHUNK], values: [std::ptr::null(); CHUNK] };
        for (i, position) in span.enumerate() {
            let block = blocks[position / parameters.block_size] as usize;
            let slot = block * parameters.block_size + position % parameters.block_size;
            let start = (slot * kv_heads + chunk.kv_head) * width;
            places.keys[i] = chunk.attention.keys[start..start + width].as_ptr();
            places.values[i] = chunk.attention.values[start..start + width].as_ptr();
        }
        places
    }

    /// Keys and values, `width` elements each, widened into `room`.
    #[inline(always)]
    fn gather<S: Simd>(&self, width: usize, room: &mut [f32]) -> Places<f32> {
        let mut gathered = Places { len: self.len, keys: [std::ptr::null(); CHUNK], values: [std::ptr::null(); CHUNK] };
        let (keys, values) = room.split_at_mut(CHUNK * width);
        for i in 0..self.len {
            let sides = [
                (self.keys[i], &mut keys[i * width..(i + 1) * width], &mut gathered.keys[i]),
                (self.values[i], &mut values[i * width..(i + 1) * width], &mut gathered.values[i]),
            ];
            for (from, to, place) in sides {
                *place = to.as_ptr();
                let mut at = 0;
                // SAFETY: below `dispatch`; both sides hold `width` elements.
                unsafe {
                    while at + S::LANES <= width {
                        S::store(to.as_mut_ptr().add(at), C::load::<S>(from.add(at)));
                        at += S::LANES;
                    }
                    if at < width {
                        S::store_part(to.as_mut_ptr().add(at), width - at, C::load_part::<S>(from.add(at), width - at));
                    }
                }
            }
        }
        gathered
    }
}

/// The dot products of `R` queries with some of the keys; row `r`'s go to `scores[r · CHUNK]` onwards.
#[inline(always)]
fn dots<S: Simd, C: Operand, const R: usize>(
    q: [*const f32; R],
    places: &Places<C>,
    (width, positions): (usize, Range<usize>),
    scores: &mut [f32],
) {
    let keys = &places.keys[..places.len];
    let mut at = positions.start;
    // SAFETY: below `dispatch`; queries and keys hold `width` elements each.
    unsafe {
        while at + 4 <= positions.end {
            if R * 2 < S::TILE_ROWS {
                for key in keys.iter().skip(at + AHEAD).take(4) {
                    prefetch::<S, C>(*key, width);
                }
            }
            let keys: [*const C; 4] = std::array::from_fn(|c| keys[at + c]);
            for (r, sums) in dot_tile::<Single<S, C>, R, 4>(q, keys, width).into_iter().enumerate() {
                scores[r * CHUNK + at..][..4].copy_from_slice(&S::sum4(sums));
            }
            at += 4;
        }
        while at < positions.end {
            for (r, [lanes]) in dot_tile::<Single<S, C>, R, 1>(q, [keys[at]], width).into_iter().enumerate() {
                scores[r * CHUNK + at] = S::sum(lanes);
            }
            at += 1;
        }
    }
}

/// Asks for `len` elements that will be read soon.
#[inline(always)]
fn prefetch<S: Simd, C>(from: *const C, len: usize) {
    for line in (0..len * size_of::<C>()).step_by(64) {
        S::prefetch(from.cast::<u8>().wrapping_add(line));
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
    fn run<S: Simd, const R: usize>(mut self, seen: &[Range<usize>; R]) {
        let start = seen.iter().map(|range| range.start).max().unwrap_or(0);
        let end = seen.iter().map(|range| range.end).min().unwrap_or(0);
        if R == 1 || start >= end {
            for (row, range) in seen.iter().enumerate() {
                self.add::<S, 1>(row, range.clone());
            }
            return;
        }
        for (row, range) in seen.iter().enumerate() {
            self.add::<S, 1>(row, range.start..start);
        }
        self.add::<S, R>(0, start..end);
        for (row, range) in seen.iter().enumerate() {
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
        let places = &self.places.values[..self.places.len];
        // SAFETY: below `dispatch`; `at` and the vectors from there lie inside `width`, which every row of
        // `values` and every place holds; positions lie inside the chunk.
        unsafe {
            let mut sums: [[S::Vector; V]; R] = std::array::from_fn(|r| {
                std::array::from_fn(|v| S::load(values.as_ptr().add(r * width + at + v * S::LANES)))
            });
            for position in positions {
                if R * 2 < S::TILE_ROWS
                    && let Some(soon) = places.get(position + AHEAD)
                {
                    prefetch::<S, C>(soon.add(at), V * S::LANES);
                }
                let place = places[position];
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
