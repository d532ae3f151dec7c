// SPDX-License-Identifier: EUPL-1.2
//! Quantised weights in panels.
//!
//! A panel is a sequence of blocks of 256 along the inner axis, the last of which may be shorter. A block starts with
//! the scales of its groups for the panel's 64 rows, then come the quants, in sub-blocks of 32 along the inner axis. A
//! sub-block's quants are ordered as the 8-bit dot product takes them: four neighbours of a row side by side, then four
//! of the panel's next row. Quants of fewer than 8 bits are cut into planes of 4, 2 and 1 bits; the numbers that share
//! a byte lie far apart in that order, so that shifts and masks of whole registers put them back into it.

use half::{bf16, f16};
use ingle_tensor::{DType, GroupForm, Offsets, Quantization, Result, SuperScales};

#[cfg(target_arch = "x86_64")]
use super::halves;
use super::planes::{quant_at, split_planes};
use super::{PANEL, Transpose, panels};
use crate::kernels::matmul::Operand;
use crate::kernels::{Context, Pieces, elements_mut};
use crate::memory::{Buffer, Contents};
use crate::number::{Number, with_float};
use crate::simd::{Kernel, Simd};
use crate::storage::CpuStorage;

/// Weights of a row in a sub-block.
pub(crate) const SUB_BLOCK: usize = 32;

/// Weights of a row in a block.
pub(crate) const BLOCK: usize = 256;

/// Quants in a sub-block of a panel.
pub(crate) const SUB_QUANTS: usize = SUB_BLOCK * PANEL;

/// How scales are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scales {
    /// For each group a scale, and perhaps an offset, of this dtype.
    Plain(DType),
    /// For each group a scale, and perhaps an offset, of one byte; f16 multipliers of either for the block. A block is
    /// always whole.
    Super,
}

/// The scales of a block as [`Scales::Super`] are packed: those of the panel's rows side by side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SuperHeader {
    /// What the scales are multiplied by.
    pub(crate) scale: *const f16,
    /// What the offsets are multiplied by and taken from the weights, where there are any.
    pub(crate) min: *const f16,
    /// Of one group after the other.
    pub(crate) scales: *const i8,
    /// Offsets of two neighbouring groups side by side, then those of the next row.
    pub(crate) mins: *const u8,
}

/// The scales of a block as [`Scales::Plain`] are packed: those of one group after the other, each of the panel's rows side by
/// side. Then come the offsets, if there are any.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers {
    header: *const u8,
    dtype: DType,
    /// Scales of the block.
    count: usize,
}

impl Numbers {
    /// A register of scales from the one at `place` on.
    ///
    /// # Safety
    /// Below `dispatch`; they are there, and aligned as their dtype is.
    #[inline(always)]
    pub(crate) unsafe fn scale<S: Simd>(&self, place: usize) -> S::Vector {
        // SAFETY: the caller's promise.
        unsafe { self.load::<S>(place) }
    }

    /// A register of offsets from the one at `place` on.
    ///
    /// # Safety
    /// As of [`Numbers::scale`].
    #[inline(always)]
    pub(crate) unsafe fn offset<S: Simd>(&self, place: usize) -> S::Vector {
        // SAFETY: the caller's promise; offsets follow the scales.
        unsafe { self.load::<S>(self.count + place) }
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(&self, at: usize) -> S::Vector {
        // SAFETY: the caller's promise.
        unsafe {
            match self.dtype {
                DType::F32 => S::load(self.header.cast::<f32>().add(at)),
                DType::F16 => S::load_f16(self.header.cast::<f16>().add(at)),
                _ => S::load_bf16(self.header.cast::<bf16>().add(at)),
            }
        }
    }
}

/// The layout of a quantised weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupPanels {
    pub(crate) form: GroupForm,
    pub(crate) scales: Scales,
    /// Columns of the weight.
    pub(crate) k: usize,
    /// Whether weights become bf16 on the way to the tiles, however many rows meet them. Scales and offsets are f16 then, as
    /// large as they can be, and a panel begins with what takes that back: see [`halves`].
    #[cfg(target_arch = "x86_64")]
    pub(crate) halves: bool,
}

/// A block of a panel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    /// Where it starts in the panel, in bytes.
    pub(crate) start: usize,
    /// Bytes of its scales.
    pub(crate) header: usize,
    /// Weights of a row.
    pub(crate) len: usize,
    /// Groups of a row.
    pub(crate) groups: usize,
    /// Bytes of all of it.
    pub(crate) bytes: usize,
}

impl Block {
    fn bytes_if_any(&self) -> usize {
        if self.len == 0 { 0 } else { self.bytes }
    }
}

impl GroupPanels {
    /// Scales and offsets of a group.
    fn numbers(&self) -> usize {
        match self.form.offsets {
            Offsets::None => 1,
            Offsets::PerGroup => 2,
        }
    }

    /// The blocks of a panel, in order.
    #[inline(always)]
    pub(crate) fn blocks(&self) -> impl Iterator<Item = Block> + use<> {
        let panels = *self;
        (0..self.k.div_ceil(BLOCK)).map(move |at| panels.block_at(at))
    }

    /// The block of this number.
    #[inline(always)]
    pub(crate) fn block_at(&self, at: usize) -> Block {
        let start = self.prefix() + at * self.block(BLOCK).bytes;
        Block { start, ..self.block(BLOCK.min(self.k - at * BLOCK)) }
    }

    /// A block of `len` weights of a row.
    #[inline(always)]
    fn block(&self, len: usize) -> Block {
        let groups = len / self.form.group_size;
        let per_row = match self.scales {
            Scales::Plain(dtype) => groups * dtype.size(),
            Scales::Super => groups + size_of::<f16>(),
        };
        let header = PANEL * self.numbers() * per_row;
        Block { start: 0, header, len, groups, bytes: header + len * PANEL * self.form.bits / 8 }
    }

    /// Groups of a whole block.
    #[inline(always)]
    fn groups_of_block(&self) -> usize {
        BLOCK / self.form.group_size
    }

    /// Where [`Scales::Plain`] are in the header of a block of so many groups.
    #[inline(always)]
    pub(crate) fn numbers_of(&self, groups: usize, header: *const u8) -> Numbers {
        let dtype = if let Scales::Plain(dtype) = self.scales { dtype } else { DType::F32 };
        Numbers { header, dtype, count: groups * PANEL }
    }

    /// Where [`Scales::Super`] are in the header of a block.
    #[inline(always)]
    pub(crate) fn super_header(&self, header: *const u8) -> SuperHeader {
        let multipliers = PANEL * size_of::<f16>();
        let scales = header.wrapping_add(self.numbers() * multipliers);
        SuperHeader {
            scale: header.cast(),
            min: header.wrapping_add(multipliers).cast(),
            scales: scales.cast(),
            mins: scales.wrapping_add(PANEL * self.groups_of_block()),
        }
    }

    /// Bytes of a panel.
    pub(crate) fn panel_bytes(&self) -> usize {
        // A last block of nothing takes nothing.
        self.prefix() + self.k / BLOCK * self.block(BLOCK).bytes + self.block(self.k % BLOCK).bytes_if_any()
    }

    /// Bytes of a panel before its first block.
    #[inline(always)]
    fn prefix(&self) -> usize {
        #[cfg(target_arch = "x86_64")]
        if self.halves {
            return halves::MULTIPLIERS;
        }
        0
    }

    /// Packs a weight `[n, k]` of the inputs that [`ingle_tensor::Op::Dequantize`] names, row-major each.
    pub(crate) fn pack(
        cx: &Context,
        inputs: &[CpuStorage],
        quantization: Quantization,
        [n, k]: [usize; 2],
    ) -> Result<(Self, Buffer)> {
        let source = Source::new(inputs, quantization, k);
        let (form, scales) = (quantization.form(), source.scales());
        let panels_of = GroupPanels {
            form,
            scales,
            k,
            #[cfg(target_arch = "x86_64")]
            halves: false,
        };
        #[cfg(target_arch = "x86_64")]
        let panels_of = match scales {
            Scales::Plain(dtype) if halves::suits(&form, dtype, cx.isa) => {
                GroupPanels { scales: Scales::Plain(DType::F16), halves: true, ..panels_of }
            }
            _ => panels_of,
        };
        let mut buffer = cx.memory.take_lasting(panels(n) * panels_of.panel_bytes(), Contents::Zeros)?;
        let work = Pieces { size: panels_of.panel_bytes().max(1), cost: 4 };
        cx.pieces("pack", elements_mut::<u8>(&mut buffer), work, |panel, out| {
            let rows = panel * PANEL..((panel + 1) * PANEL).min(n);
            cx.isa.dispatch(PackPanel { panels: &panels_of, source: &source, rows, out });
        })?;
        Ok((panels_of, buffer))
    }

    /// Row-major weights of some rows, as `dtype`.
    pub(crate) fn unpack(&self, cx: &Context, packed: &[u8], rows: &[usize], dtype: DType) -> Result<Buffer> {
        let mut buffer = cx.memory.take(rows.len() * self.k * dtype.size(), Contents::Anything)?;
        with_float!("dequantize", dtype, T => {
            let work = Pieces { size: self.k.max(1), cost: 16 };
            cx.pieces("dequantize", elements_mut::<T>(&mut buffer), work, |at, out| {
                let panel = &packed[rows[at] / PANEL * self.panel_bytes()..][..self.panel_bytes()];
                cx.isa.dispatch(UnpackRow { panels: self, panel, lane: rows[at] % PANEL, out });
            })
        })?;
        Ok(buffer)
    }

    /// The scales and offsets of a block's `groups` as f32, [`PANEL`] for each group. Offsets are left alone in a
    /// format without.
    ///
    /// # Safety
    /// Below `dispatch`; `header` is that of a block, and there is room for its groups.
    // Loops over pointers here and below: this runs for every kilobyte of weights, and what iterators cost adds up.
    #[inline(always)]
    pub(crate) unsafe fn read_scales<S: Simd>(
        &self,
        groups: usize,
        header: *const u8,
        scales: *mut f32,
        offsets: *mut f32,
    ) {
        let lanes = groups * PANEL;
        let offset_lanes = lanes * (self.numbers() - 1);
        // SAFETY: the caller's promise; the parts of a header follow each other as [`GroupPanels::block`] counts them.
        unsafe {
            match self.scales {
                Scales::Plain(dtype) => {
                    let rest = header.add(lanes * dtype.size());
                    match dtype {
                        DType::F32 => {
                            widen::<S, f32>(header.cast(), lanes, scales);
                            widen::<S, f32>(rest.cast(), offset_lanes, offsets);
                        }
                        DType::F16 => {
                            widen::<S, f16>(header.cast(), lanes, scales);
                            widen::<S, f16>(rest.cast(), offset_lanes, offsets);
                        }
                        _ => {
                            widen::<S, bf16>(header.cast(), lanes, scales);
                            widen::<S, bf16>(rest.cast(), offset_lanes, offsets);
                        }
                    }
                }
                Scales::Super => {
                    let SuperHeader { scale, min, scales: own, mins } = self.super_header(header);
                    let mut multipliers = [0.0; PANEL];
                    widen::<S, f16>(scale, PANEL, multipliers.as_mut_ptr());
                    for place in 0..lanes {
                        *scales.add(place) = multipliers[place % PANEL] * f32::from(*own.add(place));
                    }
                    if offset_lanes > 0 {
                        widen::<S, f16>(min, PANEL, multipliers.as_mut_ptr());
                    }
                    for place in 0..offset_lanes {
                        let (group, lane) = (place / PANEL, place % PANEL);
                        let own = *mins.add((group / 2 * PANEL + lane) * 2 + group % 2);
                        *offsets.add(place) = -(multipliers[lane] * f32::from(own));
                    }
                }
            }
        }
    }
}

/// `count` stored numbers as f32.
///
/// # Safety
/// Below `dispatch`; that many are there, a multiple of [`PANEL`], and room for them.
#[inline(always)]
unsafe fn widen<S: Simd, T: Operand>(from: *const T, count: usize, to: *mut f32) {
    let mut lane = 0;
    while lane < count {
        // SAFETY: the caller's promise; a panel is a whole number of vectors wide.
        unsafe { S::store(to.add(lane), T::load::<S>(from.add(lane))) }
        lane += S::LANES;
    }
}

/// One panel, to be packed. A kernel so that the loops are compiled for the instruction set.
struct PackPanel<'a> {
    panels: &'a GroupPanels,
    source: &'a Source<'a>,
    rows: std::ops::Range<usize>,
    out: &'a mut [u8],
}

/// Words of four quants in a row of a block.
const WORDS: usize = BLOCK / 4;

impl Kernel for PackPanel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let PackPanel { panels, source, rows, out } = self;
        let bytes = SUB_QUANTS * panels.form.bits / 8;
        // A block at a time, which the first cache holds. The lanes of absent rows stay zeros.
        let mut words = [0u32; PANEL * WORDS];
        let mut ordered = [0u32; PANEL * WORDS];
        for (at, block) in panels.blocks().enumerate() {
            let (header, out) = out[block.start..][..block.bytes].split_at_mut(block.header);
            let (next, next_bytes) = source.next_block(at, block.len, panels.k);
            for (lane, row) in rows.clone().enumerate() {
                let quants: &mut [u8] = bytemuck::cast_slice_mut(&mut words[lane * WORDS..][..block.len / 4]);
                let packed = source.block(row, at, block.len);
                source.quantization.unpack_quants(packed, quants);
                source.write_scales(panels, (row, lane), (at, block), header);
                // The rows are too many for the processor to see where each goes on.
                for line in (0..next_bytes + LINE).step_by(LINE) {
                    S::prefetch_far(packed.as_ptr().wrapping_add(next + line));
                }
            }
            let from = &words[..rows.len() * WORDS];
            Transpose { from, stride: WORDS, to: &mut ordered, from_memory: false }.run::<S>();
            for (quants, out) in ordered.chunks_exact(SUB_QUANTS / 4).zip(out.chunks_exact_mut(bytes)) {
                split_planes(panels.form.bits, bytemuck::cast_slice(quants), out);
            }
        }
        #[cfg(target_arch = "x86_64")]
        if panels.halves {
            // SAFETY: below `dispatch`.
            unsafe {
                match source.scales() {
                    Scales::Plain(DType::BF16) => halves::enlarge::<S, bf16>(panels, out),
                    _ => halves::enlarge::<S, f16>(panels, out),
                }
            }
        }
    }
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// One row of a panel, to be unpacked.
struct UnpackRow<'a, T> {
    panels: &'a GroupPanels,
    panel: &'a [u8],
    lane: usize,
    out: &'a mut [T],
}

impl<T: Number<Wide = f32>> Kernel for UnpackRow<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let UnpackRow { panels, panel, lane, out } = self;
        let GroupForm { bits, group_size, zero, codebook, .. } = panels.form;
        let sub_bytes = SUB_QUANTS * bits / 8;
        let (mut scales, mut offsets) = ([0.0; PANEL * 16], [0.0; PANEL * 16]);
        for (block, out) in panels.blocks().zip(out.chunks_mut(BLOCK)) {
            let (header, packed) = panel[block.start..][..block.bytes].split_at(block.header);
            // SAFETY: a block has at most 16 groups.
            unsafe {
                panels.read_scales::<S>(block.groups, header.as_ptr(), scales.as_mut_ptr(), offsets.as_mut_ptr());
            }
            #[cfg(target_arch = "x86_64")]
            if panels.halves {
                halves::as_they_were(panel, &mut scales, &mut offsets);
            }
            for (sub, (packed, out)) in packed.chunks_exact(sub_bytes).zip(out.chunks_exact_mut(SUB_BLOCK)).enumerate()
            {
                for (i, out) in out.iter_mut().enumerate() {
                    let quant = quant_at(bits, packed, i / 4 * 4 * PANEL + lane * 4 + i % 4);
                    let value = codebook.map_or(quant, |codebook| codebook[usize::from(quant & 15)]);
                    let group = (sub * SUB_BLOCK + i) / group_size * PANEL + lane;
                    *out = T::narrow(scales[group] * (f32::from(value) - f32::from(zero)) + offsets[group]);
                }
            }
        }
    }
}

/// The inputs of [`ingle_tensor::Op::Dequantize`].
struct Source<'a> {
    quantization: Quantization,
    packed: &'a [u8],
    row_bytes: usize,
    /// Of [`Quantization::Affine`]: the bytes of scales and offsets, and their dtype.
    beside: Option<([&'a [u8]; 2], DType)>,
}

impl<'a> Source<'a> {
    fn new(inputs: &'a [CpuStorage], quantization: Quantization, k: usize) -> Self {
        let beside = match inputs {
            [_, scales, offsets] => Some(([scales.contiguous_bytes(), offsets.contiguous_bytes()], scales.dtype())),
            _ => None,
        };
        let packed = inputs.first().map(CpuStorage::contiguous_bytes).unwrap_or_default();
        let row_bytes = quantization.row_bytes(k).unwrap_or(0);
        Source { quantization, packed, row_bytes, beside }
    }

    fn scales(&self) -> Scales {
        match (self.quantization, self.beside) {
            (_, Some((_, dtype))) => Scales::Plain(dtype),
            (Quantization::Blocks(format), _) if format.block_len() == BLOCK => Scales::Super,
            _ => Scales::Plain(DType::F16),
        }
    }

    /// Bytes that `weights` of a row take.
    #[inline(always)]
    fn bytes(&self, weights: usize) -> usize {
        weights / self.quantization.block_len() * self.quantization.block_bytes()
    }

    /// The stored bytes of `len` weights of a row, from block `at` of the panel on.
    #[inline(always)]
    fn block(&self, row: usize, at: usize, len: usize) -> &[u8] {
        self.packed
            .get(row * self.row_bytes + self.bytes(at * BLOCK)..)
            .and_then(|rest| rest.get(..self.bytes(len)))
            .unwrap_or_default()
    }

    /// What is packed after block `at`, of `len` weights, of a row: that row's next block or, after the last, the first one
    /// of the row [`PANEL`] rows on, whose panel this thread is likely to pack next. How many bytes on it begins, and how
    /// many it has.
    fn next_block(&self, at: usize, len: usize, k: usize) -> (usize, usize) {
        let (start, end) = (at * BLOCK, at * BLOCK + len);
        if end < k {
            (self.bytes(len), self.bytes(BLOCK.min(k - end)))
        } else {
            (PANEL * self.row_bytes - self.bytes(start), self.bytes(BLOCK.min(k)))
        }
    }

    /// Writes the scales of one block of one row where `header` has them.
    #[inline(always)]
    fn write_scales(
        &self,
        panels: &GroupPanels,
        (row, lane): (usize, usize),
        (at, block): (usize, Block),
        header: &mut [u8],
    ) {
        match (self.quantization, self.beside) {
            (_, Some((stored, dtype))) => {
                let size = dtype.size();
                let first = row * panels.k / panels.form.group_size + at * BLOCK / panels.form.group_size;
                for (stored, header) in stored.iter().zip(header.chunks_exact_mut(block.groups * PANEL * size)) {
                    for group in 0..block.groups {
                        let from = &stored[(first + group) * size..][..size];
                        header[(group * PANEL + lane) * size..][..size].copy_from_slice(from);
                    }
                }
            }
            (Quantization::Blocks(format), None) => {
                let packed = self.block(row, at, block.len);
                if let Some(supers) = format.super_scales(packed) {
                    return write_super(panels, &supers, lane, header);
                }
                for (group, packed) in packed.chunks_exact(format.block_bytes()).enumerate() {
                    let numbers = format.plain_scales(packed).unwrap_or_default();
                    let parts = header.chunks_exact_mut(block.groups * PANEL * 2);
                    for (number, header) in numbers.chunks_exact(2).zip(parts) {
                        header[(group * PANEL + lane) * 2..][..2].copy_from_slice(number);
                    }
                }
            }
            (Quantization::Affine { .. }, None) => {}
        }
    }
}

fn write_super(panels: &GroupPanels, supers: &SuperScales, lane: usize, header: &mut [u8]) {
    let multipliers = PANEL * size_of::<f16>();
    header[lane * 2..][..2].copy_from_slice(&supers.scale.to_le_bytes());
    let mut rest = &mut header[multipliers..];
    if panels.form.offsets == Offsets::PerGroup {
        rest[lane * 2..][..2].copy_from_slice(&supers.min.to_le_bytes());
        rest = &mut rest[multipliers..];
    }
    let (scales, mins) = rest.split_at_mut(PANEL * panels.groups_of_block());
    for (group, scales) in scales.chunks_exact_mut(PANEL).enumerate() {
        scales[lane] = supers.scales[group] as u8;
    }
    for (pair, mins) in mins.chunks_exact_mut(2 * PANEL).enumerate() {
        mins[2 * lane..][..2].copy_from_slice(&supers.mins[2 * pair..][..2]);
    }
}

#[cfg(test)]
mod tests {
    use ingle_tensor::BlockFormat;

    use super::*;

    #[test]
    fn a_panel_takes_little_more_than_the_blocks_good() {
        for format in BlockFormat::ALL {
            let quantization = Quantization::Blocks(format);
            let scales = if format.block_len() == 256 { Scales::Super } else { Scales::Plain(DType::F16) };
            let panels = GroupPanels {
                form: quantization.form(),
                scales,
                k: 512,
                #[cfg(target_arch = "x86_64")]
                halves: false,
            };
            let stored = PANEL * 512 / format.block_len() * format.block_bytes();
            // Scales of four bits become whole bytes, of which Q2_K has the most.
            let most = if format == BlockFormat::Q2K { stored * 120 / 100 } else { stored * 104 / 100 };
            assert!((stored..=most).contains(&panels.panel_bytes()), "{format:?}");
        }
    }
}
