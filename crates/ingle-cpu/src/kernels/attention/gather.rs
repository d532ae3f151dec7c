// SPDX-License-Identifier: EUPL-1.2
//! Keys and values in the cache, and out of it as factors beside each other.

use std::ops::Range;

use bytemuck::Zeroable;
use ingle_tensor::Element;

use super::{CHUNK, WHOLE, padded};
use crate::simd::{Factor, ProductKernel, Products, Simd, Source};

/// The keys or the values of a cache, `[slots, KH, row]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cache<'a, T> {
    pub(super) elements: &'a [T],
    pub(super) kv_heads: usize,
    /// Features of a head.
    pub(super) width: usize,
    /// Elements of a head: the features, and what stands beside them.
    pub(super) row: usize,
}

impl<T> Cache<'_, T> {
    /// Where the features of a slot's head begin; `first` is the slot's first element.
    ///
    /// # Safety
    ///
    /// The cache has such a slot and head.
    #[inline(always)]
    pub(super) unsafe fn row(&self, first: usize, head: usize) -> *const T {
        let at = first + head * self.row;
        debug_assert!(at + self.row <= self.elements.len());
        // SAFETY: the caller's promise.
        unsafe { self.elements.as_ptr().add(at) }
    }
}

/// What will be read soon, as much as is read meanwhile: rows some elements apart.
#[derive(Clone, Copy)]
pub(super) struct Ahead<T> {
    pub(super) first: *const T,
    pub(super) pitch: usize,
}

impl<T: Copy> Ahead<T> {
    /// The rows from `row` on.
    #[inline(always)]
    pub(super) fn skip(self, row: usize) -> Self {
        Ahead { first: self.first.wrapping_add(row * self.pitch), ..self }
    }

    /// Asks for what lies around an element of a row.
    #[inline(always)]
    pub(super) fn prefetch<S: Simd>(&self, row: usize, at: usize) {
        S::prefetch_far(self.first.wrapping_add(row * self.pitch + at).cast());
    }
}

/// One head's keys and values at the positions `span` of a chunk, for many rows.
pub(super) struct Gather<'a, F: Source> {
    pub(super) keys: Cache<'a, F::Element>,
    pub(super) values: Cache<'a, F::Element>,
    /// The first element of each position's slot; past the span, of any slot.
    pub(super) slots: &'a [usize; CHUNK],
    pub(super) span: Range<usize>,
    pub(super) head: usize,
    /// Key by key, that of position 0 first, each [`padded`] with zeros.
    pub(super) key_room: &'a mut [F::Factor],
    /// Lane by lane, those of a lane beside each other feature by feature, padded with zeros.
    pub(super) value_room: &'a mut [F::Factor],
    /// Of each position; untouched if rows have none.
    pub(super) key_scales: &'a mut [f32],
    pub(super) value_scales: &'a mut [f32],
}

impl<F: Source> ProductKernel<F> for Gather<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<P: Products<F>>(self) {
        let Gather { keys, values, slots, span, head, key_room, value_room, key_scales, value_scales } = self;
        let (width, depth) = (padded(keys.width), F::Factor::DEPTH);
        let mut rest = [[F::Element::zeroed(); WHOLE]; 2];
        for position in span.clone() {
            // SAFETY: the cache has these slots and this head.
            let row = unsafe { keys.row(slots[position], head) };
            let to = &mut key_room[position * width..][..width];
            if F::BESIDE > 0 {
                // SAFETY: as above; the scale is beside the features.
                unsafe {
                    key_scales[position] = F::scale(row, keys.width);
                    value_scales[position] = F::scale(values.row(slots[position], head), values.width);
                }
            }
            for at in (0..width).step_by(P::STEP) {
                // SAFETY: below `dispatch`; the row has as many elements as the cache is wide, and the store fits.
                unsafe {
                    let from = whole(row, (at, P::STEP), keys.width, &mut rest[0]);
                    P::store(to.as_mut_ptr().add(at), P::read(from));
                }
            }
        }
        for lane in span.start / depth..span.end.div_ceil(depth) {
            // Where only a part of a lane is in the span, the rest is that of any slot: nobody sees it.
            let slots = [slots[lane * depth], slots[lane * depth + depth - 1]];
            // SAFETY: the cache has these slots and this head.
            let rows = unsafe { [values.row(slots[0], head), values.row(slots[1], head)] };
            let to = &mut value_room[lane * depth * width..][..depth * width];
            for at in (0..width).step_by(P::STEP) {
                let [first, second] = &mut rest;
                // SAFETY: as above.
                unsafe {
                    let from = [
                        whole(rows[0], (at, P::STEP), values.width, first),
                        whole(rows[1], (at, P::STEP), values.width, second),
                    ];
                    for (i, v) in P::read_beside(from).into_iter().enumerate().take(depth) {
                        P::store(to.as_mut_ptr().add(at * depth + i * P::STEP), v);
                    }
                }
            }
        }
    }
}

/// `step` elements of a row from `at` on: where they lie, or as many as there are followed by zeros, in `rest`.
///
/// # Safety
///
/// The row has `width` elements.
#[inline(always)]
pub(super) unsafe fn whole<T: Element>(
    row: *const T,
    (at, step): (usize, usize),
    width: usize,
    rest: &mut [T; WHOLE],
) -> *const T {
    if at + step > width {
        for (i, rest) in rest.iter_mut().enumerate() {
            // SAFETY: inside the row.
            *rest = if at + i < width { unsafe { *row.add(at + i) } } else { T::zeroed() };
        }
        return rest.as_ptr();
    }
    // SAFETY: as above.
    unsafe { row.add(at) }
}
