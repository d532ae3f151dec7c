// SPDX-License-Identifier: EUPL-1.2
//! Many rows by the tiles of AMX.
//!
//! Where groups have floats for scales, the tiles give the integer sums of each group; vectors make floats of them as
//! everywhere else, in the same order, so that the bits are the same. The two take turns: interleaved, they took as long
//! as one after the other, or longer, since vectors of 512 bits wait for one of their two ports while tiles are at work
//! (`docs/cpu.md` has the figures), and the sums of two turns leave the first cache.
//!
//! What both work on has to stay in the first cache, whose 48 KiB hold the quants of half a panel's block, a tile's rows
//! and the sums of their groups, if each lies in one piece: so the quants are laid out by halves, and rows by tiles.

mod supers;

use std::cell::RefCell;
use std::ops::Range;

use ingle_tensor::{GroupForm, Offsets};

use super::rounding::Rounded;
use super::{Ahead, Groups, Outputs, Part, STRIP_MEMORY, Start, Strip};
use crate::packed::PANEL;
use crate::packed::groups::{BLOCK, GroupPanels, SUB_BLOCK, SUB_QUANTS, Scales};
use crate::simd::tiles::SIDE;
use crate::simd::tiles::quads::{COLUMNS, Configured, GroupProducts, GroupSums};
use crate::simd::{Isa, Kernel, Simd};

/// Groups below this size leave so little to each product that the dot product of quads is as fast: sums are moved for
/// most of the time.
const SMALLEST_GROUP: usize = 32;

/// Rows whose sums are scaled together, over all groups of a block: their registers need no loop over the groups. More
/// rows are slower.
const TOGETHER: usize = 2;

/// Vectors across.
const WIDTH: usize = 2;

/// The integer sums of a tile's rows with some columns, for each group of a block, and room for a group before, as
/// [`Configured::multiply`] wants it.
#[repr(align(64))]
struct Sums([GroupSums; 1 + BLOCK / SMALLEST_GROUP]);

/// What tiles work on, of a block. The first cache holds it beside the rows that come: the quants of all columns would
/// not fit, and so each part's columns meet all rows before the next part's.
#[repr(align(64))]
struct Work {
    /// For each part of [`COLUMNS`] the steps one behind the other, signed.
    quants: [[[u8; 4 * COLUMNS]; BLOCK / 4]; PANEL / COLUMNS],
    sums: Sums,
}

impl Work {
    const EMPTY: Work = Work {
        quants: [[[0; 4 * COLUMNS]; BLOCK / 4]; PANEL / COLUMNS],
        sums: Sums([[[0; COLUMNS]; SIDE]; 1 + BLOCK / SMALLEST_GROUP]),
    };
}

thread_local! {
    /// Each thread's own, so that it is not cleared for every panel.
    static WORK: RefCell<Box<Work>> = RefCell::new(Box::new(Work::EMPTY));
}

/// Whether tiles are faster for so many rows that meet weights that are packed so.
pub(super) fn is_faster(rows: usize, panels: &GroupPanels, isa: Isa) -> bool {
    // Fewer rows do not make up for quants that are laid out in memory first.
    let least = match (panels.scales, panels.form) {
        (Scales::Super, _) => 32,
        (_, GroupForm { group_size: 64.., bits: ..8, .. }) => 12,
        (_, GroupForm { group_size: SMALLEST_GROUP.., .. }) => 32,
        _ => return false,
    };
    isa == Isa::Amx && rows >= least
}

impl Groups<'_> {
    /// [`super::PanelKernel::panel`] by tiles.
    ///
    /// # Safety
    /// As there; the machine has tiles.
    pub(super) unsafe fn tiled(&self, panel: usize, rows: Range<usize>, columns: usize, out: Outputs) {
        if self.panels.scales == Scales::Super {
            // SAFETY: the caller's promise.
            return unsafe { self.tiled_supers(panel, rows, columns, out) };
        }
        STRIP_MEMORY.with_borrow_mut(|strip| {
            WORK.with_borrow_mut(|work| {
                let panel = Panel { product: self, strip, work: work.as_mut(), panel, rows, columns, out };
                // SAFETY: the caller's promise.
                unsafe { self.isa.dispatch_tiles(panel) }
            });
        });
    }
}

/// A panel, the rows that meet it, and what tiles work on. Made only with an `out` that holds its outputs, on a machine
/// with tiles.
struct Panel<'a, W> {
    product: &'a Groups<'a>,
    strip: &'a mut Strip,
    work: &'a mut W,
    panel: usize,
    rows: Range<usize>,
    columns: usize,
    out: Outputs,
}

impl Kernel for Panel<'_, Work> {
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

impl Panel<'_, Work> {
    #[inline(always)]
    fn strips<S: Simd, const OFFSETS: bool, const SIGNED: bool>(self) {
        const { assert!(WIDTH * S::LANES == COLUMNS) };
        let Panel { product, strip, work, panel, rows, columns, out } = self;
        let panels = &product.panels;
        let group_size = panels.form.group_size;
        let packed = &product.weight[panel * panels.panel_bytes()..][..panels.panel_bytes()];
        let tiles_of_rows = rows.len().div_ceil(SIDE);
        let jobs = columns.div_ceil(COLUMNS) * tiles_of_rows;
        // SAFETY: the machine has tiles, nothing below uses them otherwise, and groups are of 16, 32, 64 or 128.
        let mut tiles = unsafe { Configured::new(rows.len().min(SIDE), group_size) };
        for (at, block) in panels.blocks().enumerate() {
            let packed = &packed[block.start..][..block.bytes];
            strip.read_scales::<S>(panels, block, packed);
            work.lay_out::<S>(strip, panels, block.len, &packed[block.header..]);
            let first = at * BLOCK / group_size;
            let ahead = &Ahead::new(packed.as_ptr_range().end, block.bytes, jobs * SIDE / TOGETHER);
            let strip = &*strip;
            for job in 0..jobs {
                let (part_of_columns, row) = (job / tiles_of_rows, job % tiles_of_rows * SIDE);
                let part = Part {
                    product,
                    strip,
                    header: &packed[..block.header],
                    packed: &packed[block.header..],
                    ahead,
                    first: rows.start + row,
                    groups: first..first + block.groups,
                    columns,
                    start: if at == 0 { product.start } else { Start::There },
                    // SAFETY: the tile lies inside the outputs that the panel holds.
                    out: unsafe { out.from(row) },
                };
                let Work { quants, sums } = &mut *work;
                let quants = quants[part_of_columns].as_flattened();
                let column = part_of_columns * COLUMNS;
                let mut job = Job { part, rows: SIDE.min(rows.len() - row), column, quants, sums };
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
    /// Those of the columns.
    quants: &'a [u8],
    sums: &'a mut Sums,
}

impl Job<'_> {
    /// Computes the integer sums.
    #[inline(always)]
    unsafe fn multiply<const SIGNED: bool>(&mut self, tiles: &Configured) {
        let Job { part, quants, sums, .. } = self;
        // SAFETY: the rows and groups lie inside the buffers, the quants are those of a block, the sums inside their room.
        unsafe {
            tiles.multiply::<SIGNED>(GroupProducts {
                first: part.product.rows.from(part.first, part.groups.start).quants,
                second: quants.as_ptr(),
                groups: part.groups.len(),
                group_size: part.product.panels.form.group_size,
                sums: sums.0.as_mut_ptr().add(1),
            });
        }
    }

    /// Scales the sums and adds them up.
    #[inline(always)]
    unsafe fn add_all<S: Simd, const OFFSETS: bool>(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            // A number that the compiler knows, as most blocks have it.
            match self.part.groups.len() {
                8 => self.add_rows::<S, OFFSETS>(8),
                4 => self.add_rows::<S, OFFSETS>(4),
                groups => self.add_rows::<S, OFFSETS>(groups),
            }
        }
    }

    #[inline(always)]
    unsafe fn add_rows<S: Simd, const OFFSETS: bool>(&self, groups: usize) {
        let mut row = 0;
        // SAFETY: the caller's promise.
        unsafe {
            while row + TOGETHER <= self.rows {
                self.add::<S, OFFSETS, TOGETHER>(row, groups);
                row += TOGETHER;
            }
            while row < self.rows {
                self.add::<S, OFFSETS, 1>(row, groups);
                row += 1;
            }
        }
    }

    /// In the order of [`Part::product`].
    #[inline(always)]
    unsafe fn add<S: Simd, const OFFSETS: bool, const R: usize>(&self, row: usize, groups: usize) {
        let Job { part, column, sums, .. } = self;
        let (column, rows) = (*column, part.product.rows);
        part.ahead.step::<S>();
        // SAFETY: the rows and groups lie inside the buffers, the registers inside the strip and the sums.
        unsafe {
            let Rounded { scales, sums: x_sums, .. } = rows.from(part.first + row, part.groups.start);
            let sums = sums.0.as_ptr().add(1).cast::<i32>().add(row * COLUMNS);
            // Loops instead of `array::from_fn`, through which the compiler keeps arrays in memory.
            let mut totals = [[S::splat(0.0); WIDTH]; R];
            for group in 0..groups {
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
                    let to = part.out.at.wrapping_add((row + r) * part.out.stride + place);
                    match part.start {
                        Start::Zero if whole => S::store(to, total),
                        Start::There if whole => S::store(to, S::add(S::load(to), total)),
                        _ => part.add::<S>(row + r, place, total),
                    }
                }
            }
        }
    }
}

impl Work {
    /// Lays out the quants of a block, less what stands for zero.
    #[inline(always)]
    fn lay_out<S: Simd>(&mut self, strip: &mut Strip, panels: &GroupPanels, len: usize, packed: &[u8]) {
        let GroupForm { bits, zero, .. } = panels.form;
        let sub_blocks = packed.chunks_exact(SUB_QUANTS * bits / 8).take(len / SUB_BLOCK);
        for (sub, packed) in sub_blocks.enumerate() {
            let quants = if bits == 8 {
                packed
            } else {
                // One after the other in the same place, which the first cache holds.
                strip.unpack::<S>(panels, 0..SUB_BLOCK, packed);
                &strip.quants[..SUB_QUANTS]
            };
            let (steps, _) = quants.as_chunks::<{ 4 * PANEL }>();
            for (part, to) in self.quants.iter_mut().enumerate() {
                let to = &mut to[sub * SUB_BLOCK / 4..][..SUB_BLOCK / 4];
                for (to, step) in to.iter_mut().zip(steps) {
                    let from = &step.as_chunks::<{ 4 * COLUMNS }>().0[part];
                    for (to, quant) in to.iter_mut().zip(from) {
                        *to = quant.wrapping_sub(zero);
                    }
                }
            }
        }
    }
}
