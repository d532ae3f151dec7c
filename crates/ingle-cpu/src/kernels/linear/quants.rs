// SPDX-License-Identifier: EUPL-1.2
//! Quants of 4 and 8 bits by the tiles of AMX, as bf16 that they become on the way ([`crate::simd::tiles::quants`]).
//!
//! A weight is rounded to bf16, and so is `x`: that is less exact for weights, which integers would not round, and much
//! more for `x`. Up to 16 rows meet a weight as it comes from memory. Of more, a panel's block becomes bf16 in the first cache, and all rows
//! meet it there.

use std::cell::RefCell;
use std::ops::Range;

use half::bf16;
use ingle_tensor::{Result, Spec};

use super::{Product, Reading};
use crate::kernels::matmul::Operand;
use crate::kernels::rows::packed;
use crate::kernels::{Context, Pointer, contiguous, elements_mut};
use crate::memory::{Buffer, Contents};
use crate::number::{Float, Number, with_float};
use crate::packed::PANEL;
use crate::packed::groups::{BLOCK, GroupPanels};
use crate::packed::halves::multipliers;
use crate::simd::tiles::SIDE;
use crate::simd::tiles::quants::{Blocks, DEPTH, FewRows, Form, Many, ORDER, Recipe, TwoSteps, Unpacked, exponent};
use crate::simd::{Kernel, Simd};
use crate::storage::CpuStorage;

/// The most rows in a unit of work.
const ROWS: usize = 256;

/// Bytes that a thread takes at a time for few rows: what it asks for ahead beyond them is another's.
const SHORT: usize = 1 << 20;

/// `x` becomes 2^this times as large, so that its products with weights that are as small as [`exponent`] says are
/// normal numbers: from 2^-64 to 2^64 it has all the precision of bf16. Beyond it is infinite, and below less exact.
const X_EXPONENT: i32 = 64;

/// The product with a weight whose panels are [made for this](GroupPanels::halves).
pub(super) fn product(
    cx: &Context,
    x: CpuStorage,
    weight: &[u8],
    panels: &GroupPanels,
    product: &Product<'_>,
    output: &Spec,
) -> Result<CpuStorage> {
    let &Product { m, n, k, bias } = product;
    let x = contiguous(cx, x)?;
    let rows = with_float!("linear", x.dtype(), T => Rows::new(cx, packed::<T>(&x), [m, k]))?;
    // The bounds that the kernel relies on.
    assert_eq!(k, panels.k, "x and the weight differ in length");
    assert!(weight.len() >= n.div_ceil(PANEL) * panels.panel_bytes(), "the weight is shorter than its shape");
    let few = m <= SIDE;
    let reading = Reading {
        weight: Some(weight),
        panel_bytes: panels.panel_bytes(),
        few: SIDE,
        short: SHORT,
        rows: if few { SIDE } else { ROWS },
        together: if few { 1 } else { 2 * SIDE },
    };
    let recipe = Recipe::new(Form {
        bits: panels.form.bits,
        zero: panels.form.zero,
        offsets: panels.form.offsets == ingle_tensor::Offsets::PerGroup,
        group_size: panels.form.group_size,
    });
    let factor = f32::exp2((-exponent(panels.form.bits) - X_EXPONENT) as f32);
    let quants = Quants { rows: &rows, weight, panels, blocks: blocks(panels), recipe: &recipe, few };
    with_float!("linear", output.dtype, T => cx.make::<T>(&output.shape, |out| {
        let to = Pointer(out.as_mut_ptr());
        product.units(cx, "linear", &reading, |panels, rows| {
            WORK.with_borrow_mut(|work| {
                quants.unit(work, panels, rows.clone(), |sums, panel| {
                    let columns = panel * PANEL..(panel * PANEL + PANEL).min(n);
                    cx.isa.dispatch(Write {
                        sums,
                        multipliers: multipliers(quants.packed(panel)),
                        factor,
                        bias: bias.map(|bias| &bias[columns.clone()]),
                        columns: columns.len(),
                        // SAFETY: the rows and columns of a unit lie inside `out`.
                        to: Pointer(unsafe { to.get().add(rows.start * n + columns.start) }),
                        stride: n,
                    });
                });
            });
        })
    }))
}

/// Rows of `x` as bf16, as the tiles take them: for each step along a row the [`DEPTH`] numbers of each of the rows that
/// lie together.
struct Rows {
    memory: Buffer,
    k: usize,
    /// 16, or all that there are.
    together: usize,
}

impl Rows {
    fn new<T: Operand>(cx: &Context, x: &[T], [m, k]: [usize; 2]) -> Result<Rows> {
        let (together, rows) = if m <= SIDE { (m.max(1), m) } else { (SIDE, m.next_multiple_of(2 * SIDE)) };
        let mut memory = cx.buffer::<bf16>(rows * k, Contents::Anything)?;
        let to = Pointer(elements_mut::<bf16>(&mut memory).as_mut_ptr());
        cx.parallel("linear", (rows, rows * k), |row| {
            let first = row / together * together * k + row % together * DEPTH;
            // Rows past the last are zeros.
            let x = if row < m { &x[row * k..(row + 1) * k] } else { &[] };
            // SAFETY: the row lies inside the memory.
            let to = Pointer(unsafe { to.get().add(first) });
            cx.isa.dispatch(Turn { x, steps: k / DEPTH, to, apart: together * DEPTH });
        })?;
        Ok(Rows { memory, k, together })
    }

    /// The tile of a row that is the first of those that lie together, from a step on.
    fn tile(&self, row: usize, step: usize) -> *const u8 {
        debug_assert!(row.is_multiple_of(self.together));
        let first = row * self.k + step * self.together * DEPTH;
        self.memory.bytes().as_ptr().wrapping_add(first * size_of::<bf16>())
    }
}

/// One row, laid out in parts. Made only with room for all of them.
struct Turn<'a, T> {
    /// Empty for zeros.
    x: &'a [T],
    steps: usize,
    to: Pointer<bf16>,
    /// From one part to the next.
    apart: usize,
}

impl<T: Operand> Kernel for Turn<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Turn { x, steps, to, apart } = self;
        for step in 0..steps {
            let mut wide = [0.0; DEPTH];
            if let Some(x) = x.get(step * DEPTH..(step + 1) * DEPTH) {
                for lane in (0..DEPTH).step_by(S::LANES) {
                    // SAFETY: below `dispatch`; both hold so many, a multiple of the lanes.
                    unsafe {
                        let larger = S::splat(f32::exp2(X_EXPONENT as f32));
                        S::store(wide[lane..].as_mut_ptr(), S::mul(T::load::<S>(x[lane..].as_ptr()), larger));
                    }
                }
            }
            let mut narrow = [bf16::ZERO; DEPTH];
            bf16::narrow_all(&wide, &mut narrow);
            let mut ordered = [bf16::ZERO; DEPTH];
            for (ordered, narrow) in ordered.chunks_exact_mut(4).zip(narrow.chunks_exact(4)) {
                ordered.copy_from_slice(&ORDER.map(|i| narrow[i]));
            }
            // SAFETY: the maker's promise.
            unsafe { to.get().add(step * apart).cast::<[bf16; DEPTH]>().write(ordered) }
        }
    }
}

/// What a thread works on.
struct Work {
    two: TwoSteps,
    unpacked: Unpacked,
    sums: [[f32; PANEL]; ROWS],
}

thread_local! {
    /// Each thread's own, so that it is not cleared for every panel.
    static WORK: RefCell<Box<Work>> =
        RefCell::new(Box::new(Work { two: TwoSteps::EMPTY, unpacked: Unpacked::EMPTY, sums: [[0.0; PANEL]; ROWS] }));
}

/// A product whose bounds are checked.
struct Quants<'a> {
    rows: &'a Rows,
    weight: &'a [u8],
    panels: &'a GroupPanels,
    /// Of a panel.
    blocks: [Blocks; 2],
    recipe: &'a Recipe,
    few: bool,
}

impl Quants<'_> {
    /// Computes the sums of some rows with each panel and hands them on.
    fn unit(
        &self,
        work: &mut Work,
        panels: Range<usize>,
        rows: Range<usize>,
        done: impl Fn(&mut [[f32; PANEL]], usize),
    ) {
        if self.panels.k == 0 {
            for panel in panels {
                let sums = &mut work.sums[..rows.len()];
                sums.as_flattened_mut().fill(0.0);
                done(sums, panel);
            }
            return;
        }
        if self.few {
            let first = self.rows.tile(rows.start, 0);
            let product = FewRows { recipe: self.recipe, blocks: self.blocks, first, rows: rows.len() };
            let together = ROWS / rows.len().max(1);
            for start in panels.clone().step_by(together) {
                let count = together.min(panels.end - start);
                let packed = (self.weight[start * self.panels.panel_bytes()..].as_ptr(), count);
                // SAFETY: panels are made for this only where the instructions are there, and nothing else uses tiles
                // here. The weight holds the panels and the rows as many steps, as was checked; there is room.
                unsafe { product.multiply(packed, work.sums.as_mut_ptr().cast(), &mut work.two) };
                for panel in start..start + count {
                    let first = (panel - start) * rows.len();
                    done(&mut work.sums[first..first + rows.len()], panel);
                }
            }
            return;
        }
        // SAFETY: as above.
        let mut many = unsafe { Many::new() };
        for panel in panels {
            let mut step = 0;
            let packed = self.packed(panel);
            for block in self.panels.blocks() {
                let steps = block.len / DEPTH;
                // SAFETY: as above; no block has more steps than are unpacked at a time.
                unsafe { self.recipe.unpack(packed[block.start..].as_ptr(), steps, &mut work.unpacked) };
                for row in rows.clone().step_by(2 * SIDE) {
                    let first = [row, row + SIDE].map(|row| self.rows.tile(row, step));
                    let sums = work.sums[row - rows.start..].as_mut_ptr().cast();
                    // SAFETY: as above; rows are laid out by whole pairs of tiles.
                    unsafe { many.multiply(first, &work.unpacked, steps, (sums, step > 0)) };
                }
                step += steps;
            }
            done(&mut work.sums[..rows.len()], panel);
        }
    }

    fn packed(&self, panel: usize) -> &[u8] {
        let bytes = self.panels.panel_bytes();
        &self.weight[panel * bytes..][..bytes]
    }
}

/// A panel's blocks: those that are whole, and the last if it is not.
fn blocks(panels: &GroupPanels) -> [Blocks; 2] {
    let (mut whole, mut last) = (Blocks { count: 0, steps: 0, behind: 0 }, Blocks { count: 0, steps: 0, behind: 0 });
    let mut end = 0;
    for block in panels.blocks() {
        let kind = if block.len == BLOCK { &mut whole } else { &mut last };
        if kind.count == 0 {
            *kind = Blocks { count: 0, steps: block.len / DEPTH, behind: block.start - end };
        }
        kind.count += 1;
        end = block.start + block.bytes;
    }
    [whole, last]
}

/// Makes outputs of sums. Made only with room for them.
struct Write<'a, T> {
    sums: &'a mut [[f32; PANEL]],
    /// Of the columns.
    multipliers: &'a [bf16; PANEL],
    /// What all are multiplied by besides.
    factor: f32,
    bias: Option<&'a [f32]>,
    columns: usize,
    to: Pointer<T>,
    /// Elements from one row to the next.
    stride: usize,
}

impl<T: Float> Kernel for Write<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Write { sums, multipliers, factor, bias, columns, to, stride } = self;
        let mut wide = [0.0; PANEL];
        bf16::widen_all(multipliers, &mut wide);
        for (row, sums) in sums.iter_mut().enumerate() {
            for (sum, multiplier) in sums.iter_mut().zip(wide) {
                // The multiplier alone may be too small or too large.
                *sum = *sum * factor * multiplier;
            }
            if let Some(bias) = bias {
                for (sum, bias) in sums.iter_mut().zip(bias) {
                    *sum += bias;
                }
            }
            // SAFETY: the maker's promise.
            let to = unsafe { std::slice::from_raw_parts_mut(to.get().add(row * stride), columns) };
            match <&mut [T; PANEL]>::try_from(&mut *to) {
                Ok(to) => T::narrow_all(sums, to),
                Err(_) => T::narrow_all(&sums[..columns], to),
            }
        }
    }
}
