// SPDX-License-Identifier: EUPL-1.2
//! Quantised weights by the dot product of 8-bit integers.
//!
//! Each group of `x` that meets one scale of a row is rounded to integers ([`rounding`]). Integer sums are exact, so
//! that only the sum over the groups has an order, which is theirs. Where scales are integers with one multiplier for
//! a block, `x` is rounded block by block, and the sum of a block is an integer as well ([`supers`]).

mod joined;
mod planes;
mod rounding;
mod supers;
#[cfg(target_arch = "x86_64")]
mod tiled;

use std::cell::{Cell, RefCell};
use std::ops::Range;

use ingle_tensor::{GroupForm, Offsets};

pub(super) use self::rounding::QuantisedRows;
use self::rounding::Rounded;
use self::supers::{Codebook, Columns, Plain, Scaling, Super, may_have};

use super::{FEW, Outputs, PanelKernel, Product, ROWS, Reading, SHORT, Start, tiles};
use crate::packed::PANEL;
use crate::packed::groups::{BLOCK, Block, GroupPanels, SUB_BLOCK, SUB_QUANTS, Scales};
use crate::packed::planes::join_planes;
use crate::simd::{Isa, QuadKernel, Quads, Simd};

/// Groups in a block, at most.
const GROUPS: usize = BLOCK / 16;

/// Bytes of the scales of a block, at most: a scale and an offset of each group of 16.
const HEADER: usize = PANEL * 2 * GROUPS * size_of::<f32>();

/// Bytes of a line of the caches.
const LINE: usize = 64;

/// Bytes of a panel that one step of the dot product takes.
const STEP: usize = 4 * PANEL;

/// How far ahead weights are asked for that one row meets in order, or a few do, in bytes, into the second cache. AMD's
/// processors read as fast as memory allows only where every line is met or asked for in order.
const SOON: usize = 512;

/// The same on processors with AMX: by themselves those read ahead to the end of a page of 4 KiB only, and too few lines
/// at a time.
const FAR: usize = 4096;

/// The same, into the first cache. Without it the same loop is a quarter slower in one build than in another, as if what
/// the first cache asks for by itself depended on the addresses of instructions.
const NEAR: usize = 1024;

/// How many of `m` rows [`QuantisedRows`] has to lay together to meet weights that are packed so.
pub(super) fn rows_together(m: usize, panels: &GroupPanels, isa: Isa) -> usize {
    #[cfg(target_arch = "x86_64")]
    if tiled::is_faster(m, panels, isa) {
        return crate::simd::tiles::SIDE;
    }
    let _ = (m, panels, isa);
    1
}

/// A product of rounded rows with a packed quantised weight.
pub(super) struct Groups<'a> {
    rows: &'a QuantisedRows,
    weight: &'a [u8],
    panels: GroupPanels,
    isa: Isa,
    start: Start,
    /// Whether it is done by tiles.
    #[cfg(target_arch = "x86_64")]
    tiled: bool,
}

impl<'a> Groups<'a> {
    /// The weight is packed, of the product's `n` rows. The rows lie [together](rows_together) as it wants them.
    pub(super) fn new(
        rows: &'a QuantisedRows,
        weight: &'a [u8],
        panels: GroupPanels,
        product: &Product<'_>,
        isa: Isa,
    ) -> Self {
        let &Product { m, n, bias, .. } = product;
        // Without blocks there is no sum to begin.
        let start = if bias.is_none() && panels.k > 0 { Start::Zero } else { Start::There };
        // The bounds that the kernel relies on.
        assert_eq!(rows.k, panels.k, "x and the weight differ in length");
        assert!(weight.len() >= n.div_ceil(PANEL) * panels.panel_bytes(), "the weight is shorter than its shape");
        assert_eq!(rows.together(), rows_together(m, &panels, isa), "the rows lie otherwise");
        Groups {
            rows,
            weight,
            panels,
            isa,
            start,
            #[cfg(target_arch = "x86_64")]
            tiled: rows.together() > 1,
        }
    }
}

thread_local! {
    /// Each thread's own, so that it is not cleared for every panel.
    static STRIP_MEMORY: RefCell<Box<Strip>> = RefCell::new(Box::new(Strip::EMPTY));
}

impl PanelKernel for Groups<'_> {
    fn reading(&self) -> Reading<'_> {
        Reading {
            weight: Some(self.weight),
            panel_bytes: self.panels.panel_bytes(),
            few: FEW,
            short: SHORT,
            rows: ROWS,
            together: self.rows.together(),
            weights: 1,
        }
    }

    fn start(&self) -> Start {
        self.start
    }

    unsafe fn panel(&self, panel: usize, rows: Range<usize>, columns: usize, out: Outputs) {
        #[cfg(target_arch = "x86_64")]
        if self.tiled {
            // SAFETY: the caller's promise; only with an instruction set that has tiles does this say so.
            return unsafe { self.tiled(panel, rows, columns, out) };
        }
        STRIP_MEMORY.with_borrow_mut(|strip| {
            self.isa.dispatch_quads(Panel { product: self, strip, panel, rows, columns, out });
        });
    }
}

/// A panel and the rows that meet it. Made only with an `out` that holds its outputs.
struct Panel<'a> {
    product: &'a Groups<'a>,
    strip: &'a mut Strip,
    panel: usize,
    rows: Range<usize>,
    columns: usize,
    out: Outputs,
}

/// A block as the kernel takes it.
#[repr(C, align(64))]
struct Strip {
    quants: [u8; BLOCK * PANEL],
    scales: [f32; GROUPS * PANEL],
    offsets: [f32; GROUPS * PANEL],
    /// The scales as they are packed, aligned to a line: where they are met again and again, they would break the order in
    /// which memory is read.
    header: [u8; HEADER],
}

impl Strip {
    const EMPTY: Strip = Strip {
        quants: [0; BLOCK * PANEL],
        scales: [0.0; GROUPS * PANEL],
        offsets: [0.0; GROUPS * PANEL],
        header: [0; HEADER],
    };
}

impl QuadKernel for Panel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<Q: Quads>(self) {
        let GroupPanels { form, scales, .. } = self.product.panels;
        match (scales, form.offsets) {
            (Scales::Plain(_), Offsets::None) if form.codebook.is_some() => self.strips::<Q, Codebook>(),
            (Scales::Plain(_), Offsets::None) => self.strips::<Q, Plain<false>>(),
            (Scales::Plain(_), Offsets::PerGroup) => self.strips::<Q, Plain<true>>(),
            (Scales::Super, Offsets::None) => self.strips::<Q, Super<0>>(),
            (Scales::Super, Offsets::PerGroup) if form.group_size < SUB_BLOCK => self.strips::<Q, Super<8>>(),
            (Scales::Super, Offsets::PerGroup) => self.strips::<Q, Super<4>>(),
        }
    }
}

impl Panel<'_> {
    #[inline(always)]
    fn strips<Q: Quads, C: Scaling>(self) {
        let Panel { product, strip, panel, ref rows, columns, out } = self;
        let panels = &product.panels;
        let GroupForm { bits, group_size, .. } = panels.form;
        let packed = &product.weight[panel * panels.panel_bytes()..][..panels.panel_bytes()];
        for (at, block) in panels.blocks().enumerate() {
            let packed = &packed[block.start..][..block.bytes];
            let amx = product.isa == Isa::Amx;
            let in_order = rows.len() <= if bits == 8 && !amx { const { rows_in_order::<Q>() } } else { 1 };
            if C::SUPER || in_order {
                strip.copy_header::<Q::Floats>(&packed[..block.header], in_order && !amx);
            } else {
                strip.read_scales::<Q::Floats>(panels, block, packed);
            }
            // Few rows would wait for the unpacked quants longer than for the memory, and whole bytes need no unpacking.
            let few = bits < 8 && rows.len() <= joined::most_rows::<Q>(panels.form);
            if bits < 8 && !few {
                strip.unpack::<Q::Floats>(panels, 0..block.len, &packed[block.header..]);
            }
            let first = at * BLOCK / group_size;
            let steps = if few {
                rows.len().div_ceil(joined::TILE) * const { joined::steps::<Q>() } * block.len / SUB_BLOCK
            } else {
                rows.len().div_ceil(const { rows_of::<Q>() }) * PANEL / (2 * Q::Floats::LANES) * block.len / 4
            };
            let ahead = &Ahead::new(packed.as_ptr_range().end, block.bytes, steps);
            let strip = &*strip;
            let part = |tile: &Range<usize>| Part {
                product,
                strip,
                header: &strip.header,
                packed: &packed[block.header..],
                ahead,
                first: rows.start + tile.start,
                groups: first..first + block.groups,
                columns,
                start: if at == 0 { product.start } else { Start::There },
                // SAFETY: the tile lies inside the outputs that the panel holds.
                out: unsafe { out.from(tile.start) },
            };
            if few {
                for tile in tiles(rows.len(), joined::TILE) {
                    match tile.len() {
                        1 => part(&tile).planes::<Q, C>(),
                        rows if const { !C::CODEBOOK } => part(&tile).joined::<Q, C>(rows),
                        // Of a codebook one row is few.
                        _ => {}
                    }
                }
                continue;
            }
            for tile in tiles(rows.len(), const { rows_of::<Q>() }) {
                match tile.len() {
                    // One row of fewer bits goes by planes.
                    1 if const { !may_have::<C>(8) } || bits < 8 => {}
                    1 if amx && const { Q::Floats::LANES == 16 } => part(&tile).columns::<Q, BytesAhead, C, 1, 4>(),
                    1 if const { all_columns::<Q>() == 8 } => part(&tile).columns::<Q, BytesInOrder, C, 1, 8>(),
                    1 => part(&tile).columns::<Q, BytesInOrder, C, 1, 4>(),
                    2 if const { may_have::<C>(8) && rows_in_order::<Q>() > 1 } && in_order => {
                        part(&tile).columns::<Q, BytesInOrder, C, 2, 4>()
                    }
                    3 if const { may_have::<C>(8) && rows_in_order::<Q>() > 1 } && in_order => {
                        part(&tile).columns::<Q, BytesInOrder, C, 3, 4>()
                    }
                    rows if bits < 8 => part(&tile).tile::<Q, Unpacked, C>(rows),
                    rows if const { may_have::<C>(8) } => part(&tile).tile::<Q, Bytes, C>(rows),
                    // There are no others.
                    _ => {}
                }
            }
        }
    }
}

/// Where a tile's quants come from.
trait Quants {
    /// Whether they were unpacked from fewer than 8 bits.
    const UNPACKED: bool = false;
    /// Whether they are met in the order in which they lie, with their scales as those are packed. Otherwise the scales were
    /// read before.
    const IN_ORDER: bool = false;
    /// How far ahead they are asked for, in bytes, into the second cache; 0 if not at all.
    const FAR: usize = 0;
    /// And into the first.
    const NEAR: usize = 0;

    /// The quants of group `group` of the block, unpacked.
    fn of<S: Simd>(part: &Part<'_>, group: usize) -> *const u8;
}

/// The quants are bytes as they are packed.
struct Bytes;

impl Quants for Bytes {
    #[inline(always)]
    fn of<S: Simd>(part: &Part<'_>, group: usize) -> *const u8 {
        part.packed[group * part.product.panels.form.group_size * PANEL..].as_ptr()
    }
}

/// As [`Bytes`], of [so few rows](rows_in_order) that they wait for memory.
struct BytesInOrder;

impl Quants for BytesInOrder {
    const IN_ORDER: bool = true;
    const FAR: usize = SOON;

    #[inline(always)]
    fn of<S: Simd>(part: &Part<'_>, group: usize) -> *const u8 {
        Bytes::of::<S>(part, group)
    }
}

/// As [`BytesInOrder`], on processors with AMX.
struct BytesAhead;

impl Quants for BytesAhead {
    const IN_ORDER: bool = true;
    const FAR: usize = FAR;
    const NEAR: usize = NEAR;

    #[inline(always)]
    fn of<S: Simd>(part: &Part<'_>, group: usize) -> *const u8 {
        Bytes::of::<S>(part, group)
    }
}

/// The whole block was unpacked before.
struct Unpacked;

impl Quants for Unpacked {
    const UNPACKED: bool = true;

    #[inline(always)]
    fn of<S: Simd>(part: &Part<'_>, group: usize) -> *const u8 {
        part.strip.quants[group * part.product.panels.form.group_size * PANEL..].as_ptr()
    }
}

impl Strip {
    /// Copies the scales of a block, and asks for what comes [soon](SOON) after them.
    #[inline(always)]
    fn copy_header<S: Simd>(&mut self, header: &[u8], soon: bool) {
        // A panel's scales are whole lines, and there is room for those of the largest block.
        debug_assert!(header.len().is_multiple_of(LINE));
        let (lines, _) = header.as_chunks::<LINE>();
        let (to, _) = self.header[..header.len()].as_chunks_mut::<LINE>();
        for (from, to) in lines.iter().zip(to) {
            if soon {
                S::prefetch_far(from.as_ptr().wrapping_add(SOON));
            }
            *to = *from;
        }
    }

    /// Reads the scales of a block.
    #[inline(always)]
    fn read_scales<S: Simd>(&mut self, panels: &GroupPanels, block: Block, packed: &[u8]) {
        // SAFETY: below `dispatch`; there is room for the groups of the largest block.
        unsafe {
            let (scales, offsets) = (self.scales.as_mut_ptr(), self.offsets.as_mut_ptr());
            panels.read_scales::<S>(block.groups, packed.as_ptr(), scales, offsets);
        }
    }

    /// Unpacks the quants of some columns of a block, whole sub-blocks, from all of the block's.
    #[inline(always)]
    fn unpack<S: Simd>(&mut self, panels: &GroupPanels, columns: Range<usize>, packed: &[u8]) {
        let GroupForm { bits, codebook, .. } = panels.form;
        let quants = &mut self.quants[columns.start * PANEL..columns.end * PANEL];
        let packed = &packed[columns.start * PANEL * bits / 8..columns.end * PANEL * bits / 8];
        // SAFETY: below `dispatch`; both hold the same sub-blocks.
        unsafe {
            for sub in 0..quants.len() / SUB_QUANTS {
                let packed = packed.as_ptr().add(sub * SUB_QUANTS * bits / 8);
                join_planes::<S>(bits, packed, quants.as_mut_ptr().add(sub * SUB_QUANTS));
            }
            if let Some(codebook) = codebook {
                S::look_up(codebook, quants);
            }
        }
    }
}

/// Rows in the largest tile: integers and floats of each, two registers wide.
const fn rows_of<Q: Quads>() -> usize {
    if Q::Floats::TILE_ROWS > 3 { 6 } else { 3 }
}

/// The most rows that meet a panel of whole bytes in the order in which it lies, all columns at a time. They are bound by
/// memory; more would wait for it and for themselves in turn.
const fn rows_in_order<Q: Quads>() -> usize {
    if Q::Floats::LANES == 16 { 3 } else { 1 }
}

/// Registers across that one row meets at a time: all of a panel's columns, so that it is read in the order in which it lies.
/// AMD's processors want that; AArch64 has the registers for half of it.
const fn all_columns<Q: Quads>() -> usize {
    if cfg!(target_arch = "x86_64") { PANEL / Q::Floats::LANES } else { 4 }
}

/// The block that will be read next. Several rows take longer than the memory does: they ask for it evenly while
/// they compute with this one, into the second cache, since the first is full of this one.
struct Ahead {
    next: Cell<*const u8>,
    end: *const u8,
    /// Bytes for each step.
    stride: usize,
}

impl Ahead {
    /// `bytes` from `start` on, over `steps` steps.
    #[inline(always)]
    fn new(start: *const u8, bytes: usize, steps: usize) -> Self {
        let lines = (bytes / LINE).div_ceil(steps.max(1));
        Ahead { next: Cell::new(start), end: start.wrapping_add(bytes), stride: LINE * lines }
    }

    #[inline(always)]
    fn step<S: Simd>(&self) {
        let next = self.next.get();
        if next < self.end {
            for line in (0..self.stride).step_by(LINE) {
                S::prefetch_far(next.wrapping_add(line));
            }
            self.next.set(next.wrapping_add(self.stride));
        }
    }
}

/// A block and a tile of rows that meets it.
struct Part<'a> {
    product: &'a Groups<'a>,
    /// The block's scales, if they were read, and its quants, if they were unpacked.
    strip: &'a Strip,
    /// The block's scales as they are packed, if they were not; else anything.
    header: &'a [u8],
    /// Its quants, packed.
    packed: &'a [u8],
    ahead: &'a Ahead,
    /// The first row.
    first: usize,
    /// Groups of the rows.
    groups: Range<usize>,
    /// Outputs that are wanted.
    columns: usize,
    start: Start,
    out: Outputs,
}

impl Part<'_> {
    /// Adds the products of a tile of more than one row.
    #[inline(always)]
    fn tile<Q: Quads, B: Quants, C: Scaling>(self, rows: usize) {
        match rows {
            2 => self.columns::<Q, B, C, 2, 2>(),
            3 => self.columns::<Q, B, C, 3, 2>(),
            4 if const { rows_of::<Q>() > 3 } => self.columns::<Q, B, C, 4, 2>(),
            5 if const { rows_of::<Q>() > 3 } => self.columns::<Q, B, C, 5, 2>(),
            _ if const { rows_of::<Q>() > 3 } => self.columns::<Q, B, C, 6, 2>(),
            // No tile has more rows than the registers hold.
            _ => {}
        }
    }

    #[inline(always)]
    fn columns<Q: Quads, B: Quants, C: Scaling, const R: usize, const WIDTH: usize>(self) {
        let width = WIDTH * Q::Floats::LANES;
        let mut column = 0;
        while column < self.columns {
            // SAFETY: below `dispatch_quads`; columns past the last wanted are computed, and dropped below.
            unsafe {
                let sums = self.product::<Q, B, C, R, WIDTH>(column);
                for (r, sums) in sums.into_iter().enumerate() {
                    for (c, sum) in sums.into_iter().enumerate() {
                        self.add::<Q::Floats>(r, column + c * Q::Floats::LANES, sum);
                    }
                }
            }
            column += width;
        }
    }

    /// Adds a register of sums to the outputs of row `r`, as far as they are wanted, or begins them with it.
    #[inline(always)]
    unsafe fn add<S: Simd>(&self, r: usize, column: usize, sum: S::Vector) {
        let wanted = self.columns.saturating_sub(column);
        // SAFETY: the outputs that are wanted are there.
        unsafe {
            let to = self.out.from(r).at.add(column);
            match self.start {
                Start::Zero if wanted >= S::LANES => S::store(to, sum),
                Start::There if wanted >= S::LANES => S::store(to, S::add(S::load(to), sum)),
                _ if wanted == 0 => {}
                Start::Zero => S::store_part(to, wanted, sum),
                Start::There => S::store_part(to, wanted, S::add(S::load_part(to, wanted), sum)),
            }
        }
    }

    /// The products of `R` rows with `WIDTH` registers of columns.
    #[inline(always)]
    unsafe fn product<Q: Quads, B: Quants, C: Scaling, const R: usize, const WIDTH: usize>(
        &self,
        column: usize,
    ) -> [[<Q::Floats as Simd>::Vector; WIDTH]; R] {
        let QuantisedRows { k, groups, .. } = *self.product.rows;
        let panels = &self.product.panels;
        let group_size = panels.form.group_size;
        // SAFETY: the rows and groups lie inside the buffers, the registers inside the strip.
        unsafe {
            let Rounded { quants: mut x, scales, starts, sums, pairs, .. } =
                self.product.rows.from(self.first, self.groups.start);
            let header = panels.super_header(self.header.as_ptr());
            let numbers = panels.numbers_of(self.groups.len(), self.header.as_ptr());
            let mut totals = [[Q::Floats::splat(0.0); WIDTH]; R];
            let mut of_block = [[Q::splat(0); WIDTH]; R];
            for group in 0..self.groups.len() {
                // Loops instead of `array::from_fn`, through which the compiler keeps arrays in memory.
                let mut dots = [[Q::splat(0); WIDTH]; R];
                for (r, dots) in dots.iter_mut().enumerate() {
                    *dots = [Q::splat(*starts.add(r * groups + group)); WIDTH];
                }
                let mut weights = B::of::<Q::Floats>(self, group).add(4 * column);
                for step in 0..group_size / 4 {
                    if !B::IN_ORDER {
                        self.ahead.step::<Q::Floats>();
                    }
                    for line in (0..4 * WIDTH * Q::Floats::LANES).step_by(LINE) {
                        if B::FAR > 0 {
                            Q::Floats::prefetch_far(weights.wrapping_add(B::FAR + line));
                        }
                        if B::NEAR > 0 {
                            Q::Floats::prefetch(weights.wrapping_add(B::NEAR + line));
                        }
                    }
                    for (r, dots) in dots.iter_mut().enumerate() {
                        let x = x.add(r * k + 4 * step).cast::<i32>().read_unaligned();
                        for (c, dot) in dots.iter_mut().enumerate() {
                            let weights = Q::load(weights.add(4 * c * Q::Floats::LANES));
                            *dot = if const { B::UNPACKED && !C::CODEBOOK } {
                                Q::dot_narrow(*dot, weights, x)
                            } else {
                                Q::dot(*dot, weights, x)
                            };
                        }
                    }
                    // Wraps: after the last step it is `4 * column` bytes past the end, perhaps outside the buffer.
                    weights = weights.wrapping_add(STEP);
                }
                x = x.add(group_size);
                for c in 0..WIDTH {
                    let place = group * PANEL + column + c * Q::Floats::LANES;
                    if C::SUPER {
                        let scale = Q::load_bytes(header.scales.add(place));
                        for (r, of_block) in of_block.iter_mut().enumerate() {
                            of_block[c] = Q::add(of_block[c], Q::mul(dots[r][c], scale));
                        }
                        continue;
                    }
                    let scale = if B::IN_ORDER {
                        numbers.scale::<Q::Floats>(place)
                    } else {
                        Q::Floats::load(self.strip.scales.as_ptr().add(place))
                    };
                    for (r, totals) in totals.iter_mut().enumerate() {
                        let x_scale = Q::Floats::splat(*scales.add(r * groups + group));
                        let value = Q::Floats::mul(Q::to_floats(dots[r][c]), scale);
                        totals[c] = Q::Floats::mul_add(value, x_scale, totals[c]);
                    }
                    if C::OFFSETS {
                        let offset = if B::IN_ORDER {
                            numbers.offset::<Q::Floats>(place)
                        } else {
                            Q::Floats::load(self.strip.offsets.as_ptr().add(place))
                        };
                        for (r, totals) in totals.iter_mut().enumerate() {
                            let sum = Q::Floats::splat(*sums.add(r * groups + group));
                            totals[c] = Q::Floats::mul_add(offset, sum, totals[c]);
                        }
                    }
                }
            }
            if C::SUPER {
                for c in 0..WIDTH {
                    let columns = Columns::<Q>::new::<C>(header, column + c * Q::Floats::LANES);
                    for (r, totals) in totals.iter_mut().enumerate() {
                        totals[c] = columns.of::<C>(of_block[r][c], pairs.add(r * groups), *scales.add(r * groups));
                    }
                }
            }
            totals
        }
    }
}
