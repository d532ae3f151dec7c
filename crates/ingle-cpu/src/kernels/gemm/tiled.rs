// SPDX-License-Identifier: EUPL-1.2
//! The product with a panel by the tiles of AMX.

use super::operands::Word;
use super::{Block, PANEL, Start, TILED_STRIP, tiles};
use crate::simd::tiles::{Ahead, Matrix, ROW, SIDE, TileProduct, Tiles, Width, multiply_bf16};

/// Columns that rows of two tiles meet at a time.
const COLUMNS: usize = 2 * SIDE;

/// Bytes of a cache line.
const LINE: usize = 64;

impl<F: Word> Block<'_, F> {
    /// Adds the products of tiles of rows with tiles of columns; those past the last that is wanted as well.
    pub(super) fn multiply_tiles(&self) {
        const { assert!(PANEL == 2 * COLUMNS && TILED_STRIP.is_multiple_of(SIDE)) };
        let super::Gemm { first, second, steps, bias, .. } = *self.gemm;
        let (firsts, seconds) = (first.words(), second.words());
        let ([row_apart, _], [second_step, second_panel]) = (first.apart(steps), second.apart(steps));
        // SAFETY: only a machine that has tiles comes here, and nothing below uses them otherwise.
        let mut own = unsafe { Tiles::new() };
        let begin = if bias.is_none() { Start::Zero } else { Start::There };
        for strip in (0..steps).step_by(TILED_STRIP) {
            let length = TILED_STRIP.min(steps - strip);
            // While the strip is met by tile after tile, they ask for what lies behind it, which is the next.
            let strip_bytes = 4 * length * second_step;
            let tiles_of_strip = self.rows.len().div_ceil(2 * SIDE) * (PANEL / COLUMNS) * length.div_ceil(SIDE);
            let lines = (strip_bytes / LINE).div_ceil(tiles_of_strip.max(1));
            let mut ahead = seconds.as_ptr().wrapping_add(self.panel * second_panel + (strip + length) * second_step);
            for column in (0..self.columns).step_by(COLUMNS) {
                for tile in tiles(self.rows.len(), 2 * SIDE) {
                    // Rows of one tile have met all columns at once.
                    if tile.len() <= SIDE && column > 0 {
                        continue;
                    }
                    // SAFETY: the machine has tiles; rows, columns and steps lie inside the operands, whose lengths were
                    // checked, and inside the sums, which are a panel wide.
                    unsafe {
                        let row = self.rows.start + tile.start;
                        let second = seconds.as_ptr().add(self.panel * second_panel + strip * second_step + column);
                        let sums = self.sums.to.add(tile.start * self.sums.stride + column);
                        let part = TileProduct {
                            first: Matrix {
                                at: firsts.as_ptr().add(first.at(row, strip, steps)).cast(),
                                stride: 4 * row_apart,
                            },
                            second: Matrix { at: second.cast(), stride: 4 * second_step },
                            columns_apart: ROW,
                            steps: length,
                            sums: Matrix { at: sums.cast(), stride: 4 * self.sums.stride },
                            adds: strip > 0 || begin == Start::There,
                            ahead: Ahead { at: ahead.cast(), lines },
                        };
                        ahead = ahead.wrapping_byte_add(length.div_ceil(SIDE) * lines * LINE);
                        multiply_bf16(&mut own, Width::of_rows(tile.len()), tile.len(), part);
                    }
                }
            }
        }
    }
}
