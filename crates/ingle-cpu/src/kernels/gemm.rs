// SPDX-License-Identifier: EUPL-1.2
//! Products of large matrices however they lie: those of training, whose operands come transposed.
//!
//! Both operands are packed on the way ([`operands`]), so that a tile of the result reads them from first to last:
//! a panel of the second operand's columns lies across vector registers, and each element of the first is met by all
//! of them (Goto & van de Geijn 2008). An output is summed along the inner axis in order, in one register from strip
//! to strip: its bits depend neither on the tile nor on the thread that computes it.

mod operands;

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use ingle_tensor::DType;
use ingle_tensor::Result;

use self::operands::{First, Panels, Word};
use super::linear::{PanelKernel, Product, Start, tiles};
use super::{Context, elements_mut};
use crate::layout::Layout;
use crate::memory::Contents;
use crate::packed::PANEL;
#[cfg(target_arch = "x86_64")]
use crate::simd::Bf16Pairs;
use crate::simd::{Factor, Multiplier, ProductKernel, Products, Simd, Widened};
use crate::storage::CpuStorage;

/// Steps along the inner axis in a strip: 16 KiB of a panel.
const STRIP: usize = 64;

/// The most rows in a tile.
const TILE: usize = 6;

/// Whether a matrix `[rows, k]` lies column by column, as [`product`] is made for.
pub(super) fn is_transposed(layout: &Layout) -> bool {
    match (&layout.shape()[..], layout.strides()) {
        (&[rows, k], &[1, stride]) => rows > 1 && k > 1 && stride >= rows,
        _ => false,
    }
}

/// `x [m, k] · wᵀ` for `w [n, k]`, to the `m · n` elements of `out`. In pairs of bf16 if `w` is bf16 and the machine
/// has their product, else in f32.
pub(super) fn product(
    cx: &Context,
    op: &'static str,
    [x, w]: [CpuStorage; 2],
    bias: Option<&[f32]>,
    out: &mut [f32],
) -> Result<()> {
    #[cfg(target_arch = "x86_64")]
    if w.dtype() == DType::BF16
        && let Some(multiplier) = Multiplier::pairs(cx.isa)
    {
        return of_words::<Bf16Pairs>(cx, op, multiplier, [x, w], bias, out);
    }
    of_words::<Widened<f32>>(cx, op, Multiplier::widened(cx.isa), [x, w], bias, out)
}

fn of_words<F: Word>(
    cx: &Context,
    op: &'static str,
    multiplier: Multiplier<F>,
    operands: [CpuStorage; 2],
    bias: Option<&[f32]>,
    out: &mut [f32],
) -> Result<()> {
    let [x, w] = operands;
    let ([m, _], [n, _]) = (rows_and_columns(x.layout()), rows_and_columns(w.layout()));
    if bias.is_none() && n <= PANEL / 2 && m > n && is_transposed(x.layout()) {
        // Most of a panel of so few columns would be empty. The transpose has the same bits.
        let mut across = cx.buffer::<f32>(n * m, Contents::Anything)?;
        let across = elements_mut::<f32>(&mut across);
        of_words::<F>(cx, op, multiplier, [w, x], None, across)?;
        for (row, out) in out.chunks_exact_mut(n.max(1)).enumerate() {
            out.iter_mut().zip(across.iter().skip(row).step_by(m)).for_each(|(out, value)| *out = *value);
        }
        return Ok(());
    }
    let k = rows_and_columns(x.layout())[1];
    let steps = k.div_ceil(F::Factor::DEPTH);
    let first = First::new::<F>(cx, x)?;
    let second = Panels::pack::<F>(cx, w)?;
    let start = if bias.is_none() { Start::Zero } else { Start::There };
    let kernel = Gemm { multiplier, first: &first, second: second.words(), steps, n, start };
    kernel.check(m);
    Product { m, n, k, bias }.run(cx, op, out, &kernel)
}

/// A matrix's sizes; leading axes count as rows.
fn rows_and_columns(layout: &Layout) -> [usize; 2] {
    match layout.shape().split_last() {
        Some((&columns, rows)) => [rows.iter().product(), columns],
        None => [1, 1],
    }
}

/// A product of packed operands.
struct Gemm<'a, F: Word> {
    multiplier: Multiplier<F>,
    first: &'a First,
    second: &'a [u32],
    /// Words of a row.
    steps: usize,
    n: usize,
    start: Start,
}

impl<F: Word> Gemm<'_, F> {
    /// The bounds that the kernel relies on.
    fn check(&self, m: usize) {
        let Gemm { first, second, steps, n, .. } = self;
        assert!(first.words().len() >= first.words_needed(m, *steps), "the first operand is shorter than its shape");
        assert!(second.len() >= n.next_multiple_of(PANEL) * steps, "the second operand is shorter than its shape");
    }
}

impl<F: Word> PanelKernel for Gemm<'_, F> {
    fn panel_bytes(&self) -> usize {
        self.steps * PANEL * size_of::<u32>()
    }

    fn start(&self) -> Start {
        // Without steps there is no sum to begin.
        if self.steps == 0 { Start::There } else { self.start }
    }

    unsafe fn panel(&self, panel: usize, rows: Range<usize>, columns: usize, out: *mut f32) {
        self.multiplier.dispatch(Block { gemm: self, panel, rows, columns, out });
    }
}

/// The products of some rows with one panel. Made only by [`PanelKernel::panel`], whose caller vouches for `out`.
struct Block<'a, F: Word> {
    gemm: &'a Gemm<'a, F>,
    panel: usize,
    rows: Range<usize>,
    columns: usize,
    out: *mut f32,
}

impl<F: Word> ProductKernel<F> for Block<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<P: Products<F>>(self) {
        let Gemm { first, second, steps, n, .. } = *self.gemm;
        let group = WIDTH * P::LANES;
        for strip in (0..steps).step_by(STRIP) {
            let length = STRIP.min(steps - strip);
            // A tile's rows are of one panel of the first operand.
            let mut start = self.rows.start;
            while start < self.rows.end {
                let end = (start / PANEL * PANEL + PANEL).min(self.rows.end);
                for tile in tiles(end - start, P::Floats::TILE_ROWS.min(TILE)) {
                    let row = start + tile.start;
                    for column in (0..self.columns).step_by(group) {
                        // SAFETY: rows, columns and steps lie inside the operands, whose lengths were checked, and
                        // inside `out`, for which the caller vouches.
                        unsafe {
                            let part = Part {
                                first: first.words().as_ptr().add(first.at(row, strip, steps)),
                                apart: first.apart(steps),
                                second: second.as_ptr().add((self.panel * steps + strip) * PANEL + column),
                                length,
                                out: self.out.add((row - self.rows.start) * n + column),
                                out_stride: n,
                                columns: group.min(self.columns - column),
                                start: if strip == 0 { self.gemm.start } else { Start::There },
                            };
                            match tile.len() {
                                1 => part.compute::<F, P, 1>(),
                                2 => part.compute::<F, P, 2>(),
                                3 => part.compute::<F, P, 3>(),
                                4 => part.compute::<F, P, 4>(),
                                5 => part.compute::<F, P, 5>(),
                                // No tile has more rows than `TILE`.
                                _ => part.compute::<F, P, 6>(),
                            }
                        }
                    }
                }
                start = end;
            }
        }
    }
}

/// Vectors across a tile.
const WIDTH: usize = 4;

/// The most columns of a tile.
const WIDEST: usize = PANEL;

/// A strip of a tile.
struct Part {
    first: *const u32,
    /// Words from one row of the first operand to the next, and from one step to the next.
    apart: [usize; 2],
    second: *const u32,
    length: usize,
    out: *mut f32,
    out_stride: usize,
    /// Those that are wanted, of [`WIDTH`] vectors.
    columns: usize,
    start: Start,
}

impl Part {
    /// Adds the products of `R` rows, by way of a copy where the tile reaches past the last column.
    #[inline(always)]
    unsafe fn compute<F: Word, P: Products<F>, const R: usize>(&self) {
        // SAFETY: the caller's pointers hold as many rows, steps and columns as it says.
        unsafe {
            if self.columns == WIDTH * P::LANES {
                self.add::<F, P, R>(self.out, self.out_stride);
                return;
            }
            let mut spare = [[0.0f32; WIDEST]; R];
            if self.start == Start::There {
                for (r, spare) in spare.iter_mut().enumerate() {
                    self.out.add(r * self.out_stride).copy_to_nonoverlapping(spare.as_mut_ptr(), self.columns);
                }
            }
            self.add::<F, P, R>(spare.as_mut_ptr().cast(), WIDEST);
            for (r, spare) in spare.iter().enumerate() {
                spare.as_ptr().copy_to_nonoverlapping(self.out.add(r * self.out_stride), self.columns);
            }
        }
    }

    /// Adds the products of `R` rows to rows of `out`.
    #[inline(always)]
    unsafe fn add<F: Word, P: Products<F>, const R: usize>(&self, out: *mut f32, stride: usize) {
        let [row, step] = self.apart;
        // SAFETY: as above.
        unsafe {
            let mut sums = [[P::zero(); WIDTH]; R];
            if self.start == Start::There {
                for (r, sums) in sums.iter_mut().enumerate() {
                    for (c, sum) in sums.iter_mut().enumerate() {
                        *sum = P::load_sums(out.add(r * stride + c * P::LANES));
                    }
                }
            }
            for s in 0..self.length {
                let second = self.second.add(s * PANEL);
                let second: [P::Vector; WIDTH] = std::array::from_fn(|c| P::load(second.add(c * P::LANES).cast()));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let first = P::splat(self.first.add(r * row + s * step).cast());
                    for (sum, second) in sums.iter_mut().zip(second) {
                        *sum = P::mul_add(first, second, *sum);
                    }
                }
            }
            for (r, sums) in sums.into_iter().enumerate() {
                for (c, sum) in sums.into_iter().enumerate() {
                    P::store_sums(out.add(r * stride + c * P::LANES), sum);
                }
            }
        }
    }
}
