// SPDX-License-Identifier: EUPL-1.2
//! The product by the tiles of AMX.

use std::ops::Range;

use half::bf16;
use ingle_tensor::{Activation, Result, Spec};

use super::operands::{First, Second, Word};
use super::{Gemm, Sums, Write, rows_and_columns};
use crate::kernels::activation::Glu;
use crate::kernels::tiled::{Product, Rows, Weight};
use crate::kernels::{Context, Pointer};
use crate::number::{Float, with_float};
use crate::packed::PANEL;
use crate::simd::tiles::many::{Columns, STEPS, TILE, Unpacked};
use crate::simd::tiles::{ROW, SIDE};
use crate::simd::{Bf16Pairs, Isa, Kernel, Simd};
use crate::storage::CpuStorage;

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
        let product = Product { m, n, rows: &rows, weights: [&weight], bias };
        let to = Pointer(out.as_mut_ptr());
        let done = |[sums]: [&[[f32; PANEL]]; 1], panel: usize, rows: Range<usize>| {
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

/// The products with two weights of packed pairs of bf16, of which the first are activated and multiply the second, on a
/// machine with tiles.
pub(in crate::kernels) fn glu(
    cx: &Context,
    activation: Activation,
    [x, gate, up]: [CpuStorage; 3],
    output: &Spec,
) -> Result<CpuStorage> {
    assert!(cx.isa == Isa::Amx, "only a machine that has tiles multiplies by them");
    let ([m, k], [n, _]) = (rows_and_columns(x.layout()), rows_and_columns(gate.layout()));
    let steps = k.div_ceil(2);
    let first = First::new::<Bf16Pairs>(cx, x, true)?;
    let weights = [Second::new::<Bf16Pairs>(cx, gate, m)?, Second::new::<Bf16Pairs>(cx, up, m)?];
    for second in &weights {
        super::check(&first, second, [m, n], steps);
    }
    let numbers: &[bf16] = bytemuck::cast_slice(first.words());
    let [apart, _] = first.apart(steps);
    let rows = Rows::new(cx, "linear", numbers, [m, 2 * steps], 2 * apart)?;
    let weights = weights.each_ref().map(|second| (second, steps));
    let product = Product { m, n, rows: &rows, weights: weights.each_ref(), bias: None };
    with_float!("linear", output.dtype, T => cx.make::<T>(&output.shape, |out| {
        let to = Pointer(out.as_mut_ptr());
        let done = |sums: [&[[f32; PANEL]]; 2], panel: usize, rows: Range<usize>| {
            let columns = panel * PANEL..(panel * PANEL + PANEL).min(n);
            // SAFETY: the rows and columns lie inside `out`.
            let to = Pointer(unsafe { to.get().add(rows.start * n + columns.start) });
            cx.isa.dispatch(WriteGlu { sums, activation, columns: columns.len(), to, stride: n });
        };
        // SAFETY: the machine has tiles, and the lengths of the weights were checked.
        unsafe { product.run(cx, "linear", done) }
    }))
}

/// Activates sums and multiplies others by them. Made only with room for the results.
struct WriteGlu<'a, T> {
    sums: [&'a [[f32; PANEL]]; 2],
    activation: Activation,
    columns: usize,
    to: Pointer<T>,
    /// Elements from one row to the next.
    stride: usize,
}

impl<T: Float> Kernel for WriteGlu<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let WriteGlu { sums: [gates, ups], activation, columns, to, stride } = self;
        for (row, (gate, up)) in gates.iter().zip(ups).enumerate() {
            let mut gate = *gate;
            Glu { activation, gate: &mut gate, up }.run::<S>();
            // SAFETY: the maker's promise.
            let to = unsafe { std::slice::from_raw_parts_mut(to.get().add(row * stride), columns) };
            match <&mut [T; PANEL]>::try_from(&mut *to) {
                Ok(to) => T::narrow_all(&gate, to),
                Err(_) => T::narrow_all(&gate[..columns], to),
            }
        }
    }
}
