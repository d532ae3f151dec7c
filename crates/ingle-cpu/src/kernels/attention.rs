// SPDX-License-Identifier: EUPL-1.2
//! Attention over a paged cache, read where it lies.
//!
//! A token's positions are cut into chunks of [`CHUNK`] at absolute multiples of it. Within a chunk the weights
//! are taken against the chunk's own largest score; chunks are then merged in order, each rescaled to the
//! largest score so far (Milakov & Gimelshein 2018). So a token's result depends on its own position and window
//! alone: not on the tokens computed beside it, on how a prompt was cut, or on which thread took which chunk.
//!
//! The tokens of a tile stand next to each other in one sequence and share the loads of keys and values. A tile
//! of a few rows is bound by memory: a unit of its work is a chunk, of all heads if there are chunks enough for the
//! threads, so that the cache is read as it lies ([`few`]). A tile of many rows is bound by arithmetic: a unit is a
//! head ([`many`]). Both sum in the same order. Where the machine multiplies whole tiles of bf16, both do.

mod dots;
mod few;
mod gather;
pub(crate) mod grad;
mod many;
mod rounding;
mod softmax;
mod tile;
#[cfg(target_arch = "x86_64")]
mod tiled;
mod unit;
mod weigh;

use std::sync::{Mutex, PoisonError};

use half::{bf16, f16};
use ingle_tensor::{DType, PagedAttention, Result, Spec};

use self::gather::Cache;
use self::rounding::Rounding;
use self::softmax::Extent;
use self::tile::{Table, Tile, tiles};
use self::unit::{Attention, Room, Target, Unit};
use super::rows::packed;
use super::{Context, Pointer, contiguous, contiguous_f32, elements_mut, in_dtype};
use crate::memory::Contents;
#[cfg(target_arch = "x86_64")]
use crate::simd::Isa;
use crate::simd::{Multiplier, Source, Widened};
use crate::storage::CpuStorage;

const OP: &str = "paged_attention";

/// Positions in a chunk.
const CHUNK: usize = 256;

/// The most rows (tokens times the heads that share a key) in a tile, if a token has not more alone.
const MOST_ROWS: usize = 192;

/// As [`MOST_ROWS`], of products of whole tiles: they are so fast that what rows share, keys and values laid out anew,
/// counts for more.
#[cfg(target_arch = "x86_64")]
const TILED_MOST_ROWS: usize = 384;

/// Up to this number of rows a tile has few.
const FEW_ROWS: usize = 8;

/// What one position costs a row, beside its width, in simple steps.
const COST: usize = 8;

/// Factors that a head is rounded up to: whole vectors on every instruction set.
const WHOLE: usize = 32;

/// Factors of a head of `width` features.
fn padded(width: usize) -> usize {
    width.next_multiple_of(WHOLE)
}

/// [`ingle_tensor::Op::PagedAttention`].
pub(crate) fn paged_attention(
    cx: &Context,
    inputs: [CpuStorage; 6],
    parameters: &PagedAttention,
    output: &Spec,
) -> Result<CpuStorage> {
    let [q, keys, values, blocks, sequences, positions] = inputs;
    let q = contiguous_f32(cx, q)?;
    let (keys, values) = (contiguous(cx, keys)?, contiguous(cx, values)?);
    let blocks = contiguous(cx, blocks)?;
    let (sequences, positions) = (contiguous(cx, sequences)?, contiguous(cx, positions)?);
    let table = Table {
        op: OP,
        blocks: packed(&blocks),
        sequences: blocks.layout().shape()[0],
        width: blocks.layout().shape()[1],
        slots: keys.layout().shape()[0],
        block_size: parameters.block_size,
    };
    let kv_heads = keys.layout().shape()[1];
    let group = output.shape[1] / kv_heads;
    let most_rows = match (cx.isa, keys.dtype()) {
        #[cfg(target_arch = "x86_64")]
        (Isa::Amx, DType::BF16) => TILED_MOST_ROWS,
        _ => MOST_ROWS,
    };
    // Large tiles share more, as long as every thread gets some.
    let shared = most_rows / group.max(1);
    let spread = (output.shape[0] * kv_heads).div_ceil(4 * cx.pool.threads());
    let tiles = tiles(&table, parameters, (packed(&sequences), packed(&positions)), shared.min(spread).max(1))?;
    // Of no heads, or of heads of no features, there is nothing to compute.
    if output.shape.elements() == 0 {
        return in_dtype(cx, OP, output, |_| Ok(()));
    }
    let work = Work { cx, parameters, table, tiles, tiled: false, q: packed(&q), keys: &keys, values: &values, output };
    match keys.dtype() {
        DType::F32 => work.run(Multiplier::<Widened<f32>>::widened(cx.isa)),
        DType::F16 => work.run(Multiplier::<Widened<f16>>::widened(cx.isa)),
        DType::I8 => work.run(Multiplier::quantised(cx.isa)),
        _ => {
            #[cfg(target_arch = "x86_64")]
            if let Some(multiplier) = Multiplier::pairs(cx.isa) {
                return Work { tiled: cx.isa == Isa::Amx, ..work }.run(multiplier);
            }
            work.run(Multiplier::<Widened<bf16>>::widened(cx.isa))
        }
    }
}

/// The operation, its indices checked.
struct Work<'a> {
    cx: &'a Context,
    parameters: &'a PagedAttention,
    table: Table<'a>,
    tiles: Vec<Tile>,
    /// Whether products are those of whole tiles.
    tiled: bool,
    q: &'a [f32],
    keys: &'a CpuStorage,
    values: &'a CpuStorage,
    output: &'a Spec,
}

impl Work<'_> {
    fn run<F: Source<Factor: Rounding>>(&self, multiplier: Multiplier<F>) -> Result<CpuStorage> {
        let &Work { cx, parameters, table, ref tiles, q, .. } = self;
        let [kv_heads, row] = [self.keys.layout().shape()[1], self.keys.layout().shape()[2]];
        let width = row - F::BESIDE;
        let cache = |storage| Cache { elements: packed(storage), kv_heads, width, row };
        let attention = Attention {
            table,
            q,
            keys: cache(self.keys),
            values: cache(self.values),
            group: self.output.shape[1] / kv_heads,
            scale: parameters.scale,
            soft_cap: parameters.soft_cap,
            multiplier,
            tiled: self.tiled,
        };
        in_dtype(cx, OP, self.output, |out| attention.run(cx, tiles, Pointer(out.as_mut_ptr())))
    }
}

/// Units per thread at least, if the work can be cut so: the last ones even out what others took longer.
const UNITS: usize = 8;

/// As [`UNITS`], of a few rows by tiles, which read the better the more heads lie beside each other.
const TILED_UNITS: usize = 2;

impl<F: Source<Factor: Rounding>> Attention<'_, F> {
    /// Whether it is worth reading the cache where it lies, which takes heads of whole vectors.
    fn is_few(&self, tile: &Tile) -> bool {
        tile.tokens * self.group <= FEW_ROWS && self.keys.width == padded(self.keys.width)
    }

    /// What a unit with so many rows works in.
    fn room(&self, is_few: bool, rows: usize, heads: usize) -> Room {
        let width = padded(self.keys.width);
        match (is_few, self.tiled) {
            #[cfg(target_arch = "x86_64")]
            (true, true) => Room::few_by_tiles(rows, heads, width),
            #[cfg(target_arch = "x86_64")]
            (false, true) => Room::many_by_tiles(rows, width),
            (true, _) => Room::few(rows, heads, width),
            (false, _) => Room::many(rows, width),
        }
    }

    fn compute(&self, cx: &Context, (tile, unit): (&Tile, &Unit), room: &mut [u8], target: Target<'_>) {
        match (self.is_few(tile), self.tiled) {
            #[cfg(target_arch = "x86_64")]
            (true, true) => self.few_by_tiles(cx, (tile, unit), room, target),
            #[cfg(target_arch = "x86_64")]
            (false, true) => self.many_by_tiles(cx, (tile, unit), room, target),
            (true, _) => self.few(cx, (tile, unit), room, target),
            (false, _) => self.many(cx, (tile, unit), room, target),
        }
    }

    /// Cuts the tiles into units: those of one tile and the same heads stand together, in order of their chunks.
    fn units(&self, cx: &Context, tiles: &[Tile]) -> Vec<Unit> {
        let kv_heads = self.keys.kv_heads;
        let wanted = if self.tiled { TILED_UNITS } else { UNITS } * cx.pool.threads();
        let chunks: usize = tiles.iter().map(|tile| tile.chunks().len()).sum();
        let mut units = Vec::new();
        for (index, tile) in tiles.iter().enumerate() {
            if self.is_few(tile) {
                // Fewer heads to a unit where there are too few chunks.
                let parts = wanted.div_ceil(chunks.max(1)).clamp(1, kv_heads);
                let heads = kv_heads.div_ceil(parts);
                for first in (0..kv_heads).step_by(heads) {
                    let heads = first..(first + heads).min(kv_heads);
                    units.extend(tile.chunks().map(|c| Unit { tile: index, heads: heads.clone(), chunks: c..c + 1 }));
                }
                continue;
            }
            for head in 0..kv_heads {
                let unit = |chunks| Unit { tile: index, heads: head..head + 1, chunks };
                if tiles.len() * kv_heads < 2 * cx.pool.threads() {
                    units.extend(tile.chunks().map(|c| unit(c..c + 1)));
                } else {
                    units.push(unit(tile.chunks()));
                }
            }
        }
        units
    }

    fn run(&self, cx: &Context, tiles: &[Tile], out: Pointer<f32>) -> Result<()> {
        let width = padded(self.keys.width);
        let units = self.units(cx, tiles);
        let rows = |unit: &Unit| tiles[unit.tile].tokens * self.group * unit.heads.len();
        let complete = |unit: &Unit| unit.chunks == tiles[unit.tile].chunks();
        // Where the results of each unit that is to be merged with others begin among those of all.
        let mut total = 0;
        let stored = |unit: &Unit| if complete(unit) { 0 } else { rows(unit) };
        let firsts: Vec<usize> = units.iter().map(|unit| (total, total += stored(unit)).0).collect();
        let mut extents = cx.buffer::<f32>(total * size_of::<Extent>() / size_of::<f32>(), Contents::Anything)?;
        let mut values = cx.buffer::<f32>(total * width, Contents::Anything)?;
        let extents = Pointer(bytemuck::cast_slice_mut::<f32, Extent>(elements_mut(&mut extents)).as_mut_ptr());
        let values = Pointer(elements_mut::<f32>(&mut values).as_mut_ptr());
        let result = |unit: usize| {
            let (first, rows) = (firsts[unit], stored(&units[unit]));
            // SAFETY: the rows of different units do not overlap, and nobody asks for a unit's while another has them.
            unsafe {
                unit::Result {
                    extents: std::slice::from_raw_parts_mut(extents.get().add(first), rows),
                    values: std::slice::from_raw_parts_mut(values.get().add(first * width), rows * width),
                }
            }
        };

        let room = units.iter().fold(Room::default(), |room, unit| {
            let few = self.is_few(&tiles[unit.tile]);
            room.or(self.room(few, rows(unit), unit.heads.len()))
        });
        let rooms: Vec<_> = (0..cx.pool.threads().min(units.len()))
            .map(|_| cx.buffer::<u8>(room.bytes::<F::Factor>(), Contents::Anything))
            .collect::<Result<_>>()?;
        let rooms = Mutex::new(rooms);
        let positions: usize = tiles.iter().map(|tile| tile.tokens * tile.all().len()).sum();
        let cost = positions * self.group * self.keys.kv_heads * (width + COST);
        cx.parallel(OP, (units.len(), cost), |index| {
            // The last tiles of a prompt see most: they go first, so that the threads end together.
            let index = units.len() - 1 - index;
            let unit = &units[index];
            let tile = &tiles[unit.tile];
            let Some(mut room) = rooms.lock().unwrap_or_else(PoisonError::into_inner).pop() else { return };
            let bytes = elements_mut::<u8>(&mut room);
            let target = if complete(unit) { Target::Final(out) } else { Target::Stored(result(index)) };
            self.compute(cx, (tile, unit), bytes, target);
            rooms.lock().unwrap_or_else(PoisonError::into_inner).push(room);
        })?;

        let same = |a: &(usize, &Unit), b: &(usize, &Unit)| a.1.tile == b.1.tile && a.1.heads == b.1.heads;
        let numbered: Vec<(usize, &Unit)> = units.iter().enumerate().filter(|(_, unit)| !complete(unit)).collect();
        let groups: Vec<&[(usize, &Unit)]> = numbered.chunk_by(same).collect();
        cx.parallel(OP, (groups.len(), total * width), |group| {
            let [(first, unit), others @ ..] = groups[group] else { return };
            let tile = &tiles[unit.tile];
            let mut total = result(*first);
            for (index, other) in others {
                self.merge(cx, (tile, unit, other.chunks.start), 0, &result(*index), &mut total);
            }
            self.finish(cx, tile, unit.heads.clone(), &total, out);
        })
    }
}
