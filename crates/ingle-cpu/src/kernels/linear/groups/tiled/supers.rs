// SPDX-License-Identifier: EUPL-1.2
//! Many rows by tiles, where groups have integers for scales.
//!
//! A quant times its scale is a word of 16 bits. The tiles multiply its low and its high byte, and so give the integer
//! sums of a whole block, where floats for scales would have every group's leave them.

use std::cell::RefCell;
use std::ops::Range;

use ingle_tensor::{GroupForm, Offsets};

use super::super::rounding::Rounded;
use super::super::supers::{Columns, Scaling, Super};
use super::super::{Ahead, Groups, Outputs, Part, STRIP_MEMORY, Start, Strip};
use super::Panel;
use crate::packed::PANEL;
use crate::packed::groups::{BLOCK, GroupPanels, SUB_BLOCK, SUB_QUANTS};
use crate::simd::tiles::quads::{COLUMNS, Configured};
use crate::simd::tiles::words::{WordProduct, WordSums};
use crate::simd::tiles::{ROW, SIDE};
use crate::simd::{QuadKernel, Quads, Simd};

/// The bytes of a block's words, of some columns, in steps of four of each.
type Bytes = [[u8; 4 * COLUMNS]; BLOCK / 4];

/// What tiles work on, of a block.
#[repr(align(64))]
struct Work {
    /// For each part of [`COLUMNS`] the low bytes, then the high ones.
    words: [[Bytes; 2]; PANEL / COLUMNS],
    sums: WordSums,
}

impl Work {
    const EMPTY: Work =
        Work { words: [[[[0; 4 * COLUMNS]; BLOCK / 4]; 2]; PANEL / COLUMNS], sums: [[[0; COLUMNS]; SIDE]; 2] };
}

thread_local! {
    /// Each thread's own, so that it is not cleared for every panel.
    static WORK: RefCell<Box<Work>> = RefCell::new(Box::new(Work::EMPTY));
}

impl Groups<'_> {
    /// As [`Groups::tiled`], of [`Scales::Super`](crate::packed::groups::Scales::Super).
    ///
    /// # Safety
    /// As there.
    pub(super) unsafe fn tiled_supers(&self, panel: usize, rows: Range<usize>, columns: usize, out: Outputs) {
        STRIP_MEMORY.with_borrow_mut(|strip| {
            WORK.with_borrow_mut(|work| {
                let work = work.as_mut();
                self.isa.dispatch_quads(Panel { product: self, strip, work, panel, rows, columns, out });
            });
        });
    }
}

impl QuadKernel for Panel<'_, Work> {
    type Output = ();

    #[inline(always)]
    fn run<Q: Quads>(self) {
        let GroupForm { offsets, group_size, .. } = self.product.panels.form;
        match offsets {
            Offsets::None => self.blocks::<Q, Super<0>>(),
            Offsets::PerGroup if group_size < SUB_BLOCK => self.blocks::<Q, Super<8>>(),
            Offsets::PerGroup => self.blocks::<Q, Super<4>>(),
        }
    }
}

impl Panel<'_, Work> {
    #[inline(always)]
    fn blocks<Q: Quads, C: Scaling>(self) {
        let Panel { product, strip, work, panel, rows, columns, out } = self;
        let panels = &product.panels;
        let packed = &product.weight[panel * panels.panel_bytes()..][..panels.panel_bytes()];
        let tiles_of_rows = rows.len().div_ceil(SIDE);
        let jobs = columns.div_ceil(COLUMNS) * tiles_of_rows;
        // SAFETY: the machine has tiles, and nothing below uses them otherwise.
        let mut tiles = unsafe { Configured::new(rows.len().min(SIDE), ROW) };
        for (at, block) in panels.blocks().enumerate() {
            let packed = &packed[block.start..][..block.bytes];
            let (header, quants) = packed.split_at(block.header);
            work.lay_out::<Q::Floats>(strip, panels, header, quants);
            let ahead = &Ahead::new(packed.as_ptr_range().end, block.bytes, jobs);
            for job in 0..jobs {
                let (part_of_columns, row) = (job / tiles_of_rows, job % tiles_of_rows * SIDE);
                let part = Part {
                    product,
                    strip: &*strip,
                    header,
                    packed: quants,
                    ahead,
                    first: rows.start + row,
                    groups: at * block.groups..(at + 1) * block.groups,
                    columns,
                    start: if at == 0 { product.start } else { Start::There },
                    // SAFETY: the tile lies inside the outputs that the panel holds.
                    out: unsafe { out.from(row) },
                };
                ahead.step::<Q::Floats>();
                let Work { words, sums } = &mut *work;
                let words = &words[part_of_columns];
                let mut job = Job { part, rows: SIDE.min(rows.len() - row), words, sums };
                tiles.set_rows(job.rows);
                // SAFETY: below `dispatch_quads`; the machine has tiles, which are configured for the rows.
                unsafe {
                    job.multiply(&tiles);
                    job.add_all::<Q, C>(part_of_columns * COLUMNS);
                }
            }
        }
    }
}

/// The rows of a tile, some columns, and a block.
struct Job<'a> {
    part: Part<'a>,
    rows: usize,
    /// Those of the columns.
    words: &'a [Bytes; 2],
    sums: &'a mut WordSums,
}

impl Job<'_> {
    /// Computes the integer sums.
    #[inline(always)]
    unsafe fn multiply(&mut self, tiles: &Configured) {
        let Job { part, words: [low, high], sums, .. } = self;
        // SAFETY: the rows and the block lie inside the buffers.
        unsafe {
            tiles.multiply_words(WordProduct {
                first: part.product.rows.from(part.first, part.groups.start).quants,
                low: low.as_flattened().as_ptr(),
                high: high.as_flattened().as_ptr(),
                tiles: BLOCK / ROW,
                sums: &mut **sums,
            });
        }
    }

    /// Scales the sums and adds them to the outputs from `column` on.
    #[inline(always)]
    unsafe fn add_all<Q: Quads, C: Scaling>(&self, column: usize) {
        let part = &self.part;
        // Decided once: most panels are whole.
        let whole = column + COLUMNS <= part.columns;
        // SAFETY: the caller's promise; the outputs of all columns are there if they are wanted.
        unsafe {
            match part.start {
                Start::Zero if whole => self.each::<Q, C>(column, |_, _, to, sum| Q::Floats::store(to, sum)),
                Start::There if whole => self.each::<Q, C>(column, |_, _, to, sum| {
                    Q::Floats::store(to, Q::Floats::add(Q::Floats::load(to), sum));
                }),
                _ => self.each::<Q, C>(column, |row, place, _, sum| part.add::<Q::Floats>(row, place, sum)),
            }
        }
    }

    /// Calls `put` with the row, the column, where its output is and a register of scaled sums.
    #[inline(always)]
    unsafe fn each<Q: Quads, C: Scaling>(
        &self,
        column: usize,
        put: impl Fn(usize, usize, *mut f32, <Q::Floats as Simd>::Vector),
    ) {
        let Job { part, rows, sums, .. } = self;
        let product = part.product;
        // SAFETY: the caller's promise; the rows and the block lie inside the buffers, the registers inside the sums.
        unsafe {
            let header = product.panels.super_header(part.header.as_ptr());
            for c in 0..COLUMNS / Q::Floats::LANES {
                let place = column + c * Q::Floats::LANES;
                let columns = Columns::<Q>::new::<C>(header, place);
                let Rounded { mut scales, mut pairs, .. } = product.rows.from(part.first, part.groups.start);
                let [mut low, mut high] =
                    sums.each_ref().map(|sums| sums.as_ptr().cast::<i32>().add(c * Q::Floats::LANES));
                let mut to = part.out.at.wrapping_add(place);
                for row in 0..*rows {
                    let sums = Q::add_shifted::<8>(Q::load_sums(low), Q::load_sums(high));
                    put(row, place, to, columns.of::<C>(sums, pairs, *scales));
                    (low, high) = (low.wrapping_add(COLUMNS), high.wrapping_add(COLUMNS));
                    scales = scales.wrapping_add(product.rows.groups);
                    pairs = pairs.wrapping_add(product.rows.groups);
                    to = to.wrapping_add(part.out.stride);
                }
            }
        }
    }
}

impl Work {
    /// Lays out the words of a block: its quants, less what stands for zero, times their scales.
    #[inline(always)]
    fn lay_out<S: Simd>(&mut self, strip: &mut Strip, panels: &GroupPanels, header: &[u8], packed: &[u8]) {
        let GroupForm { bits, group_size, zero, .. } = panels.form;
        let header = panels.super_header(header.as_ptr());
        for (sub, packed) in packed.chunks_exact(SUB_QUANTS * bits / 8).enumerate() {
            strip.unpack::<S>(panels, 0..SUB_BLOCK, packed);
            let (steps, _) = strip.quants[..SUB_QUANTS].as_chunks::<{ 4 * PANEL }>();
            for (part, [low, high]) in self.words.iter_mut().enumerate() {
                let mut scales = [0; COLUMNS];
                for (step, from) in steps.iter().enumerate() {
                    let place = sub * SUB_BLOCK / 4 + step;
                    if step == 0 || step * 4 == group_size {
                        let own = header.scales.wrapping_add(place * 4 / group_size * PANEL + part * COLUMNS);
                        for (lane, scale) in scales.iter_mut().enumerate() {
                            // SAFETY: the header is that of a block with this group.
                            let own = i32::from(unsafe { *own.add(lane) });
                            *scale = own & 0xffff | own << 16;
                        }
                    }
                    let from = &from.as_chunks::<{ 4 * COLUMNS }>().0[part];
                    scale_words(from, i16::from(zero), bytemuck::cast_ref(&scales), &mut low[place], &mut high[place]);
                }
            }
        }
    }
}

/// The low and the high bytes of quants, less `zero`, times the scales of two neighbours each. Two quants to a word all
/// along, which spares the processor to widen and to narrow.
#[inline(always)]
fn scale_words(
    quants: &[u8; 4 * COLUMNS],
    zero: i16,
    scales: &[i16; 2 * COLUMNS],
    low: &mut [u8; 4 * COLUMNS],
    high: &mut [u8; 4 * COLUMNS],
) {
    let quants = quants.as_chunks::<2>().0;
    let (low, high) = (low.as_chunks_mut::<2>().0, high.as_chunks_mut::<2>().0);
    for (((quants, scale), low), high) in quants.iter().zip(scales).zip(low).zip(high) {
        let quants = u16::from_le_bytes(*quants);
        let [first, second] = [quants & 0xff, quants >> 8]
            .map(|quant| quant.cast_signed().wrapping_sub(zero).wrapping_mul(*scale).cast_unsigned());
        *low = (first & 0xff | second << 8).to_le_bytes();
        *high = (first >> 8 | second & 0xff00).to_le_bytes();
    }
}
