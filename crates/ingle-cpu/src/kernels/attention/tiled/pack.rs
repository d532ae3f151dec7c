// SPDX-License-Identifier: EUPL-1.2
//! Keys and values out of the cache as panels: of each step along the inner axis (two features of keys, two positions
//! of values, half of 32 from each other) what it takes of 32 columns (keys, or features of values) lies beside each
//! other, word by word.

use std::ops::Range;

use bytemuck::{Zeroable, cast_slice};

use super::super::gather::{Cache, whole};
use super::super::{CHUNK, WHOLE, padded};
use super::STEP;
use crate::simd::tiles::SIDE;
use crate::simd::{ProductKernel, Products, Simd, Source};

/// Keys that are taken together: a tile's rows.
pub(super) const GROUP: usize = SIDE;

/// Where the positions `span` of a chunk lie.
#[derive(Clone)]
pub(super) struct Slots<'a> {
    /// The first element of each position's slot; outside the span, of any slot.
    pub(super) firsts: &'a [usize; CHUNK],
    pub(super) span: Range<usize>,
    /// Elements from one slot to the next, if whole groups of positions lie in one block.
    pub(super) pitch: Option<usize>,
}

/// Rows one after the other, and how many elements apart.
#[derive(Clone, Copy)]
pub(super) struct Group<T> {
    pub(super) first: *const T,
    pub(super) pitch: usize,
}

impl Slots<'_> {
    /// The first element of a group's first slot, where whole groups lie in one block; some position of it is in the
    /// span.
    #[inline(always)]
    pub(super) fn first(&self, start: usize, pitch: usize) -> usize {
        let position = self.span.start.max(start);
        self.firsts[position] - (position - start) * pitch
    }

    /// Those of its positions that are among `positions`.
    #[inline(always)]
    pub(super) fn within(&self, positions: &Range<usize>) -> Self {
        let span = self.span.start.max(positions.start)..self.span.end.min(positions.end);
        Slots { span, ..self.clone() }
    }

    /// The groups that the span lies in.
    pub(super) fn groups(&self) -> impl Iterator<Item = usize> + use<> {
        (self.span.start / GROUP * GROUP..self.span.end).step_by(GROUP)
    }

    /// The rows of a head at the group of positions from `start` on: where they lie, or copied to `spare` where
    /// they do not lie so. What is outside the span is any numbers of the cache, or zeros.
    #[inline(always)]
    pub(super) fn group<T: Copy + Zeroable>(
        &self,
        cache: Cache<'_, T>,
        head: usize,
        start: usize,
        spare: &mut [T],
    ) -> Group<T> {
        let width = padded(cache.width);
        let span = self.span.start.max(start)..self.span.end.min(start + GROUP);
        if let Some(pitch) = self.pitch.filter(|_| width == cache.width) {
            // SAFETY: the group's slots are all in one block, which the cache has whole.
            return Group { first: unsafe { cache.row(self.first(start, pitch), head) }, pitch };
        }
        let spare = &mut spare[..GROUP * width];
        spare.fill(T::zeroed());
        for position in span {
            // SAFETY: the cache has this slot and head, whose rows are as wide as it says.
            unsafe {
                let row = cache.row(self.firsts[position], head);
                row.copy_to_nonoverlapping(
                    spare[(position - start) * width..][..cache.width].as_mut_ptr(),
                    cache.width,
                );
            }
        }
        Group { first: spare.as_ptr(), pitch: width }
    }
}

/// One head's keys, [`STEP`] of them to a panel.
pub(super) struct PackKeys<'a, F: Source> {
    pub(super) keys: Cache<'a, F::Element>,
    pub(super) slots: Slots<'a>,
    pub(super) head: usize,
    /// Room for a group of keys.
    pub(super) spare: &'a mut [F::Element],
    pub(super) panels: &'a mut [F::Factor],
}

impl<F: Source> ProductKernel<F> for PackKeys<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<P: Products<F>>(self) {
        let PackKeys { keys, slots, head, spare, panels } = self;
        let width = padded(keys.width);
        for start in slots.groups() {
            let Group { first, pitch } = slots.group(keys, head, start, spare);
            let panel = &mut panels[start / STEP * STEP * width..][..STEP * width];
            let to = panel.as_mut_ptr().cast::<u32>().wrapping_add(start % STEP);
            let lanes = P::Floats::LANES;
            for at in (0..width).step_by(2 * lanes) {
                for row in (0..GROUP).step_by(lanes) {
                    // SAFETY: below `dispatch`; rows are as wide, and two of their factors are a word; a panel has a row
                    // of `STEP` words for each two features.
                    unsafe {
                        let from = first.add(row * pitch + at).cast::<u32>();
                        P::Floats::turn(from, pitch / 2, to.add(at / 2 * STEP + row), STEP);
                    }
                }
            }
        }
    }
}

/// One head's values, [`STEP`] of their features to a panel; zeros fill the steps. Of 32 positions, the first one and
/// the seventeenth are a step, and so on: so the sums of either half have the order in which positions lie.
pub(super) struct PackValues<'a, F: Source> {
    pub(super) values: Cache<'a, F::Element>,
    pub(super) slots: Slots<'a>,
    pub(super) head: usize,
    /// Positions of a panel; its first is that of a step.
    pub(super) apart: usize,
    pub(super) panels: &'a mut [F::Factor],
    /// Whether it matters if all are finite.
    pub(super) checks: bool,
}

impl<F: Source> ProductKernel<F> for PackValues<'_, F> {
    /// Whether all are finite, or it does not matter.
    type Output = bool;

    #[inline(always)]
    fn run<P: Products<F>>(self) -> bool {
        let PackValues { values, slots: Slots { firsts, span, .. }, head, apart, panels, checks } = self;
        let width = padded(values.width);
        let zeros = [F::Element::zeroed(); WHOLE];
        let mut rest = [zeros; 2];
        let mut largest = [0; 2 * STEP];
        for step in super::steps(&span) {
            let positions = step * STEP..(step + 1) * STEP;
            let mut rows = [std::ptr::null(); STEP];
            for position in span.start.max(positions.start)..span.end.min(positions.end) {
                // SAFETY: the cache has this slot and head.
                rows[position - positions.start] = unsafe { values.row(firsts[position], head) };
            }
            let are_whole = width == values.width && rows.iter().all(|row| !row.is_null());
            for at in (0..width).step_by(STEP) {
                let to = &mut panels[at * apart + positions.start % apart * STEP..][..STEP * STEP];
                for (pair, to) in to.chunks_exact_mut(2 * STEP).enumerate() {
                    let pair = [rows[pair], rows[pair + SIDE]];
                    for part in (0..STEP).step_by(P::STEP) {
                        let mut from = pair.map(|row| row.wrapping_add(at + part));
                        if !are_whole {
                            for ((row, from), rest) in pair.iter().zip(&mut from).zip(&mut rest) {
                                *from = match row.is_null() {
                                    true => zeros.as_ptr(),
                                    // SAFETY: rows are as wide as the cache says.
                                    false => unsafe { whole(*row, (at + part, P::STEP), values.width, rest) },
                                }
                            }
                        }
                        // SAFETY: below `dispatch`; there are as many elements on either side, and two vectors fit.
                        unsafe {
                            let [low, high] = P::read_beside(from);
                            P::store(to.as_mut_ptr().add(2 * part), low);
                            P::store(to.as_mut_ptr().add(2 * part + P::STEP), high);
                        }
                    }
                }
                if checks {
                    for factors in cast_slice::<F::Factor, u16>(to).chunks_exact(2 * STEP) {
                        for (largest, factor) in largest.iter_mut().zip(factors) {
                            *largest = (factor & 0x7fff).max(*largest);
                        }
                    }
                }
            }
        }
        largest.into_iter().all(is_finite)
    }
}

/// Whether the bf16 with these bits is.
#[inline(always)]
fn is_finite(bits: u16) -> bool {
    const INFINITY: u16 = 0x7f80;
    bits & INFINITY != INFINITY
}
