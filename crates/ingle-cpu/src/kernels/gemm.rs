// SPDX-License-Identifier: EUPL-1.2
//! Products of large matrices however they lie: those of training, whose operands come transposed.
//!
//! Both operands are packed on the way ([`operands`]), so that a tile of the result reads them from first to last:
//! a panel of the second operand's columns lies across vector registers, and each element of the first is met by all
//! of them (Goto & van de Geijn 2008). An output is summed along the inner axis in order, in one register from strip
//! to strip: its bits depend neither on the tile nor on the thread that computes it. With AMX rows stay as they are,
//! and `kernels/tiled` multiplies them, in an order that depends on neither, too.

mod operands;
#[cfg(target_arch = "x86_64")]
mod tiled;

use std::mem::MaybeUninit;
use std::ops::Range;

use ingle_tensor::{DType, Result, Spec};

use self::operands::{First, Second, Word};
#[cfg(target_arch = "x86_64")]
pub(super) use self::tiled::glu;
use super::linear::{Start, tiles};
use super::{Context, Pointer, contiguous};
use crate::layout::Layout;
use crate::number::{Float, with_float};
use crate::packed::{PANEL, panels};
#[cfg(target_arch = "x86_64")]
use crate::simd::Bf16Pairs;
use crate::simd::{Factor, Isa, Kernel, Multiplier, ProductKernel, Products, Simd, Widened};
use crate::storage::CpuStorage;

/// Steps along the inner axis in a strip: 64 KiB of a panel, which the second cache holds beside the rows that meet it.
const STRIP: usize = 256;

/// Bytes of a first operand that are turned to rows at a time: so few that they are met while a cache holds them.
const TURNED: usize = 4 << 20;

/// The most rows in a tile.
const TILE: usize = 6;

/// Whether a matrix `[rows, k]` lies column by column, as [`product`] is made for.
pub(super) fn is_transposed(layout: &Layout) -> bool {
    match (&layout.shape()[..], layout.strides()) {
        (&[rows, k], &[1, stride]) => rows > 1 && k > 1 && stride >= rows,
        _ => false,
    }
}

/// `x [m, k] · wᵀ` for `w [n, k]`, as `output` has it. In pairs of bf16 if `w` is bf16 and the machine has their
/// product, else in f32.
pub(super) fn product(
    cx: &Context,
    op: &'static str,
    [x, w]: [CpuStorage; 2],
    bias: Option<&[f32]>,
    output: &Spec,
) -> Result<CpuStorage> {
    #[cfg(target_arch = "x86_64")]
    if w.dtype() == DType::BF16
        && let Some(multiplier) = Multiplier::pairs(cx.isa)
    {
        return of_words::<Bf16Pairs>(cx, op, multiplier, [x, w], bias, output);
    }
    of_words::<Widened<f32>>(cx, op, Multiplier::widened(cx.isa), [x, w], bias, output)
}

fn of_words<F: Word>(
    cx: &Context,
    op: &'static str,
    multiplier: Multiplier<F>,
    operands: [CpuStorage; 2],
    bias: Option<&[f32]>,
    output: &Spec,
) -> Result<CpuStorage> {
    let [x, w] = operands;
    let ([m, k], [n, _]) = (rows_and_columns(x.layout()), rows_and_columns(w.layout()));
    if bias.is_none() && n <= PANEL / 2 && m > n && is_transposed(x.layout()) {
        // Most of a panel of so few columns would be empty. The transpose has the same bits.
        let across = of_words::<F>(cx, op, multiplier, [w, x], None, &Spec::new([n, m], output.dtype))?;
        let across = across.view(Layout::contiguous(&[n, m].into()).permute(&[1, 0]));
        let turned = contiguous(cx, across)?;
        return Ok(turned.view(Layout::contiguous(&output.shape)));
    }
    let steps = k.div_ceil(F::Factor::DEPTH);
    let tiled = multiplies_tiles::<F>(cx.isa);
    let (x, together) = if tiled && is_transposed(x.layout()) && x.packing().is_none() {
        let together = (TURNED / (steps * size_of::<u32>()).max(1)).max(1).next_multiple_of(ROWS);
        (x.rounded(cx)?.unwrap_or(x), together)
    } else {
        (x, m)
    };
    let second = Second::new::<F>(cx, w, m)?;
    let mut x = Some(x);
    with_float!(op, output.dtype, T => cx.make::<T>(&output.shape, |out| {
        if out.is_empty() {
            return Ok(());
        }
        for (number, out) in out.chunks_mut(together * n).enumerate() {
            let (from, rows) = (number * together, out.len() / n);
            // Where it is needed once, it may go once it is packed.
            let own = match &mut x {
                whole if rows == m => whole.take(),
                some => some.as_ref().map(|x| x.clone().view(x.layout().slice(0, from, 1, rows))),
            };
            let Some(own) = own else { return Ok(()) };
            let first = First::new::<F>(cx, own, tiled)?;
            let gemm = Gemm { multiplier, first: &first, second: &second, steps, n, bias };
            gemm.check(rows);
            gemm.run(cx, op, rows, out)?;
        }
        Ok(())
    }))
}

/// Whether the instruction set has products of whole tiles of such words.
fn multiplies_tiles<F: Word>(isa: Isa) -> bool {
    isa == Isa::Amx && F::Factor::DEPTH == 2
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
    second: &'a Second,
    /// Words of a row.
    steps: usize,
    n: usize,
    /// What each column's sums begin with.
    bias: Option<&'a [f32]>,
}

/// The most rows whose products with a panel are summed before they are rounded and written.
pub(super) const ROWS: usize = 256;

/// Units of work that a thread takes, about: enough for the threads to end together.
pub(super) const UNITS: usize = 16;

/// Room for the sums of some rows with a panel, which stay in the second cache meanwhile.
#[repr(align(64))]
struct Spare {
    _sums: [[f32; PANEL]; ROWS],
}

/// The bounds that kernels rely on: there are `m` rows and `n` columns of so many steps.
fn check(first: &First, second: &Second, [m, n]: [usize; 2], steps: usize) {
    assert!(first.words().len() >= first.words_needed(m, steps), "the first operand is shorter than its shape");
    assert!(second.words().len() >= second.words_needed(n, steps), "the second operand is shorter than its shape");
}

impl<F: Word> Gemm<'_, F> {
    /// The bounds that the kernel relies on.
    fn check(&self, m: usize) {
        let Gemm { first, second, steps, n, bias, .. } = *self;
        check(first, second, [m, n], steps);
        assert!(bias.is_none_or(|bias| bias.len() == n), "the bias is not as long as its shape");
    }

    /// Computes into `out [m, n]`, row-major. The units of some rows follow each other, so that the rows stay in the
    /// second cache.
    fn run<T: Float>(&self, cx: &Context, op: &'static str, m: usize, out: &mut [T]) -> Result<()> {
        let (n, k) = (self.n, self.steps * F::Factor::DEPTH);
        if out.is_empty() {
            return Ok(());
        }
        #[cfg(target_arch = "x86_64")]
        if multiplies_tiles::<F>(cx.isa) {
            return self.run_tiles(cx, op, m, out);
        }
        let panels = panels(n);
        let blocks = m.div_ceil(ROWS);
        let rows = m.div_ceil(blocks);
        let together = (panels * blocks / (UNITS * cx.pool.threads())).clamp(1, panels);
        let chunks = panels.div_ceil(together);
        let to = Pointer(out.as_mut_ptr());
        cx.parallel(op, (blocks * chunks, m.saturating_mul(n).saturating_mul(k)), |unit| {
            let (block, chunk) = (unit / chunks, unit % chunks);
            let rows = block * rows..((block + 1) * rows).min(m);
            let mut spare = MaybeUninit::<Spare>::uninit();
            for panel in chunk * panels / chunks..(chunk + 1) * panels / chunks {
                let columns = panel * PANEL..(panel * PANEL + PANEL).min(n);
                // SAFETY: the rows and columns of a unit lie inside `out` and belong to no other unit.
                let to = Pointer(unsafe { to.get().add(rows.start * n + columns.start) });
                if T::DTYPE == DType::F32 && columns.len() == PANEL && self.begins_and_ends_at_once() {
                    let sums = Sums { to: to.get().cast(), stride: n };
                    self.multiply(Block { gemm: self, panel, rows: rows.clone(), columns: PANEL, sums });
                    continue;
                }
                let sums = spare.as_mut_ptr().cast::<f32>();
                // SAFETY: a block has no more rows than there is room for. What is read of it has been written: rows
                // are begun here, or else by the kernel.
                unsafe {
                    for row in 0..rows.len() {
                        let sums = sums.add(row * PANEL);
                        match self.bias {
                            Some(bias) => {
                                sums.write_bytes(0, PANEL);
                                bias[columns.clone()].as_ptr().copy_to_nonoverlapping(sums, columns.len());
                            }
                            None if self.steps == 0 => sums.write_bytes(0, PANEL),
                            None => break,
                        }
                    }
                }
                let there = Sums { to: sums, stride: PANEL };
                let columns = columns.len();
                self.multiply(Block { gemm: self, panel, rows: rows.clone(), columns, sums: there });
                cx.isa.dispatch(Write { sums: there, rows: rows.len(), columns, to, stride: n });
            }
        })
    }

    fn multiply(&self, block: Block<'_, F>) {
        self.multiplier.dispatch(block);
    }

    /// Whether sums are never read back.
    fn begins_and_ends_at_once(&self) -> bool {
        self.bias.is_none() && (1..=STRIP).contains(&self.steps)
    }
}

/// Rounds the sums of some rows. Made only by [`Gemm::run`] and `Gemm::run_tiles`, which vouch for what it reads and where
/// it writes.
struct Write<T> {
    sums: Sums,
    rows: usize,
    columns: usize,
    to: Pointer<T>,
    /// Elements from one row to the next.
    stride: usize,
}

impl<T: Float> Kernel for Write<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        for row in 0..self.rows {
            // SAFETY: the maker's promise.
            let (sums, to) = unsafe {
                let sums = std::slice::from_raw_parts(self.sums.to.add(row * self.sums.stride), self.columns);
                (sums, std::slice::from_raw_parts_mut(self.to.get().add(row * self.stride), self.columns))
            };
            match (<&[f32; PANEL]>::try_from(sums), <&mut [T; PANEL]>::try_from(&mut *to)) {
                (Ok(sums), Ok(to)) => T::narrow_all(sums, to),
                _ => T::narrow_all(sums, to),
            }
        }
    }
}

/// Where the sums of some rows with a panel are.
#[derive(Clone, Copy)]
struct Sums {
    to: *mut f32,
    /// From one row to the next.
    stride: usize,
}

/// The products of some rows with one panel. Made only by [`Gemm::run`], which vouches for `sums`.
struct Block<'a, F: Word> {
    gemm: &'a Gemm<'a, F>,
    panel: usize,
    rows: Range<usize>,
    /// Those that are wanted.
    columns: usize,
    sums: Sums,
}

impl<F: Word> ProductKernel<F> for Block<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<P: Products<F>>(self) {
        let Gemm { first, second, steps, bias, .. } = *self.gemm;
        let (firsts, seconds) = (first.words(), second.words());
        let (apart, [second_step, second_panel]) = (first.apart(steps), second.apart(steps));
        let begin = if bias.is_none() { Start::Zero } else { Start::There };
        for strip in (0..steps).step_by(STRIP) {
            let length = STRIP.min(steps - strip);
            let start = if strip == 0 { begin } else { Start::There };
            let mut row = self.rows.start;
            while row < self.rows.end {
                let end = first.together(row).min(self.rows.end);
                for tile in tiles(end - row, P::Floats::TILE_ROWS.min(TILE)) {
                    let row = row + tile.start;
                    for column in (0..self.columns).step_by(WIDTH * P::LANES) {
                        // SAFETY: rows, columns and steps lie inside the operands, whose lengths were checked, and
                        // inside the sums; a panel is a multiple of a tile's columns.
                        unsafe {
                            let Sums { to, stride } = self.sums;
                            let second = self.panel * second_panel + strip * second_step + column;
                            let part = Part {
                                first: firsts.as_ptr().add(first.at(row, strip, steps)),
                                apart,
                                second: seconds.as_ptr().add(second),
                                second_apart: second_step,
                                length,
                                sums: Sums { to: to.add((row - self.rows.start) * stride + column), stride },
                                start,
                            };
                            if self.columns - column <= P::LANES {
                                part.add_rows::<F, P, 1>(tile.len());
                            } else {
                                part.add_rows::<F, P, WIDTH>(tile.len());
                            }
                        }
                    }
                }
                row = end;
            }
        }
    }
}

/// Vectors across a tile.
const WIDTH: usize = 4;

/// A strip of a tile.
struct Part {
    first: *const u32,
    /// Words from one row of the first operand to the next, and from one step to the next.
    apart: [usize; 2],
    second: *const u32,
    /// Words of the second operand from one step to the next.
    second_apart: usize,
    length: usize,
    sums: Sums,
    start: Start,
}

impl Part {
    /// Adds the products of so many rows with `W` vectors to their sums.
    #[inline(always)]
    unsafe fn add_rows<F: Word, P: Products<F>, const W: usize>(&self, rows: usize) {
        // SAFETY: the caller's pointers hold as many rows, steps and columns as it says.
        unsafe {
            match rows {
                1 => self.add::<F, P, 1, W>(),
                2 => self.add::<F, P, 2, W>(),
                3 => self.add::<F, P, 3, W>(),
                4 => self.add::<F, P, 4, W>(),
                5 => self.add::<F, P, 5, W>(),
                // No tile has more rows than `TILE`.
                _ => self.add::<F, P, 6, W>(),
            }
        }
    }

    #[inline(always)]
    unsafe fn add<F: Word, P: Products<F>, const R: usize, const W: usize>(&self) {
        let [row, step] = self.apart;
        let Sums { to, stride } = self.sums;
        // SAFETY: as above.
        unsafe {
            let mut sums = [[P::zero(); W]; R];
            if self.start == Start::There {
                for (r, sums) in sums.iter_mut().enumerate() {
                    for (c, sum) in sums.iter_mut().enumerate() {
                        *sum = P::load_sums(to.add(r * stride + c * P::LANES));
                    }
                }
            }
            for s in 0..self.length {
                let second = self.second.add(s * self.second_apart);
                let second: [P::Vector; W] = std::array::from_fn(|c| P::load(second.add(c * P::LANES).cast()));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let first = P::splat(self.first.add(r * row + s * step).cast());
                    for (sum, second) in sums.iter_mut().zip(second) {
                        *sum = P::mul_add(first, second, *sum);
                    }
                }
            }
            for (r, sums) in sums.into_iter().enumerate() {
                for (c, sum) in sums.into_iter().enumerate() {
                    P::store_sums(to.add(r * stride + c * P::LANES), sum);
                }
            }
        }
    }
}
