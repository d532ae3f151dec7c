// SPDX-License-Identifier: EUPL-1.2
//! Factors as products read them: rows out of the cache, rows beside each other, and rows across.

use bytemuck::cast_slice;

use super::product::COLUMNS;
use super::{Floats, Rounding};
use crate::kernels::attention::gather::{Cache, whole};
use crate::kernels::attention::{WHOLE, padded};
use crate::simd::{Factor, Kernel, ProductKernel, Products, Simd};

/// One head of the cache at some slots, row by row, each [`padded`]; zeros behind the last.
pub(super) struct Rows<'a, F: Floats> {
    pub(super) cache: Cache<'a, F::Element>,
    pub(super) head: usize,
    /// Numbers of slots that the cache has.
    pub(super) slots: &'a [usize],
    pub(super) to: &'a mut [F::Factor],
}

impl<F: Floats> ProductKernel<F> for Rows<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<P: Products<F>>(self) {
        let Rows { cache, head, slots, to } = self;
        let width = padded(cache.width);
        let mut rest = [<F::Element as bytemuck::Zeroable>::zeroed(); WHOLE];
        let (rows, behind) = to.split_at_mut(slots.len() * width);
        for (&slot, to) in slots.iter().zip(rows.chunks_exact_mut(width)) {
            for at in (0..width).step_by(P::STEP) {
                // SAFETY: below `dispatch`; the cache has the slot and the head, and the store fits.
                unsafe {
                    let row = cache.row(slot * cache.kv_heads * cache.row, head);
                    let from = whole(row, (at, P::STEP), cache.width, &mut rest);
                    P::store(to.as_mut_ptr().add(at), P::read(from));
                }
            }
        }
        behind.fill(F::Factor::default());
    }
}

/// Panels of [`COLUMNS`] rows, the lanes of each one after the other: what a tile reads lies together.
pub(super) struct Across<'a, T> {
    /// Row by row, `width` factors each.
    pub(super) rows: &'a [T],
    pub(super) width: usize,
    pub(super) to: &'a mut [T],
}

impl<T: Factor> Kernel for Across<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        // A lane has 4 bytes, be it of one factor or of two.
        const { assert!(size_of::<T>() * T::DEPTH == size_of::<u32>()) };
        let lanes = self.width / T::DEPTH;
        let from: &[u32] = cast_slice(self.rows);
        let to: &mut [u32] = bytemuck::cast_slice_mut(self.to);
        for (from, to) in from.chunks_exact(COLUMNS * lanes).zip(to.chunks_exact_mut(COLUMNS * lanes)) {
            let squares = lanes / S::LANES * S::LANES;
            for lane in (0..squares).step_by(S::LANES) {
                for row in (0..COLUMNS).step_by(S::LANES) {
                    // SAFETY: below `dispatch`; these lanes of these rows are there, on either side.
                    unsafe {
                        let to = to.as_mut_ptr().add(lane * COLUMNS + row);
                        S::turn(from.as_ptr().add(row * lanes + lane), lanes, to, COLUMNS);
                    }
                }
            }
            for (lane, to) in to.chunks_exact_mut(COLUMNS).enumerate().skip(squares) {
                for (to, row) in to.iter_mut().zip(from.chunks_exact(lanes)) {
                    *to = row[lane];
                }
            }
        }
    }
}

/// Rows in twos, the factors of one place beside each other, where products sum two at once.
pub(super) struct Beside<'a, T> {
    /// Row by row, `width` factors each: an even number of them.
    pub(super) rows: &'a [T],
    pub(super) width: usize,
    pub(super) order: Order,
    pub(super) to: &'a mut [T],
}

/// Where two rows' factors go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Behind those of the two before.
    Lanes,
    /// [`COLUMNS`] places at a time into panels, in each behind those of the two before.
    Panels,
}

impl<T: Factor> Kernel for Beside<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Beside { rows, width, order, to } = self;
        let (rows, to): (&[u16], &mut [u32]) = (cast_slice(rows), bytemuck::cast_slice_mut(to));
        let lanes = rows.len() / (2 * width).max(1);
        for (lane, rows) in rows.chunks_exact(2 * width).enumerate() {
            let (first, second) = rows.split_at(width);
            let (first, second) = (first.as_chunks::<COLUMNS>().0, second.as_chunks::<COLUMNS>().0);
            for (panel, (first, second)) in first.iter().zip(second).enumerate() {
                let at = match order {
                    Order::Lanes => lane * width + panel * COLUMNS,
                    Order::Panels => (panel * lanes + lane) * COLUMNS,
                };
                let to = &mut to[at..at + COLUMNS];
                for i in 0..COLUMNS {
                    to[i] = u32::from(first[i]) | u32::from(second[i]) << 16;
                }
            }
        }
    }
}

/// Rows of f32 rounded to factors, each padded with zeros.
pub(super) struct Round<'a, T> {
    /// Where each row begins, and how long it is.
    pub(super) from: &'a [f32],
    pub(super) starts: &'a [usize],
    pub(super) len: usize,
    /// [`padded`] rows; those behind the last start become zeros.
    pub(super) to: &'a mut [T],
}

impl<T: Rounding> Kernel for Round<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Round { from, starts, len, to } = self;
        let width = padded(len);
        let (rows, behind) = to.split_at_mut(starts.len() * width);
        for (&start, to) in starts.iter().zip(rows.chunks_exact_mut(width)) {
            let (to, rest) = to.split_at_mut(len);
            T::query(&from[start..start + len], to);
            rest.fill(T::default());
        }
        behind.fill(T::default());
    }
}
