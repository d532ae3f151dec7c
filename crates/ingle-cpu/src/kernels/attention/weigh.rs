// SPDX-License-Identifier: EUPL-1.2
//! Sums of values, weighted.

use std::ops::Range;

use super::CHUNK;
use crate::simd::{Factor, Lane, Products, Source};

/// A few rows' weights, and the sums they go into.
pub(super) struct Rows<'a, F: Source> {
    /// Row by row, [`CHUNK`] apart; zero where a row shares a lane with a position it does not attend to.
    pub(super) weights: &'a [F::Factor],
    /// The positions in the chunk that each row attends to: none before those of the row above.
    pub(super) seen: &'a [Range<usize>],
    /// Row by row, `width` apart; added to.
    pub(super) sums: &'a mut [Lane<F>],
    /// Features of a row: whole vectors.
    pub(super) width: usize,
}

/// The values at some positions of a chunk.
pub(super) trait Values<F: Source, P: Products<F>>: Copy {
    /// The features from `at` on at as many positions as a lane is deep, beside each other.
    ///
    /// # Safety
    ///
    /// Below `dispatch`; the positions are among those of the values, which have so many features.
    unsafe fn lanes(&self, position: usize, at: usize) -> [P::Vector; 2];
}

/// Values that were gathered: from position `first` on, those of a lane beside each other.
#[derive(Clone, Copy)]
pub(super) struct Gathered<T> {
    pub(super) factors: *const T,
    pub(super) width: usize,
}

impl<F: Source, P: Products<F>> Values<F, P> for Gathered<F::Factor> {
    #[inline(always)]
    unsafe fn lanes(&self, position: usize, at: usize) -> [P::Vector; 2] {
        let depth = F::Factor::DEPTH;
        // SAFETY: the caller's promise.
        unsafe {
            let from = self.factors.add(position * self.width + at * depth);
            [P::load(from), P::load(from.add((depth - 1) * P::STEP))]
        }
    }
}

/// Adds to each row the values at those of `positions` that it attends to, in their order. Positions begin and
/// end with a whole lane.
///
/// # Safety
///
/// Below `dispatch`; there are values at all positions, and the rows are as long as they say.
#[inline(always)]
pub(super) unsafe fn weigh<F: Source, P: Products<F>>(
    rows: &mut Rows<'_, F>,
    values: impl Values<F, P>,
    positions: Range<usize>,
) {
    let depth = F::Factor::DEPTH;
    let mut row = 0;
    while row < rows.seen.len() {
        let left = rows.seen.len() - row;
        let count = if P::TILES > 1 && left >= 4 { 4 } else { left.min(2) };
        // What all of them see, in whole lanes.
        let (first, last) = (&rows.seen[row], &rows.seen[row + count - 1]);
        let all =
            last.start.next_multiple_of(depth).max(positions.start)..(first.end / depth * depth).min(positions.end);
        // SAFETY: the caller's promise; all positions lie among `positions`.
        unsafe {
            // Each row's positions in order: alone where only it attends, else beside the others.
            if all.start < all.end {
                for r in row..row + count {
                    let own = clip(&rows.seen[r], &positions);
                    alone::<F, P>(rows, r, values, own.start..all.start);
                }
                match count {
                    4 => add::<F, P, 4>(rows, row, values, all.clone()),
                    2 => add::<F, P, 2>(rows, row, values, all.clone()),
                    _ => add::<F, P, 1>(rows, row, values, all.clone()),
                }
                for r in row..row + count {
                    let own = clip(&rows.seen[r], &positions);
                    alone::<F, P>(rows, r, values, all.end..own.end);
                }
            } else {
                for r in row..row + count {
                    alone::<F, P>(rows, r, values, clip(&rows.seen[r], &positions));
                }
            }
        }
        row += count;
    }
}

/// The part of `seen` that lies in `positions`; inside them even where it is empty.
#[inline(always)]
fn clip(seen: &Range<usize>, positions: &Range<usize>) -> Range<usize> {
    seen.start.clamp(positions.start, positions.end)..seen.end.clamp(positions.start, positions.end)
}

/// One row over `positions`, where lanes may be seen in part.
///
/// # Safety
///
/// As of [`weigh`].
#[inline(always)]
unsafe fn alone<F: Source, P: Products<F>>(
    rows: &mut Rows<'_, F>,
    row: usize,
    values: impl Values<F, P>,
    positions: Range<usize>,
) {
    let depth = F::Factor::DEPTH;
    let Range { mut start, end } = positions;
    // SAFETY: the caller's promise.
    unsafe {
        if start < end && !start.is_multiple_of(depth) {
            add_part::<F, P>(rows, row, values, start);
            start += 1;
        }
        let whole = end / depth * depth;
        if start < whole {
            add::<F, P, 1>(rows, row, values, start..whole);
            start = whole;
        }
        if start < end {
            add_part::<F, P>(rows, row, values, start);
        }
    }
}

/// `R` rows from `row` on over `positions`, in lanes that all of them see whole.
///
/// # Safety
///
/// As of [`weigh`].
#[inline(always)]
unsafe fn add<F: Source, P: Products<F>, const R: usize>(
    rows: &mut Rows<'_, F>,
    row: usize,
    values: impl Values<F, P>,
    positions: Range<usize>,
) {
    let depth = F::Factor::DEPTH;
    let mut at = 0;
    // SAFETY: the caller's promise.
    unsafe {
        // As many vectors of features as leave registers for the values.
        let many = if P::TILES > 1 { 16 / R } else { 8 / R };
        while at + many * P::LANES <= rows.width {
            match many / depth {
                16 => add_vectors::<F, P, R, 16>(rows, row, values, (positions.clone(), at)),
                8 => add_vectors::<F, P, R, 8>(rows, row, values, (positions.clone(), at)),
                4 => add_vectors::<F, P, R, 4>(rows, row, values, (positions.clone(), at)),
                _ => add_vectors::<F, P, R, 2>(rows, row, values, (positions.clone(), at)),
            }
            at += many * P::LANES;
        }
        while at < rows.width {
            add_vectors::<F, P, R, 1>(rows, row, values, (positions.clone(), at));
            at += P::STEP;
        }
    }
}

/// `V` vectors of factors, as many features, from `at` on.
///
/// # Safety
///
/// As of [`weigh`].
#[inline(always)]
unsafe fn add_vectors<F: Source, P: Products<F>, const R: usize, const V: usize>(
    rows: &mut Rows<'_, F>,
    row: usize,
    values: impl Values<F, P>,
    (positions, at): (Range<usize>, usize),
) {
    let (width, depth) = (rows.width, F::Factor::DEPTH);
    // SAFETY: the caller's promise.
    unsafe {
        let weights = rows.weights.as_ptr().add(row * CHUNK);
        let place = rows.sums.as_mut_ptr().add(row * width + at);
        let mut sums = [[[P::zero(); 2]; V]; R];
        for (r, sums) in sums.iter_mut().enumerate() {
            for (v, sums) in sums.iter_mut().enumerate() {
                for (i, sum) in sums.iter_mut().enumerate().take(depth) {
                    *sum = P::load_sums(place.add(r * width + v * P::STEP + i * P::LANES));
                }
            }
        }
        let mut position = positions.start;
        while position < positions.end {
            let mut lanes = [values.lanes(position, at); V];
            for (v, lanes) in lanes.iter_mut().enumerate().skip(1) {
                *lanes = values.lanes(position, at + v * P::STEP);
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let weight = P::splat(weights.add(r * CHUNK + position));
                for (sums, lanes) in sums.iter_mut().zip(lanes) {
                    for (sum, lane) in sums.iter_mut().zip(lanes).take(depth) {
                        *sum = P::mul_add(weight, lane, *sum);
                    }
                }
            }
            position += depth;
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (v, sums) in sums.into_iter().enumerate() {
                for (i, sum) in sums.into_iter().enumerate().take(depth) {
                    P::store_sums(place.add(r * width + v * P::STEP + i * P::LANES), sum);
                }
            }
        }
    }
}

/// One row and the one position `position` of a lane.
///
/// # Safety
///
/// As of [`weigh`].
#[inline(always)]
unsafe fn add_part<F: Source, P: Products<F>>(
    rows: &mut Rows<'_, F>,
    row: usize,
    values: impl Values<F, P>,
    position: usize,
) {
    let (width, depth) = (rows.width, F::Factor::DEPTH);
    let whole = position / depth * depth;
    // SAFETY: the caller's promise.
    unsafe {
        let weight = P::splat(rows.weights.as_ptr().add(row * CHUNK + whole));
        for at in (0..width).step_by(P::STEP) {
            let lanes = values.lanes(whole, at);
            for (i, lane) in lanes.into_iter().enumerate().take(depth) {
                let place = rows.sums.as_mut_ptr().add(row * width + at + i * P::LANES);
                // What the row does not see may be NaN, which a weight of zero does not take away.
                let value = P::only(lane, position % depth);
                P::store_sums(place, P::mul_add(weight, value, P::load_sums(place)));
            }
        }
    }
}
