// SPDX-License-Identifier: EUPL-1.2
//! [`Product`] by the tiles of AMX.

use super::Floats;
use super::product::{COLUMNS, Product, Start};
use crate::simd::tiles::{Matrix, SIDE, TileProduct, Tiles, Width, multiply_bf16};
use crate::simd::turned::{Words, turn};
use crate::simd::{Factor, Kernel, Simd};

/// Lanes of a panel that are turned together.
const TOGETHER: usize = 2 * SIDE;

/// A product whose factors are bf16 in twos.
pub(super) struct Tiled<'a, F: Floats>(pub(super) Product<'a, F>);

/// Rows of words.
#[repr(align(64))]
struct Turned([[u32; TOGETHER]; SIDE]);

impl<F: Floats> Kernel for Tiled<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        const { assert!(COLUMNS == SIDE) };
        let mut product = self.0;
        if product.rows == 0 || product.columns == 0 {
            return;
        }
        product.check();
        if product.lanes == 0 {
            if product.sums.from == Start::Zero {
                let rows = product.sums.to.chunks_mut(product.sums.row).take(product.rows);
                rows.for_each(|row| row[..product.columns].fill(0.0));
            }
            return;
        }
        // SAFETY: only a machine that has tiles comes here, and nothing below uses them otherwise.
        let tiles = unsafe { &mut Tiles::new() };
        let mut turned = Turned([[0; TOGETHER]; SIDE]);
        for first in (0..product.rows).step_by(SIDE) {
            let rows = SIDE.min(product.rows - first);
            // The factors of a row stand together, or those of a lane do.
            if product.left.lane == F::Factor::DEPTH {
                let at = product.left.factors[product.left.at(first, 0)..].as_ptr().cast();
                let left = Matrix { at, stride: product.left.row * size_of::<F::Factor>() };
                // SAFETY: by the check above there are so many rows of so many lanes.
                unsafe { product.multiply(tiles, left, (first, rows), (0, product.lanes)) };
                continue;
            }
            for lane in (0..product.lanes).step_by(TOGETHER) {
                let lanes = TOGETHER.min(product.lanes - lane);
                product.turn::<S>((first, rows), (lane, lanes), &mut turned);
                let left = Matrix { at: turned.0.as_ptr().cast(), stride: size_of_val(&turned.0[0]) };
                // SAFETY: they were turned just now.
                unsafe { product.multiply(tiles, left, (first, rows), (lane, lanes)) };
            }
        }
    }
}

impl<F: Floats> Product<'_, F> {
    /// Some rows of a panel, some lanes of each, as rows.
    #[inline(always)]
    fn turn<S: Simd>(&self, (first, rows): (usize, usize), (lane, lanes): (usize, usize), to: &mut Turned) {
        let words: &[u32] = bytemuck::cast_slice(&self.left.factors[self.left.at(first, lane)..]);
        let apart = self.left.lane / F::Factor::DEPTH;
        // The bounds that turning relies on.
        assert!(words.len() >= (lanes - 1) * apart + rows && lanes <= TOGETHER && rows <= SIDE);
        let to = Words { at: to.0.as_mut_ptr().cast(), apart: TOGETHER };
        // SAFETY: below `dispatch`; the lanes are there, and room for the rows.
        unsafe { turn::<S>([lanes, rows], Words { at: words.as_ptr(), apart }, to) }
    }

    /// Adds the products of some lanes of rows, which `left` has, with all columns.
    ///
    /// # Safety
    ///
    /// The machine has tiles; the rows and lanes are among those of the product, and `left` has so many.
    #[inline(always)]
    unsafe fn multiply(
        &mut self,
        tiles: &mut Tiles,
        left: Matrix<*const u8>,
        (first, rows): (usize, usize),
        (lane, lanes): (usize, usize),
    ) {
        let (right, size) = (self.right, size_of::<F::Factor>());
        let mut column = 0;
        while column < self.columns {
            let width = if self.columns - column >= 4 * SIDE { Width::Four } else { Width::One };
            // SAFETY: the caller's promise; the columns are among those of the product.
            unsafe {
                let part = TileProduct {
                    first: left,
                    second: Matrix {
                        at: right.factors.as_ptr().add(right.at(column, lane)).cast(),
                        stride: right.lane * size,
                    },
                    columns_apart: right.panel * size,
                    steps: lanes,
                    sums: Matrix {
                        at: self.sums.to.as_mut_ptr().add(first * self.sums.row + column).cast(),
                        stride: self.sums.row * size_of::<f32>(),
                    },
                    adds: lane > 0 || self.sums.from == Start::There,
                };
                multiply_bf16(tiles, width, rows, part);
            }
            column += if width == Width::Four { 4 * SIDE } else { SIDE };
        }
    }
}
