// SPDX-License-Identifier: EUPL-1.2
//! The arithmetic of attention on a few rows.

use std::ops::Range;

use super::chunk::ROWS;
use super::{CHUNK, Partial};
use crate::kernels::activation::soft_cap_all;
use crate::kernels::matmul::{Operand, Single, dot_tile};
use crate::kernels::reduce::{max, sum};
use crate::math;
use crate::simd::{Kernel, Simd};

/// Vectors of a value's features that are summed at once.
const VECTORS: usize = 4;

/// How many positions ahead keys and values are asked for: they may lie too far apart for the machine to guess.
const AHEAD: usize = 8;

/// Where the keys and values of some consecutive positions lie; each is as wide as a head.
pub(super) struct Places<C> {
    len: usize,
    keys: [*const C; CHUNK],
    values: [*const C; CHUNK],
}

impl<C> Places<C> {
    /// `len` places, at most [`CHUNK`], to be set.
    pub(super) fn new(len: usize) -> Self {
        Places { len, keys: [std::ptr::null(); CHUNK], values: [std::ptr::null(); CHUNK] }
    }

    /// The key and the value of the `i`-th position.
    pub(super) fn set(&mut self, i: usize, [key, value]: [&[C]; 2]) {
        self.keys[i] = key.as_ptr();
        self.values[i] = value.as_ptr();
    }

    fn keys(&self) -> &[*const C] {
        &self.keys[..self.len]
    }

    fn values(&self) -> &[*const C] {
        &self.values[..self.len]
    }
}

/// Copies keys and values, `width` elements each, widened into `room`.
pub(super) struct Gather<'a, C> {
    pub(super) places: &'a Places<C>,
    pub(super) width: usize,
    pub(super) room: &'a mut [f32],
}

impl<C: Operand> Kernel for Gather<'_, C> {
    type Output = Places<f32>;

    #[inline(always)]
    fn run<S: Simd>(self) -> Places<f32> {
        let Gather { places, width, room } = self;
        let mut gathered = Places::new(places.len);
        let (keys, values) = room.split_at_mut(CHUNK * width);
        for (i, (key, value)) in places.keys().iter().zip(places.values()).enumerate() {
            let (to_key, to_value) = (&mut keys[i * width..][..width], &mut values[i * width..][..width]);
            widen::<S, C>(*key, to_key);
            widen::<S, C>(*value, to_value);
            gathered.set(i, [to_key, to_value]);
        }
        gathered
    }
}

/// Widens as many elements as `to` holds.
#[inline(always)]
fn widen<S: Simd, C: Operand>(from: *const C, to: &mut [f32]) {
    let (width, to) = (to.len(), to.as_mut_ptr());
    let mut at = 0;
    // SAFETY: below `dispatch`; both sides hold `width` elements.
    unsafe {
        while at + S::LANES <= width {
            S::store(to.add(at), C::load::<S>(from.add(at)));
            at += S::LANES;
        }
        if at < width {
            S::store_part(to.add(at), width - at, C::load_part::<S>(from.add(at), width - at));
        }
    }
}

/// Dot products of a few queries with the keys at some positions; query `r`'s go to `scores[r · CHUNK]` onwards.
pub(super) struct Dots<'a, C> {
    /// At most [`ROWS`].
    pub(super) queries: &'a [&'a [f32]],
    pub(super) places: &'a Places<C>,
    pub(super) positions: Range<usize>,
    pub(super) scores: &'a mut [f32],
}

impl<C: Operand> Kernel for Dots<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self) {
        let mut row = 0;
        while row < self.queries.len() {
            let count = step::<S>(self.queries.len() - row);
            match count {
                1 => self.tiles::<S, 1>(row),
                2 => self.tiles::<S, 2>(row),
                3 if const { S::TILE_ROWS == 3 } => self.tiles::<S, 3>(row),
                4 if const { S::TILE_ROWS > 4 } => self.tiles::<S, 4>(row),
                _ if const { S::TILE_ROWS == ROWS } => self.tiles::<S, ROWS>(row),
                // `step` gives no other.
                _ => return,
            }
            row += count;
        }
    }
}

/// How many of `left` rows go into one tile: what the registers hold, or else a power of two.
#[inline(always)]
fn step<S: Simd>(left: usize) -> usize {
    if left >= S::TILE_ROWS { S::TILE_ROWS } else { 1 << left.ilog2() }
}

/// Whether tiles of `R` rows compute so little for each key and value that fetching those takes longer.
#[inline(always)]
fn waits<S: Simd, const R: usize>() -> bool {
    2 * R < S::TILE_ROWS
}

impl<C: Operand> Dots<'_, C> {
    #[inline(always)]
    fn tiles<S: Simd, const R: usize>(&mut self, row: usize) {
        let keys = self.places.keys();
        let queries = &self.queries[row..row + R];
        let width = queries[0].len();
        let queries: [*const f32; R] = std::array::from_fn(|r| queries[r].as_ptr());
        let scores = &mut self.scores[row * CHUNK..];
        let mut at = self.positions.start;
        // SAFETY: below `dispatch`; queries and keys hold `width` elements each.
        unsafe {
            while at + 4 <= self.positions.end {
                if waits::<S, R>() {
                    keys.iter().skip(at + AHEAD).take(4).for_each(|key| prefetch::<S, C>(*key, width));
                }
                let keys = [keys[at], keys[at + 1], keys[at + 2], keys[at + 3]];
                for (r, sums) in dot_tile::<Single<S, C>, R, 4>(queries, keys, width).into_iter().enumerate() {
                    scores[r * CHUNK + at..][..4].copy_from_slice(&S::sum4(sums));
                }
                at += 4;
            }
            while at < self.positions.end {
                for (r, [lanes]) in dot_tile::<Single<S, C>, R, 1>(queries, [keys[at]], width).into_iter().enumerate() {
                    scores[r * CHUNK + at] = S::sum(lanes);
                }
                at += 1;
            }
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

/// Turns one row's scores into weights against the largest of them; gives that and the weights' sum.
pub(super) struct Weights<'a> {
    pub(super) scores: &'a mut [f32],
    pub(super) scale: f32,
    pub(super) soft_cap: Option<f32>,
}

impl Kernel for Weights<'_> {
    type Output = (f32, f32);

    #[inline(always)]
    fn run<S: Simd>(self) -> (f32, f32) {
        let Weights { scores, scale, soft_cap } = self;
        for score in scores.iter_mut() {
            *score *= scale;
        }
        if let Some(cap) = soft_cap {
            soft_cap_all::<S>(scores, cap);
        }
        let largest = max(scores);
        let base = base(largest);
        for score in scores.iter_mut() {
            *score = math::exp::<S>(*score - base);
        }
        (largest, sum::<S>(scores))
    }
}

/// What scores are taken against: the largest, unless nothing is attended to at all.
#[inline(always)]
fn base(largest: f32) -> f32 {
    if largest == f32::NEG_INFINITY { 0.0 } else { largest }
}

/// Adds the values at some positions, weighted, to a few rows.
pub(super) struct Weigh<'a, C> {
    /// Row by row, [`CHUNK`] apart.
    pub(super) weights: &'a [f32],
    pub(super) places: &'a Places<C>,
    pub(super) positions: Range<usize>,
    /// Row by row, `width` apart; added to.
    pub(super) values: &'a mut [f32],
    pub(super) width: usize,
}

impl<C: Operand> Kernel for Weigh<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self) {
        let rows = self.weights.len() / CHUNK;
        let mut row = 0;
        while row < rows {
            let count = step::<S>(rows - row);
            match count {
                1 => self.add::<S, 1>(row),
                2 => self.add::<S, 2>(row),
                3 if const { S::TILE_ROWS == 3 } => self.add::<S, 3>(row),
                4 if const { S::TILE_ROWS > 4 } => self.add::<S, 4>(row),
                _ if const { S::TILE_ROWS == ROWS } => self.add::<S, ROWS>(row),
                // `step` gives no other.
                _ => return,
            }
            row += count;
        }
    }
}

impl<C: Operand> Weigh<'_, C> {
    /// `R` rows from `first` on.
    #[inline(always)]
    fn add<S: Simd, const R: usize>(&mut self, first: usize) {
        let mut at = 0;
        while at + VECTORS * S::LANES <= self.width {
            self.add_vectors::<S, R, VECTORS>(first, at);
            at += VECTORS * S::LANES;
        }
        while at + S::LANES <= self.width {
            self.add_vectors::<S, R, 1>(first, at);
            at += S::LANES;
        }
        if at < self.width {
            self.add_part::<S, R>(first, at);
        }
    }

    /// `V` vectors of features from `at` on.
    #[inline(always)]
    fn add_vectors<S: Simd, const R: usize, const V: usize>(&mut self, first: usize, at: usize) {
        let width = self.width;
        let values = &mut self.values[first * width..(first + R) * width];
        let weights = &self.weights[first * CHUNK..(first + R) * CHUNK];
        let places = self.places.values();
        // SAFETY: below `dispatch`; `at` and the vectors from there lie inside `width`, which every row of
        // `values` and every place holds; positions lie inside the chunk.
        unsafe {
            let mut sums = [[S::splat(0.0); V]; R];
            for (r, sums) in sums.iter_mut().enumerate() {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = S::load(values.as_ptr().add(r * width + at + v * S::LANES));
                }
            }
            for position in self.positions.clone() {
                if waits::<S, R>()
                    && let Some(soon) = places.get(position + AHEAD)
                {
                    prefetch::<S, C>(soon.add(at), V * S::LANES);
                }
                let place = places[position];
                for (r, sums) in sums.iter_mut().enumerate() {
                    let weight = S::splat(*weights.get_unchecked(r * CHUNK + position));
                    for (v, sum) in sums.iter_mut().enumerate() {
                        *sum = S::mul_add(weight, C::load::<S>(place.add(at + v * S::LANES)), *sum);
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
    fn add_part<S: Simd, const R: usize>(&mut self, first: usize, at: usize) {
        let (width, n) = (self.width, self.width - at);
        let values = &mut self.values[first * width..(first + R) * width];
        let weights = &self.weights[first * CHUNK..(first + R) * CHUNK];
        let places = self.places.values();
        // SAFETY: below `dispatch`; the `n` features from `at` on are the last of `width`, which every row of
        // `values` and every place holds.
        unsafe {
            let mut sums = [S::splat(0.0); R];
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = S::load_part(values.as_ptr().add(r * width + at), n);
            }
            for position in self.positions.clone() {
                let value = C::load_part::<S>(places[position].add(at), n);
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

/// Takes one row of a partial result into the total.
pub(super) struct Merge<'a> {
    pub(super) row: usize,
    pub(super) width: usize,
    pub(super) partial: &'a Partial,
    pub(super) total: &'a mut Partial,
}

impl Kernel for Merge<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Merge { row, width, partial, total } = self;
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

/// Divides one row's total by the sum of its weights.
pub(super) struct Finish<'a> {
    pub(super) values: &'a [f32],
    pub(super) sum: f32,
    pub(super) out: &'a mut [f32],
}

impl Kernel for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        for (out, value) in self.out.iter_mut().zip(self.values) {
            *out = value / self.sum;
        }
    }
}
