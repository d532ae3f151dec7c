// SPDX-License-Identifier: EUPL-1.2
//! Quants of 4 and 8 bits by the tiles of AMX, as bf16 that they become on the way ([`crate::simd::tiles::quants`]).
//!
//! A weight is rounded to bf16, and so is `x`: that is less exact for weights, which integers would not round, and much
//! more for `x`. Up to 16 rows meet a weight as it comes from memory. Of more, a panel's block becomes bf16 in the first
//! cache, and all rows meet it there ([`tiled`]).

use std::cell::RefCell;
use std::ops::Range;

use half::bf16;
use ingle_tensor::{Activation, Result, Spec};

use super::{Product, Reading};
use crate::ahead::prefetch;
use crate::kernels::activation::Glu;
use crate::kernels::rows::packed;
use crate::kernels::tiled::{self, Change, Rows, Weight};
use crate::kernels::{Context, Pointer, contiguous};
use crate::memory::Buffer;
use crate::number::{Float, Number, with_float};
use crate::packed::PANEL;
use crate::packed::groups::{BLOCK, GroupPanels};
use crate::packed::halves::multipliers;
use crate::simd::tiles::SIDE;
use crate::simd::tiles::many::{Columns, DEPTH, STEPS, Unpacked};
use crate::simd::tiles::quants::{Blocks, FewRows, Form, Recipe, TwoSteps, exponent, reorder};
use crate::simd::{Kernel, Simd};
use crate::storage::CpuStorage;

/// Bytes of a weight that are asked for before its products begin.
const AHEAD: usize = 4 << 10;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Bytes that a thread takes at a time for few rows: what it asks for ahead beyond them is another's.
const SHORT: usize = 1 << 20;

/// `x` becomes 2^this times as large, so that its products with weights that are as small as [`exponent`] says are
/// normal numbers: from 2^-64 to 2^64 it has all the precision of bf16. Beyond it is infinite, and below less exact.
const X_EXPONENT: i32 = 64;

/// The product with a weight whose panels are [made for this](GroupPanels::halves); or those with two, of which the first
/// are activated and multiply the second.
pub(super) fn product<const N: usize>(
    cx: &Context,
    x: CpuStorage,
    (weights, activation): ([&[u8]; N], Option<Activation>),
    panels: &GroupPanels,
    product: &Product<'_>,
    output: &Spec,
) -> Result<CpuStorage> {
    let &Product { m, n, k, bias } = product;
    debug_assert!(
        activation.is_some() == (N == 2) && (N == 1 || bias.is_none()),
        "one weight, or a gate and what it gates"
    );
    let x = contiguous(cx, x)?;
    // The bounds that the kernel relies on.
    assert_eq!(k, panels.k, "x and the weight differ in length");
    let bytes = n.div_ceil(PANEL) * panels.panel_bytes();
    assert!(weights.iter().all(|weight| weight.len() >= bytes), "the weight is shorter than its shape");
    let recipe = Recipe::new(Form {
        bits: panels.form.bits,
        zero: panels.form.zero,
        offsets: panels.form.offsets == ingle_tensor::Offsets::PerGroup,
        group_size: panels.form.group_size,
    });
    let factor = f32::exp2((-exponent(panels.form.bits) - X_EXPONENT) as f32);
    let quants = weights.map(|weight| Quants { weight, panels, blocks: blocks(panels), recipe: &recipe });
    with_float!("linear", output.dtype, T => cx.make::<T>(&output.shape, |out| {
        let to = Pointer(out.as_mut_ptr());
        let done = |sums: [&[[f32; PANEL]]; N], panel: usize, rows: Range<usize>| {
            let columns = panel * PANEL..(panel * PANEL + PANEL).min(n);
            cx.isa.dispatch(Write {
                sums,
                multipliers: quants.each_ref().map(|quants| multipliers(quants.packed(panel))),
                factor,
                bias: bias.map(|bias| &bias[columns.clone()]),
                activation,
                columns: columns.len(),
                // SAFETY: the rows and columns lie inside `out`.
                to: Pointer(unsafe { to.get().add(rows.start * n + columns.start) }),
                stride: n,
            });
        };
        if m <= SIDE {
            // Of each step all rows beside each other.
            let apart = [DEPTH, m * DEPTH];
            let rows = with_float!("linear", x.dtype(), X => {
                tiled::lay_out::<X, ForQuants>(cx, "linear", (packed::<X>(&x), k), [m, k], m, apart)
            })?;
            let reading = Reading {
                weight: weights.first().copied(),
                panel_bytes: panels.panel_bytes(),
                few: SIDE,
                short: SHORT,
                rows: SIDE,
                together: 1,
                weights: N,
            };
            return product.units(cx, "linear", &reading, |panels, _| few(&quants, &rows, m, panels, done));
        }
        let rows = with_float!("linear", x.dtype(), X => {
            Rows::changed::<X, ForQuants>(cx, "linear", packed::<X>(&x), [m, k], k)
        })?;
        let product = tiled::Product { m, n, rows: &rows, weights: quants.each_ref(), bias: None };
        // SAFETY: panels are made for this only where the instructions are there; the weights' lengths were checked.
        unsafe { product.run(cx, "linear", done) }
    }))
}

/// Rows are larger, and in the order in which quants come out.
enum ForQuants {}

impl Change for ForQuants {
    const EXPONENT: i32 = X_EXPONENT;

    #[inline(always)]
    fn reorder(four: u64) -> u64 {
        reorder(four)
    }
}

/// What a thread works on for few rows.
struct Work {
    two: TwoSteps,
    /// For each weight.
    sums: Vec<Sums>,
}

/// At the beginning of a cache line, so that no row of a tile lies in two.
#[derive(Clone)]
#[repr(C, align(64))]
struct Sums([[f32; PANEL]; FEW_SUMS]);

/// Sums for each column of a weight's panel, of one panel or of more.
const FEW_SUMS: usize = 256;

thread_local! {
    /// Each thread's own, so that it is not cleared for every panel.
    static WORK: RefCell<Box<Work>> =
        RefCell::new(Box::new(Work { two: TwoSteps::EMPTY, sums: Vec::new() }));
}

/// A product whose bounds are checked.
struct Quants<'a> {
    weight: &'a [u8],
    panels: &'a GroupPanels,
    /// Of a panel.
    blocks: [Blocks; 2],
    recipe: &'a Recipe,
}

// SAFETY: the columns are laid out in the room.
unsafe impl Weight for Quants<'_> {
    fn steps(&self) -> usize {
        self.panels.k / DEPTH
    }

    unsafe fn columns(&self, panel: usize, step: usize, count: usize, room: &mut Unpacked) -> Columns {
        const { assert!(STEPS * DEPTH == BLOCK) };
        let block = self.panels.block_at(step * DEPTH / BLOCK);
        debug_assert_eq!(count * DEPTH, block.len, "whole blocks");
        // SAFETY: the caller's promise; a block has no more steps than there is room for.
        unsafe { self.recipe.unpack(self.packed(panel)[block.start..].as_ptr(), count, room) };
        room.columns()
    }
}

/// Computes the sums of a few rows with each panel of each weight and hands them on.
fn few<const N: usize>(
    weights: &[Quants<'_>; N],
    rows: &Buffer,
    m: usize,
    panels: Range<usize>,
    done: impl Fn([&[[f32; PANEL]]; N], usize, Range<usize>),
) {
    WORK.with_borrow_mut(|work| {
        let Work { two, sums } = &mut **work;
        if sums.len() < N {
            sums.resize(N, Sums([[0.0; PANEL]; FEW_SUMS]));
        }
        let together = FEW_SUMS / m.max(1);
        for start in panels.clone().step_by(together) {
            let count = together.min(panels.end - start);
            let packed = |Quants { weight, panels, .. }: &Quants<'_>| weight[start * panels.panel_bytes()..].as_ptr();
            // The kernel asks ahead of itself; of another weight it knows nothing.
            for weight in weights.iter().skip(1) {
                (0..AHEAD).step_by(LINE).for_each(|at| prefetch(packed(weight).addr() + at));
            }
            for (weight, Sums(sums)) in weights.iter().zip(&mut *sums) {
                let Quants { panels, blocks, recipe, .. } = weight;
                if panels.k == 0 {
                    sums.as_flattened_mut().fill(0.0);
                    continue;
                }
                let product = FewRows { recipe, blocks: *blocks, first: rows.bytes().as_ptr(), rows: m };
                // SAFETY: panels are made for this only where the instructions are there, and nothing else uses tiles
                // here. The weight holds the panels and the rows as many steps, as was checked; there is room.
                unsafe { product.multiply((packed(weight), count), sums.as_mut_ptr().cast(), two) };
            }
            for panel in start..start + count {
                let first = (panel - start) * m;
                done(std::array::from_fn(|which| &sums[which].0[first..first + m]), panel, 0..m);
            }
        }
    });
}

impl Quants<'_> {
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
struct Write<'a, T, const N: usize> {
    /// With each weight.
    sums: [&'a [[f32; PANEL]]; N],
    /// Of the columns.
    multipliers: [&'a [bf16; PANEL]; N],
    /// What all are multiplied by besides.
    factor: f32,
    bias: Option<&'a [f32]>,
    /// Of the products with the first of two weights.
    activation: Option<Activation>,
    columns: usize,
    to: Pointer<T>,
    /// Elements from one row to the next.
    stride: usize,
}

impl<T: Float, const N: usize> Kernel for Write<'_, T, N> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Write { sums, multipliers, factor, bias, activation, columns, to, stride } = self;
        let mut wide = [[0.0; PANEL]; N];
        for (wide, multipliers) in wide.iter_mut().zip(multipliers) {
            bf16::widen_all(multipliers, wide);
        }
        for row in 0..sums[0].len() {
            let mut outputs = sums.map(|sums| sums[row]);
            for (output, multiplier) in outputs.as_flattened_mut().iter_mut().zip(wide.as_flattened()) {
                // The multiplier alone may be too small or too large.
                *output = *output * factor * multiplier;
            }
            if let Some(bias) = bias {
                for (output, bias) in outputs[0].iter_mut().zip(bias) {
                    *output += bias;
                }
            }
            if let (Some(activation), [gate, up, ..]) = (activation, &mut outputs[..]) {
                Glu { activation, gate, up }.run::<S>();
            }
            let [outputs, ..] = &outputs[..] else { return };
            // SAFETY: the maker's promise.
            let to = unsafe { std::slice::from_raw_parts_mut(to.get().add(row * stride), columns) };
            match <&mut [T; PANEL]>::try_from(&mut *to) {
                Ok(to) => T::narrow_all(outputs, to),
                Err(_) => T::narrow_all(&outputs[..columns], to),
            }
        }
    }
}
