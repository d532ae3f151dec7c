// SPDX-License-Identifier: EUPL-1.2
//! The product by the tiles of AMX.

use std::ops::Range;

use half::bf16;
use ingle_tensor::Result;

use super::operands::{First, Second, Word};
use super::{Gemm, Sums, Write};
use crate::kernels::tiled::{Product, Rows, Weight};
use crate::kernels::{Context, Pointer};
use crate::number::Float;
use crate::packed::PANEL;
use crate::simd::tiles::many::{Columns, STEPS, TILE, Unpacked};
use crate::simd::tiles::{ROW, SIDE};

// SAFETY: the columns are those of panels of words as they lie, or laid out; a slice of them has so many.
unsafe impl Weight for (&Second, usize) {
    fn steps(&self) -> usize {
        self.1.div_ceil(SIDE)
    }

    unsafe fn columns(&self, panel: usize, step: usize, count: usize, room: &mut Unpacked) -> Columns {
        let &(second, words) = self;
        let here = panel * words + step * SIDE..panel * words + words.min((step + count) * SIDE);
        let whole = here.len() == count * SIDE;
        let pairs = &second.words().as_chunks::<PANEL>().0[here];
        if whole {
            let row = PANEL * size_of::<u32>();
            Columns { at: pairs.as_ptr().cast(), row, tile: ROW, step: SIDE * row }
        } else {
            // SAFETY: the machine has tiles.
            unsafe { room.lay_out(pairs) };
            room.columns()
        }
    }

    fn bytes(&self, panel: usize, step: usize) -> Option<(*const u8, usize)> {
        let &(second, words) = self;
        let at = second.words().as_ptr().wrapping_add((panel * words + step * SIDE) * PANEL);
        Some((at.cast(), STEPS * TILE * PANEL / SIDE))
    }
}

impl<F: Word> Gemm<'_, F> {
    /// As [`Gemm::run`], on a machine with tiles: both operands are of bf16, the first lies row by row.
    pub(super) fn run_tiles<T: Float>(&self, cx: &Context, op: &'static str, m: usize, out: &mut [T]) -> Result<()> {
        let &Gemm { first, second, steps, n, bias, .. } = self;
        debug_assert!(matches!(first, First::Rows(_)) && !matches!(second, Second::Columns(_)));
        let words = first.words();
        let numbers: &[bf16] = bytemuck::cast_slice(words);
        let [apart, _] = first.apart(steps);
        let rows = Rows::new(cx, op, numbers, [m, 2 * steps], 2 * apart)?;
        let weight = (second, steps);
        let product = Product { m, n, rows: &rows, weight: &weight, bias };
        let to = Pointer(out.as_mut_ptr());
        let done = |sums: &[[f32; PANEL]], panel: usize, rows: Range<usize>| {
            let columns = panel * PANEL..(panel * PANEL + PANEL).min(n);
            cx.isa.dispatch(Write {
                sums: Sums { to: sums.as_ptr().cast_mut().cast(), stride: PANEL },
                rows: rows.len(),
                columns: columns.len(),
                // SAFETY: the rows and columns lie inside `out`.
                to: Pointer(unsafe { to.get().add(rows.start * n + columns.start) }),
                stride: n,
            });
        };
        // SAFETY: only a machine that has tiles comes here; the length of the second operand was checked.
        unsafe { product.run(cx, op, done) }
    }
}
