// SPDX-License-Identifier: EUPL-1.2
//! Many rows by the tiles of AMX.
//!
//! The tiles give the integer sums of each group; vectors make floats of them as everywhere else, in the same order,
//! so that the bits are the same. The two take turns: interleaved, they took as long as one after the other, or longer,
//! as if vectors had but one of their two ports while tiles are at work.

use std::cell::RefCell;
use std::ops::Range;

use ingle_tensor::{GroupForm, Offsets};

use super::rounding::Rounded;
use super::{Ahead, Groups, Part, STRIP_MEMORY, Start, Strip};
use crate::packed::PANEL;
use crate::packed::groups::{BLOCK, GroupPanels};
use crate::simd::tiles::quads::{COLUMNS, Configured, GroupProducts, GroupSums};
use crate::simd::tiles::{Matrix, SIDE};
use crate::simd::{Isa, Kernel, Simd};

/// Groups below this size leave so little to each product that the dot product of quads is as fast: sums are moved for
/// most of the time.
const SMALLEST_GROUP: usize = 32;

/// Rows whose sums are scaled together: with all columns that a tile's rows meet at a time, as many as registers hold.
const TOGETHER: usize = 8;

/// Vectors across.
const WIDTH: usize = 2;

/// The most rows in a unit of work. More are a little slower: their part of `x` and of the outputs leaves less of the
/// caches to the sums.
const ROWS: usize = 128;

/// The integer sums of a tile's rows with some columns, for each group of a block, and room for a group before, as
/// [`Configured::multiply`] wants it.
#[repr(align(64))]
struct Sums([GroupSums; 1 + BLOCK / SMALLEST_GROUP]);

impl Sums {
    const EMPTY: Sums = Sums([[[0; COLUMNS]; SIDE]; 1 + BLOCK / SMALLEST_GROUP]);
}

thread_local! {
    /// Each thread's own, so that it is not cleared for every panel.
    static SUMS: RefCell<Box<Sums>> = RefCell::new(Box::new(Sums::EMPTY));
}

/// The most rows in a unit of work, if tiles are faster for so many rows of a form.
pub(super) fn rows(rows: usize, form: GroupForm, isa: Isa) -> Option<usize> {
    // Fewer rows do not make up for quants that are laid out in memory first.
    let least = match form {
        GroupForm { group_size: 64.., bits: ..8, .. } => 12,
        GroupForm { group_size: SMALLEST_GROUP.., .. } => 32,
        _ => return None,
    };
    (isa == Isa::Amx && rows >= least).then_some(ROWS)
}

impl Groups<'_> {
    /// [`super::PanelKernel::panel`] by tiles.
    ///
    /// # Safety
    /// As there; the machine has tiles.
    pub(super) unsafe fn tiled(&self, panel: usize, rows: Range<usize>, columns: usize, out: *mut f32) {
        STRIP_MEMORY.with_borrow_mut(|strip| {
            SUMS.with_borrow_mut(|sums| {
                let panel = Panel { product: self, strip, sums, panel, rows, columns, out };
                // SAFETY: the caller's promise.
                unsafe { self.isa.dispatch_tiles(panel) }
            });
        });
    }
}

/// A panel and the rows that meet it. Made only with an `out` that holds its outputs, on a machine with tiles.
struct Panel<'a> {
    product: &'a Groups<'a>,
    strip: &'a mut Strip,
    sums: &'a mut Sums,
    panel: usize,
    rows: Range<usize>,
    columns: usize,
    out: *mut f32,
}

impl Kernel for Panel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let GroupForm { offsets, zero, .. } = self.product.panels.form;
        match (offsets, zero) {
            (Offsets::PerGroup, 0) => self.strips::<S, true, false>(),
            (Offsets::PerGroup, _) => self.strips::<S, true, true>(),
            (Offsets::None, 0) => self.strips::<S, false, false>(),
            (Offsets::None, _) => self.strips::<S, false, true>(),
        }
    }
}

impl Panel<'_> {
    #[inline(always)]
    fn strips<S: Simd, const OFFSETS: bool, const SIGNED: bool>(self) {
        const { assert!(WIDTH * S::LANES == COLUMNS) };
        let Panel { product, strip, sums, panel, rows, columns, out } = self;
        let panels = &product.panels;
        let group_size = panels.form.group_size;
        let packed = &product.weight[panel * panels.panel_bytes()..][..panels.panel_bytes()];
        let halves = columns.div_ceil(COLUMNS);
        let jobs = rows.len().div_ceil(SIDE) * halves;
        // SAFETY: the machine has tiles, nothing below uses them otherwise, and groups are of 16, 32, 64 or 128.
        let mut tiles = unsafe { Configured::new(rows.len().min(SIDE), group_size) };
        for (at, block) in panels.blocks().enumerate() {
            let packed = &packed[block.start..][..block.bytes];
            strip.read_scales::<S>(panels, block, packed);
            strip.unpack_signed::<S>(panels, block.len, &packed[block.header..]);
            let first = at * BLOCK / group_size;
            let ahead = &Ahead::new(packed.as_ptr_range().end, block.bytes, jobs * SIDE / TOGETHER * block.groups);
            let strip = &*strip;
            for job in 0..jobs {
                let (row, column) = (job / halves * SIDE, job % halves * COLUMNS);
                let part = Part {
                    product,
                    strip,
                    packed: &packed[block.header..],
                    ahead,
                    first: rows.start + row,
                    groups: first..first + block.groups,
                    columns,
                    start: if at == 0 { product.start } else { Start::There },
                    // SAFETY: the tile lies inside the outputs that the panel holds.
                    out: unsafe { out.add(row * product.n) },
                };
                let mut job = Job { part, rows: SIDE.min(rows.len() - row), column, sums };
                tiles.set_rows(job.rows);
                // SAFETY: below `dispatch_tiles`, which has what either takes; the tiles are configured for the rows.
                unsafe {
                    job.multiply::<SIGNED>(&tiles);
                    job.add_all::<S, OFFSETS>();
                }
            }
        }
    }
}

/// The rows of a tile, some columns, and a block's groups.
struct Job<'a> {
    part: Part<'a>,
    rows: usize,
    column: usize,
    sums: &'a mut Sums,
}

impl Job<'_> {
    /// Computes the integer sums.
    #[inline(always)]
    unsafe fn multiply<const SIGNED: bool>(&mut self, tiles: &Configured) {
        let Job { part, column, sums, .. } = self;
        // SAFETY: the rows and groups lie inside the buffers, the columns inside the strip, the sums inside their room.
        unsafe {
            tiles.multiply::<SIGNED>(GroupProducts {
                first: Matrix {
                    at: part.product.rows.from(part.first, part.groups.start).quants,
                    stride: part.product.rows.k,
                },
                second: part.strip.quants.as_ptr().add(4 * *column),
                groups: part.groups.len(),
                group_size: part.product.panels.form.group_size,
                sums: sums.0.as_mut_ptr().add(1),
            });
        }
    }

    /// Scales the sums and adds them up.
    #[inline(always)]
    unsafe fn add_all<S: Simd, const OFFSETS: bool>(&self) {
        let mut row = 0;
        while row < self.rows {
            // SAFETY: the caller's promise.
            row += unsafe {
                match self.rows - row {
                    TOGETHER.. => self.add::<S, OFFSETS, TOGETHER>(row),
                    4.. => self.add::<S, OFFSETS, 4>(row),
                    2.. => self.add::<S, OFFSETS, 2>(row),
                    _ => self.add::<S, OFFSETS, 1>(row),
                }
            };
        }
    }

    /// In the order of [`Part::product`]. Returns how many rows it took.
    #[inline(always)]
    unsafe fn add<S: Simd, const OFFSETS: bool, const R: usize>(&self, row: usize) -> usize {
        let Job { part, column, sums, .. } = self;
        let (column, rows) = (*column, part.product.rows);
        // SAFETY: the rows and groups lie inside the buffers, the registers inside the strip and the sums.
        unsafe {
            let Rounded { scales, sums: x_sums, .. } = rows.from(part.first + row, part.groups.start);
            let sums = sums.0.as_ptr().add(1).cast::<i32>().add(row * COLUMNS);
            // Loops instead of `array::from_fn`, through which the compiler keeps arrays in memory.
            let mut totals = [[S::splat(0.0); WIDTH]; R];
            for group in 0..part.groups.len() {
                part.ahead.step::<S>();
                for c in 0..WIDTH {
                    let place = group * PANEL + column + c * S::LANES;
                    let scale = S::load(part.strip.scales.as_ptr().add(place));
                    for (r, totals) in totals.iter_mut().enumerate() {
                        let sum = sums.add((group * SIDE + r) * COLUMNS + c * S::LANES);
                        let value = S::mul(S::load_integers(sum), scale);
                        totals[c] = S::mul_add(value, S::splat(*scales.add(r * rows.groups + group)), totals[c]);
                    }
                    if OFFSETS {
                        let offset = S::load(part.strip.offsets.as_ptr().add(place));
                        for (r, totals) in totals.iter_mut().enumerate() {
                            let sum = S::splat(*x_sums.add(r * rows.groups + group));
                            totals[c] = S::mul_add(offset, sum, totals[c]);
                        }
                    }
                }
            }
            // Decided once: most panels are whole.
            let whole = column + COLUMNS <= part.columns;
            for (r, totals) in totals.into_iter().enumerate() {
                for (c, total) in totals.into_iter().enumerate() {
                    let place = column + c * S::LANES;
                    let to = part.out.wrapping_add((row + r) * part.product.n + place);
                    match part.start {
                        Start::Zero if whole => S::store(to, total),
                        Start::There if whole => S::store(to, S::add(S::load(to), total)),
                        _ => part.add::<S>(row + r, place, total),
                    }
                }
            }
        }
        R
    }
}

impl Strip {
    /// Unpacks the quants of a block, less what stands for zero: signed bytes, where that is not 0.
    #[inline(always)]
    fn unpack_signed<S: Simd>(&mut self, panels: &GroupPanels, len: usize, packed: &[u8]) {
        let GroupForm { bits, zero, .. } = panels.form;
        let len_bytes = len * PANEL;
        if bits == 8 {
            for (quant, packed) in self.quants[..len_bytes].iter_mut().zip(&packed[..len_bytes]) {
                *quant = packed.wrapping_sub(zero);
            }
            return;
        }
        self.unpack::<S>(panels, 0..len, packed);
        if zero != 0 {
            for quant in &mut self.quants[..len_bytes] {
                *quant = quant.wrapping_sub(zero);
            }
        }
    }
}
